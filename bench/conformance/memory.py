"""Whether a training step runs on fake tensors, and whether a DEQ's memory is independent of its number of solver steps."""

from dataclasses import replace

from bench.analysis.statistics import growth
from bench.conformance.result import Result, check, describe_error, require
from bench.conformance.subject import Subject
from bench.memory.scaling import FLAT, STATE
from bench.memory.step import Shape, measured, predicted
from bench.memory.storage_tracker import Waterfall
from bench.records.spec import ComponentConfig
from deq import DEQ, Cell, Unroll

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
def fake_tensors(subject: Subject) -> str | Result:
    """A training step runs on fake tensors.

    The step fails on real tensors too: two sequences of 16 tokens, float32.
    """
    if subject.named is None:
        return _UNNAMED
    waterfall, reason = _track(subject.named, 2)
    if reason:
        return Result("warn", "not without values", f"`bench memory` does not support it: {reason}")
    return f"{len(waterfall.operators)} kinds of operators"


@check("finite")
def memory(subject: Subject) -> str | Result:
    """Memory does not grow with solver steps.

    Keep only what bind computes once: a list in the map's closure, a hook or the graph of the solve keeps every evaluation.
    """
    if subject.named is None:
        return _UNNAMED
    made = subject.make()
    layers = [part for part in made.modules() if isinstance(part, DEQ)]
    if not layers and not isinstance(made, Cell):
        command = f"bench memory --also '{subject.named.name} width=…' --constant-in SETTING"
        return Result("skip", "", f"it contains no DEQ; `{command}` tests whether memory is constant in a setting")
    if any(isinstance(layer.adjoint, Unroll) for layer in layers):
        return Result("skip", "", "Unroll stores every step, by design")
    solvers = [solver for layer in layers for solver in (layer.solver, getattr(layer.adjoint, "solver", None))]
    windows = [window for solver in solvers if isinstance(window := getattr(solver, "window", 0), int)]
    steps = [factor * max(2, 0, *windows) for factor in (1, 2, 4)]  # a solver's history is constant once its window is full
    peak = [_track(subject.named, number)[0].counted(STATE) for number in steps]
    low, high = (f"{amount / 1024:.1f}" for amount in (peak[0], peak[-1]))
    amounts = low if low == high else f"{low} to {high}"
    found = f"{amounts} KiB in a step, at {', '.join(map(str, steps))} solver steps"
    return require(growth(steps, peak).verdict in FLAT, found)
