"""Whether a sequence's answer depends on the batch it is in: alone, and among others, in both precisions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, cell_of, number
from bench.experiments.scale import DEQ_LABEL, Scale
from bench.model import LanguageModel
from bench.spec import Spec
from deq import Anderson, Stop, solve

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
Answers = tuple[Tensor, Tensor, Tensor]  # losses (S,), logits (S, T, V), steps (S,)


def experiment(scale: Scale) -> Experiment:
    """A row a task and seed."""
    stop = Stop(rtol=scale.rtol, max_steps=scale.cap)
    parts = tuple(
        Part(
            subject={"task": case.label, "seed": seed},
            follow=follow,
            arguments=(spec, scale.alone, scale.batches, stop),
            specs=(spec,),
        )
        for case in scale.cases
        for seed in scale.seeds
        for spec in [scale.spec(case, DEQ_LABEL, seed)]
    )
    return Experiment(
        name="batch",
        measured="The first test sequences solved alone and in batches of the first sequences (stopped sample by sample): the "
        "largest difference of a sequence's loss, of a logit and of the evaluations its solve took, and the share whose "
        "evaluations differ.",
        units={"loss": "nats", "logits": "nats", "steps": "evaluations", "other_steps": "fraction"},
        settings={"rtol": scale.rtol, "cap": scale.cap, "alone": scale.alone, "batches": list(scale.batches), "solver": "anderson"},
        parts=parts,
    )


def follow(models: Models, spec: Spec, alone: int, batches: tuple[int, ...], stop: Stop) -> dict[str, Any]:
    """The differences by dtype and batch size."""
    inputs, targets = models.sequences(spec.task, "test", max(alone, *batches))
    found: dict[str, Any] = {}
    for name, dtype in _DTYPES.items():
        model = models.trained(spec).to(dtype)
        single = _joined([answers(model, inputs[i : i + 1], targets[i : i + 1], stop) for i in range(min(alone, len(inputs)))])
        rows = []
        for size in batches:
            parts = [
                answers(model, inputs[start : start + size], targets[start : start + size], stop)
                for start in range(0, len(single[0]), size)
            ]
            rows.append({"batch": size, **_apart(single, _joined(parts))})
        found[name] = rows
    return found


@torch.no_grad()
def answers(model: LanguageModel, inputs: Tensor, targets: Tensor, stop: Stop) -> Answers:
    """Losses, logits and evaluations of every sequence of one batch."""
    x, cell = model.embed(inputs), cell_of(model)
    f = cell.bind(x)
    solution = solve(f, cell.start(x), Anderson(), stop)
    logits = model.logits(cell.features(f(solution.z)))
    losses = F.cross_entropy(logits.double().transpose(1, 2), targets, reduction="none").mean(1)
    return losses, logits.double(), solution.steps


def _joined(parts: list[Answers]) -> Answers:
    losses, logits, steps = (torch.cat(column) for column in zip(*parts, strict=True))
    return losses, logits, steps


def _apart(single: Answers, batched: Answers) -> dict[str, Any]:
    count = len(single[0])
    loss, logits, steps = ((one - many[:count]).abs() for one, many in zip(single, batched, strict=True))
    return {
        "loss": number(loss.max()),
        "logits": number(logits.max()),
        "steps": int(steps.max()),
        "other_steps": number((steps > 0).double().mean()),
    }
