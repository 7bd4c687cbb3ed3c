"""The contract of a model: a Core gives causal features of its width, batch or alone, and what it solves is solved."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines import NeuralODE
from baselines.continuous import ADAPTIVE
from bench.check import contract
from bench.check.contract import BATCH, TIME, Subject
from bench.check.differences import drawn
from bench.check.finding import Check, Outcome, after, told
from bench.check.memory import CONSTANT, FOLLOWED, Followed
from bench.spec import Named
from deq import DEQ, Core, Implicit, Output, Solution, Stop, Unroll

TIGHT = Stop(rtol=1e-12, max_steps=400)
SOLVED = Stop(rtol=1e-6, max_steps=200)
_SHAPES = ((BATCH, TIME), (1, 1), (1, 5), (4, 1))


def tightened(core: Core) -> Core:
    """The core with everything that it solves solved to the last digits, forward and backward, whatever its own stops."""
    for part in core.modules():
        if isinstance(part, DEQ):
            part.stop = part.evaluation_stop = TIGHT
            if hasattr(part.adjoint, "stop"):
                part.adjoint = dataclasses.replace(part.adjoint, stop=TIGHT)  # type: ignore[type-var]
        elif isinstance(part, NeuralODE) and part.method in ADAPTIVE:
            part.rtol, part.atol = 1e-9, 1e-11
    return core


def tolerance(core: Core) -> float:
    """How exactly samples, and the past of the future, are apart: an adaptive ODE solver chooses its steps for all together."""
    return 1e-6 if any(isinstance(part, NeuralODE) and part.method in ADAPTIVE for part in core.modules()) else 1e-8


@dataclass(frozen=True, kw_only=True)
class Model(Subject, Followed):
    """A Core as `make()` makes it for `inputs` features; `named` is what memory is followed by (None: it is not)."""

    make: Callable[[], Core]
    inputs: int
    named: Named | None = None
    tolerance: float = 1e-8
    rtol: float = 1e-4
    step: float = 1e-6
    judged: bool = False  # its gradient is a slope to within `rtol` even if its adjoint is inexact by design

    def made(self, seed: int = 0) -> Core:
        """Solved tightly."""
        torch.manual_seed(seed)
        return tightened(self.make()).double().eval()

    def given(self, module: nn.Module, *, batch: int = BATCH, time: int = TIME, seed: int = 0) -> tuple[Tensor, ...]:
        """Features alone."""
        return (drawn(batch, time, self.inputs, seed=seed),)

    def seen(self, module: nn.Module, given: tuple[Tensor, ...], memory: Any = None) -> tuple[Tensor, ...]:
        """Its features, and those for deep supervision."""
        output = module(*given, memory)
        return (output.y, *output.auxiliary)

    def memory(self, module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        """Its Output's."""
        return module(*given).memory

    def equilibrium(self) -> Core:
        """The model itself."""
        return self.make()

    def layers(self) -> list[DEQ]:
        """The DEQs in it."""
        return [part for part in self.make().modules() if isinstance(part, DEQ)]


def shapes(subject: Model) -> Outcome:
    """Its Output at several batches and lengths, single and double precision, training and evaluation."""
    for dtype in (torch.float32, torch.float64):
        core = subject.make().to(dtype)
        for training, (batch, time) in [(True, _SHAPES[0]), *((False, shape) for shape in _SHAPES)]:
            output = core.train(training)(drawn(batch, time, subject.inputs, seed=0, dtype=dtype))
            wrong = _misshapen(output, core, batch, time, dtype)
            if wrong:
                return told(False, wrong)
    return told(True, f"(B, T, {core.width}), float32 and float64")


def _misshapen(output: Any, core: Core, batch: int, time: int, dtype: torch.dtype) -> str | None:
    """What is wrong with an Output, in words."""
    if not isinstance(output, Output):
        return f"forward returned a {type(output).__name__}, not a deq.Output"
    for name, part in [("y", output.y), *(("auxiliary", part) for part in output.auxiliary)]:
        if not isinstance(part, Tensor):
            return f"{name} is a {type(part).__name__}, not a tensor"
        if part.shape != (batch, time, core.width):
            return f"{name} is {tuple(part.shape)} for x ({batch}, {time}, D) and width {core.width}"
        if part.dtype != dtype:
            return f"{name} is {part.dtype} for features in {dtype}".replace("torch.", "")
    if output.penalty is not None and output.penalty.dim():
        return f"penalty is {tuple(output.penalty.shape)}, not a scalar"
    return None


def solve(subject: Model) -> Outcome:
    """Whether every equilibrium in it is found, as it is initialised."""
    if not subject.layers():
        return Outcome("skip", "", "there is no DEQ in it")
    core = subject.made()
    found: list[Solution] = []
    for part in core.modules():
        if isinstance(part, DEQ):
            part.evaluation_stop = SOLVED
            part.watch(lambda phase, solution: found.append(solution))
    with torch.no_grad():
        core(*subject.given(core, batch=8, time=12))
    converged = torch.cat([solution.converged for solution in found])
    residual = max(solution.residual.max().item() for solution in found)
    steps = max(solution.nfe for solution in found)
    said = (
        f"{int(converged.sum())} of {len(converged)} solves converged within {steps} evaluations, largest residual {residual:.1g}"
    )
    return told(bool(converged.all()), said)


def gradient(subject: Model) -> Outcome:
    """As contract.gradient; an adjoint that is inexact by design is not held to it."""
    inexact = [type(layer.adjoint).__name__ for layer in subject.layers() if not isinstance(layer.adjoint, (Implicit, Unroll))]
    if inexact and not subject.judged:
        off = contract.slopes_of(subject, subject.made()).worst
        return Outcome("skip", f"relative error {off:.2g}", f"{inexact[0]} is not the exact gradient, by design")
    return contract.gradient(subject)


SHAPES: Check[Model] = Check(
    name="shapes",
    expected="an Output with y (B, T, width), in the dtype of x",
    cause="forward(x, memory=None) takes features (B, T, D) and returns deq.Output(y) with y (B, T, self.width), for any B and T. "
    "New tensors need x's dtype and device: x.new_zeros(...), torch.arange(..., device=x.device); constants are buffers.",
    run=shapes,
)
SOLVE: Check[Model] = Check(
    name="solve",
    expected="every sample's equilibrium found, to 1e-6 in 200 evaluations",
    cause="The map of a DEQ in it has no fixed point, or one that its solver does not reach: it would be trained on states that "
    "solve nothing. Check the cell by itself; scale its recurrent weights below one, or bound its state.",
    run=solve,
    needs=("finite", "evaluation"),
)


_SOLVED = ("shapes", "solve")
MODEL: tuple[Check[Model], ...] = (
    SHAPES,
    after(contract.FINITE, "shapes"),
    after(contract.EVALUATION, "shapes"),
    after(contract.SAME_SEED, "shapes"),
    after(SOLVE, "shapes"),
    after(contract.SAMPLES, *_SOLVED),
    after(contract.CAUSALITY, *_SOLVED),
    after(dataclasses.replace(contract.GRADIENT, run=gradient), *_SOLVED),  # type: ignore[arg-type]
    after(contract.ARRIVAL, "shapes"),
    after(contract.STATE, "shapes"),
    after(contract.DETACHED, "shapes"),
    after(FOLLOWED, "shapes"),
    after(CONSTANT, "shapes"),
)
