"""Whether a training step runs on fake tensors, and whether a DEQ's memory is independent of its number of solver steps."""

from dataclasses import replace

import torch

from bench.analysis.statistics import growth
from bench.conformance.compare import random_tensor
from bench.conformance.result import Result, check, describe_error, judge
from bench.conformance.subject import SOLVED, Subject
from bench.instruments.probes import saved_bytes
from bench.memory.scaling import FLAT, STATE
from bench.memory.step import Shape, measured, predicted
from bench.memory.storage_tracker import Waterfall
from bench.records.spec import ComponentConfig
from deq import DEQ, Cell, Core, Implicit, Picard, Stop, Unroll

_SHAPE = Shape(batch=2, length=16, vocabulary=11, ends=False)
_UNNAMED = Result("skip", "", "no suite can name it")


def _track(model: ComponentConfig, steps: int) -> tuple[Waterfall, str]:
    """The bytes of a training step whose solves take `steps`, and why fake tensors could not give them ("" where they did)."""
    shape = replace(_SHAPE, steps=steps, backward_steps=steps)
    try:
        return predicted(model, shape), ""
    except Exception as error:  # a user's model, or torch's fake tensors, may fail in any way
        return measured(model, shape), describe_error(error).removeprefix("UserError: memory: ")


@check("finite")
def fake_tensors(subject: Subject) -> Result:
    """A training step runs on fake tensors.

    The step fails on real tensors too: two sequences of 16 tokens, float32.
    """
    if subject.named is None:
        return _UNNAMED
    waterfall, reason = _track(subject.named, 2)
    if reason:
        return Result("warn", "not without values", f"`bench memory` does not support it: {reason}")
    return judge(True, f"{len(waterfall.operators)} kinds of operators")


@check("finite")
def memory(subject: Subject) -> Result:
    """Memory does not grow with solver steps.

    Keep only what bind computes once: a list in the map's closure, a hook or the graph of the solve keeps every evaluation.
    """
    if subject.named is None:
        return _UNNAMED
    layers = [part for part in _core(subject).modules() if isinstance(part, DEQ)]
    if not layers:
        command = f"bench memory --also '{subject.named.name} width=…' --constant-in SETTING"
        return Result("skip", "", f"it contains no DEQ; `{command}` tests whether memory is constant in a setting")
    if any(isinstance(layer.adjoint, Unroll) for layer in layers):
        return Result("skip", "", "Unroll stores every step, by design")
    solvers = [solver for layer in layers for solver in (layer.solver, getattr(layer.adjoint, "solver", None))]
    windows = [window for solver in solvers if isinstance(window := getattr(solver, "window", 0), int)]
    steps = [factor * max(2, *windows) for factor in (1, 2, 4)]  # a solver's history is constant once its window is full
    peak = [_track(subject.named, number)[0].counted(STATE) for number in steps]
    saved = [_saved(subject, number) for number in steps]
    good = all(growth(steps, amounts).verdict in FLAT for amounts in (peak, saved))
    at = f"at {', '.join(map(str, steps))} solver steps"
    return judge(good, f"{_kibibytes(peak)} in a step, {_kibibytes(saved)} saved for backward, {at}")


def _core(subject: Subject) -> Core:
    """The model itself; for a cell, a DEQ of it."""
    made = subject.make()
    if isinstance(made, Cell):
        return DEQ(made, solver=Picard(), stop=SOLVED, adjoint=Implicit(solver=Picard(), stop=SOLVED))
    return made


def _saved(subject: Subject, steps: int) -> int:
    torch.manual_seed(0)
    core = _core(subject).train()
    for part in core.modules():
        if isinstance(part, DEQ):
            part.stop = Stop(rtol=None, max_steps=steps)
    x = random_tensor(_SHAPE.batch, _SHAPE.length, subject.inputs, seed=0, dtype=torch.float32)
    return saved_bytes(lambda: core(x).y.sum(), [*core.parameters(), *core.buffers(), x])


def _kibibytes(amounts: list[int]) -> str:
    low, high = amounts[0] / 1024, amounts[-1] / 1024
    return f"{low:.1f} KiB" if low == high else f"{low:.1f} to {high:.1f} KiB"
