"""What gradient checkpointing costs in FLOPs: one more forward, of three that a step without it takes; counted, not timed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models
from bench.experiments.scale import Scale
from bench.flops import flops
from bench.loop import loss_of
from bench.model import LanguageModel
from bench.spec import Named, Spec

KINDS = ("none", "sqrt", "every")


def experiment(scale: Scale) -> Experiment:
    """A row a depth: counts depend on nothing else."""
    case = scale.cases[0]
    parts = []
    for depth in scale.recompute_depths:
        model = scale.model(scale.tied_label)
        settings = {**model.settings, "depth": depth}
        specs = tuple(
            scale.spec(case, f"tied {depth}, {kind}", 0, Named(name=model.name, settings={**settings, "checkpointing": kind}))
            for kind in KINDS
        )
        parts.append(
            Part(
                subject={"task": case.label, "depth": depth, "seed": 0},
                follow=follow,
                arguments=(specs,),
                specs=specs,
                trains=False,
            )
        )
    return Experiment(
        name="recompute",
        measured="FLOPs of forward and backward of a weight-tied network on one training batch, by gradient checkpointing, and "
        "their ratios to the same without it; `forward`: of a forward alone. `core`: without embedding and softmax.",
        units={"forward": "FLOP", "step": "FLOP", "ratio": "1"},
        settings={"batch": scale.batch, "width": scale.width},
        parts=tuple(parts),
    )


def follow(models: Models, specs: tuple[Spec, ...]) -> dict[str, Any]:
    """The counts by kind of checkpointing, of the whole model and of its core."""
    spec = specs[0]
    inputs, targets = models.sequences(spec.task, "train", spec.train.batch)
    found: dict[str, Any] = {"model": {}, "core": {}}
    for kind, one in zip(KINDS, specs, strict=True):
        model = models.fresh(one).train()
        found["model"][kind] = _counted(partial(_loss, model, inputs, targets))
        x = model.embed(inputs).detach().requires_grad_()
        found["core"][kind] = _counted(partial(_output, model, x))
    for counts in found.values():
        plain = counts["none"]["step"]
        for count in counts.values():
            count["ratio"] = None if None in (plain, count["step"]) else count["step"] / plain
    return found


def _loss(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
    return loss_of(model, inputs, targets).total


def _output(model: LanguageModel, x: Tensor) -> Tensor:
    total: Tensor = model.core(x).y.sum()
    return total


def _counted(forward: Callable[[], Tensor]) -> dict[str, Any]:
    with torch.no_grad():
        once = flops(forward)
    step = flops(lambda: forward().backward())
    return {"forward": once.total, "step": step.total, "why": step.why or once.why}
