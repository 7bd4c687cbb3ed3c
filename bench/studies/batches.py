"""Whether a sequence's result depends on the batch it is solved in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.spec import RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, bind
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import LanguageModel
from deq import Anderson, Stop, solve

Answers = tuple[Tensor, Tensor, Tensor]  # losses (S,), logits (S, T, V), steps (S,)


def study(config: Config) -> Study:
    """One row per task and seed."""
    arguments = (config.alone, config.batches, Stop(rtol=config.rtol, max_steps=config.cap))
    sizes = {"alone": config.alone, "batches": list(config.batches)}
    return Study(
        name="batch",
        measure=measure,
        units={"loss": "nats", "logits": "nats", "steps": "evaluations", "other_steps": "fraction"},
        settings={"rtol": config.rtol, "cap": config.cap, **sizes, "solver": "anderson"},
        rows=tuple(PlannedRow(subject, (spec,), arguments) for _, subject, spec in config.deqs()),
    )


def measure(models: Models, spec: RunSpec, alone: int, batches: tuple[int, ...], stop: Stop) -> Values:
    """The first test sequences solved alone and in batches, stopped sample by sample: the largest difference of a sequence's loss,
    of a logit and of the evaluations its solve took, and the share whose evaluations differ."""
    inputs, targets = models.sequences(spec.task, "test", max(alone, *batches))
    alone = min(alone, len(inputs))
    found: Values = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = models.trained(spec).to(dtype)
        single = answers_in_batches(model, inputs[:alone], targets[:alone], 1, stop)
        found[name] = []
        for size in batches:
            whole = -(-alone // size) * size  # the last batch is filled up
            batched = answers_in_batches(model, inputs[:whole], targets[:whole], size, stop)
            found[name].append({"batch": size, **_difference(single, batched)})
    return found


@torch.no_grad()
def answers_in_batches(model: LanguageModel, inputs: Tensor, targets: Tensor, size: int, stop: Stop) -> Answers:
    """Losses, logits and evaluations of every sequence, solved in batches of that size."""
    parts = []
    for batch, wanted in zip(inputs.split(size), targets.split(size), strict=True):
        cell, f, z0 = bind(model, batch)
        solution = solve(f, z0, Anderson(), stop)
        logits = model.logits(cell.features(f(solution.z))).double()
        losses = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(1)
        parts.append((losses, logits, solution.steps))
    losses, logits, steps = (torch.cat(column) for column in zip(*parts, strict=True))
    return losses, logits, steps


def _difference(single: Answers, batched: Answers) -> Values:
    loss, logits, steps = ((one - many[: len(one)]).abs() for one, many in zip(single, batched, strict=True))
    return {
        "loss": number(loss.max()),
        "logits": number(logits.max()),
        "steps": int(steps.max()),
        "other_steps": number((steps > 0).double().mean()),
    }
