"""Whether a training step can be followed on fake tensors, and whether a DEQ's memory stays the same however long it solves."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace

import torch

from bench.check.differences import drawn
from bench.check.finding import Check, Outcome, raised, told
from bench.memory import laws
from bench.memory.ledger import Waterfall
from bench.memory.step import Shape, measured, predicted
from bench.probes import saved_bytes
from bench.spec import Named
from deq import DEQ, Core, Stop, Unroll

_SHAPE = Shape(batch=2, length=16, vocabulary=11, ends=False)
_NAMELESS = Outcome("skip", "", "it has no name that a suite could give it")


class Followed(ABC):
    """What a check of memory is given: the model by the name that a suite gives it, and the module with the DEQs in it."""

    named: Named | None
    inputs: int

    @abstractmethod
    def equilibrium(self) -> Core:
        """The model itself; of a cell, the DEQ over it."""


def follow(model: Named, shape: Shape) -> tuple[Waterfall, str]:
    """The step's bytes, and why they could not be had on fake tensors ("" where they could)."""
    try:
        return predicted(model, shape), ""
    except Exception as error:  # a user's model, or torch's fake tensors, may fail in any way
        reason = raised(error).removeprefix("UserError: memory: ")
    return measured(model, shape), reason


def followed(subject: Followed) -> Outcome:
    """A step of two samples, on fake tensors."""
    if subject.named is None:
        return _NAMELESS
    waterfall, reason = follow(subject.named, replace(_SHAPE, steps=2, backward_steps=2))
    if reason:
        return Outcome("warn", "not without values", f"`bench memory` cannot take it: {reason}")
    return told(True, f"{len(waterfall.operators)} kinds of operators")


def constant(subject: Followed) -> Outcome:
    """Bytes of a training step and bytes saved for backward, at three numbers of solver steps."""
    layers = [part for part in subject.equilibrium().modules() if isinstance(part, DEQ)]
    if subject.named is None:
        return _NAMELESS
    if not layers:
        held_to = (
            f"`bench memory --also '{subject.named.name} width=…' --constant-in SETTING` holds it to memory constant in a setting"
        )
        return Outcome("skip", "", f"there is no DEQ in it; {held_to}")
    if any(isinstance(layer.adjoint, Unroll) for layer in layers):
        return Outcome("skip", "", "Unroll stores every step, by design")
    steps = _steps(layers)
    held = [_peak(subject.named, number) for number in steps]
    saved = [_saved(subject, number) for number in steps]
    good = all(
        laws.judged({"axis": "depth", "flat": True, "root": False, "points": _points(steps, amounts)}) == "pass"
        for amounts in (held, saved)
    )
    at = f"at {', '.join(map(str, steps))} solver steps"
    return told(good, f"{_ends(held)} in a step, {_ends(saved)} saved for backward, {at}")


def _steps(layers: Iterable[DEQ]) -> tuple[int, ...]:
    """From the solvers' windows on, in which a solver's own storage has stopped growing."""
    solvers = [solver for layer in layers for solver in (layer.solver, getattr(layer.adjoint, "solver", None))]
    least = max([2, *(window for solver in solvers if isinstance(window := getattr(solver, "window", 0), int))])
    return tuple(least * factor for factor in (1, 2, 4))


def _peak(model: Named, steps: int) -> int:
    waterfall, _ = follow(model, replace(_SHAPE, steps=steps, backward_steps=steps))
    return waterfall.counted(laws._HELD)


def _saved(subject: Followed, steps: int) -> int:
    torch.manual_seed(0)
    core = subject.equilibrium().train()
    for part in core.modules():
        if isinstance(part, DEQ):
            part.stop = Stop(rtol=None, max_steps=steps)
    x = drawn(_SHAPE.batch, _SHAPE.length, subject.inputs, seed=0, dtype=torch.float32)
    return saved_bytes(lambda: core(x).y.sum(), [*core.parameters(), *core.buffers(), x])


def _points(steps: Iterable[int], amounts: Iterable[int]) -> list[dict[str, int]]:
    return [{"depth": depth, "bytes": amount} for depth, amount in zip(steps, amounts, strict=True)]


def _ends(amounts: list[int]) -> str:
    low, high = amounts[0] / 1024, amounts[-1] / 1024
    return f"{low:.1f} KiB" if low == high else f"{low:.1f} to {high:.1f} KiB"


FOLLOWED: Check[Followed] = Check(
    name="fake tensors",
    expected="a training step can be followed without values",
    cause="The step fails even on real tensors of this size: two sequences of 16 tokens, float32.",
    run=followed,
    needs=("finite",),
)
CONSTANT: Check[Followed] = Check(
    name="memory",
    expected="the same bytes however many solver steps",
    cause="Something keeps the activations of every evaluation: a list in the map's closure or on self, a hook, or the graph of "
    "the solve. Keep nothing but what bind computes once; leave the loop to deq.solve, which runs it without a graph.",
    run=constant,
    needs=("finite",),
)
