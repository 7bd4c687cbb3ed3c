"""Compute a run's Identity from its spec, its task and the environment where it runs."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from baselines import Unrolled
from bench.records.identity import Identity, numeric_environment, versions_and_code
from bench.records.source_code import loads
from bench.records.spec import ComponentConfig, RunSpec
from bench.tasks.task import Task
from bench.training.construct import resolve
from bench.training.language_model import build_without_storage
from bench.training.registry import MODELS, TASKS
from bench.training.trainer import Trainer


def compute_identity(spec: RunSpec, task: Task, environment: Mapping[str, Any]) -> Identity:
    """Compute what the run's numbers depend on besides its spec; builds the model without storage to find its classes."""
    configs = (spec.model.model_dump_json(), spec.task.model_dump_json())
    pretrained = spec.recipe is not None and spec.recipe.pretrain_steps > 0
    numerics, code = _made_of(*configs, pretrained, _CacheNeutral(task), loads())
    return Identity(data=task.fingerprint(), numerics=numerics, code=code, environment=numeric_environment(environment))


class _CacheNeutral:
    """A task as an argument of a cached function, equal to every other: its config is in the key already."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CacheNeutral)


@cache
def _made_of(
    model_json: str, task_json: str, pretrained: bool, neutral: _CacheNeutral, _loads: int
) -> tuple[dict[str, int], dict[str, str]]:
    model, task = ComponentConfig.model_validate_json(model_json), ComponentConfig.model_validate_json(task_json)
    makers = [resolve("model", MODELS, model.name), resolve("task", TASKS, task.name)]
    built = None
    with suppress(Exception):  # the run will fail with the reason
        built = build_without_storage(model, neutral.task.vocabulary)
    numerics, code = versions_and_code(makers, [built, neutral.task])
    numerics |= {Trainer.__name__: Trainer.numerics}
    if pretrained:  # a recipe trains the cell unrolled first
        numerics |= {Unrolled.__name__: Unrolled.numerics}
    return numerics, code
