"""FLOPs of gradient checkpointing."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.instruments.flops import flops
from bench.records.spec import ComponentConfig
from bench.studies.config import Config
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values
from bench.training.language_model import build_model
from bench.training.trainer import loss_of


def study(config: Config) -> Study:
    """One row per depth: counts depend on nothing else."""
    case, tied, rows = config.cases[0], config.model(config.tied_label), []
    for depth in config.recompute_depths:
        kinds = {
            kind: ComponentConfig(name=tied.name, settings={**tied.settings, "depth": depth, "checkpointing": kind})
            for kind in ("none", "sqrt", "every")
        }
        rows.append(PlannedRow({"task": case.label, "depth": depth, "seed": 0}, (), (case.task, config.batch, kinds)))
    return Study(
        name="recompute",
        measure=measure,
        units={"forward": "FLOP", "step": "FLOP", "ratio": "1"},
        settings={"batch": config.batch, "width": config.width},
        rows=tuple(rows),
    )


def measure(models: Models, task: ComponentConfig, batch: int, kinds: dict[str, ComponentConfig]) -> Values:
    """FLOPs of forward and backward of a weight-tied network on one training batch, by gradient checkpointing, and their ratios to
    those without it; `forward`: of a forward alone. `core`: without embedding and softmax."""
    inputs, targets = models.sequences(task, "train", batch)
    found: Values = {"model": {}, "core": {}}
    for kind, named in kinds.items():
        model = build_model(named, models.task(task).vocabulary).train()
        x = model.embed(inputs).detach().requires_grad_()
        found["model"][kind] = _flops(lambda model=model: loss_of(model, inputs, targets).total)  # type: ignore[misc]
        found["core"][kind] = _flops(lambda model=model, x=x: model.core(x).y.sum())  # type: ignore[misc]
    for counts in found.values():
        plain = counts["none"]["step"]
        for count in counts.values():
            count["ratio"] = None if None in (plain, count["step"]) else count["step"] / plain
    return found


def _flops(forward: Callable[[], Tensor]) -> Values:
    with torch.no_grad():
        once = flops(forward)
    step = flops(lambda: forward().backward())
    return {"forward": once.total, "step": step.total, "reason": step.reason or once.reason}
