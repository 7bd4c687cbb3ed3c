"""The Identity of a run, from its spec, its task, the code that is here and the environment where it runs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from baselines import Unrolled
from bench.catalog import MODELS, TASKS, resolve
from bench.identity import Identity, code_of, decisive
from bench.model import build_model
from bench.sources import loads
from bench.spec import Named, Spec
from bench.tasks.task import Task


def identify(spec: Spec, task: Task, environment: Mapping[str, Any]) -> Identity:
    """What the run's numbers would come from; builds the model without storage to see what it is made of."""
    named = (spec.model.model_dump_json(), spec.task.model_dump_json())
    shallow = spec.recipe is not None and spec.recipe.pretrain_steps > 0
    return Identity(data=task.fingerprint(), code=_code(*named, shallow, _Held(task), loads()), environment=decisive(environment))


class _Held:
    """A task as part of a cache's key, which its settings are enough for."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)


@cache
def _code(model_json: str, task_json: str, shallow: bool, held: _Held, _loads: int) -> dict[str, str]:
    model, task = Named.model_validate_json(model_json), Named.model_validate_json(task_json)
    makers = [resolve("model", MODELS, model.name), resolve("task", TASKS, task.name)]
    if shallow:
        makers.append(Unrolled)  # which a recipe trains first
    return code_of(makers, [_built(model, held.task.vocabulary), held.task])


def _built(model: Named, vocabulary: int) -> object:
    try:
        with torch.device("meta"):
            return build_model(model, vocabulary)
    except Exception:  # it looks at its numbers while it is built, or cannot be built at all
        try:
            return build_model(model, vocabulary)
        except Exception:
            return None
