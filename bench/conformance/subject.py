"""The Subject of a check: how a cell, model, solver or task is built, and how a cell or model is called."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines import NeuralODE
from baselines.continuous import ADAPTIVE
from bench.conformance.compare import random_tensor
from bench.conformance.result import require
from bench.records.spec import ComponentConfig
from deq import DEQ, Cell, Stop

BATCH, TIME = 3, 6
TIGHT = Stop(rtol=1e-12, max_steps=400)
TIGHT_STOP = Stop(rtol=1e-6, max_steps=200)
_SHAPES = ((BATCH, TIME), (1, 1), (1, 5), (4, 1))


def _adaptive(module: nn.Module) -> bool:
    return isinstance(module, NeuralODE) and module.method in ADAPTIVE


def tighten(module: nn.Module) -> nn.Module:
    """Set tight tolerances for every solve in the module, forward and backward."""
    for part in module.modules():
        if isinstance(part, DEQ):
            part.stop = part.evaluation_stop = TIGHT
            if hasattr(part.adjoint, "stop"):
                part.adjoint = dataclasses.replace(part.adjoint, stop=TIGHT)  # type: ignore[type-var]
        elif isinstance(part, NeuralODE) and _adaptive(part):
            part.rtol, part.atol = 1e-9, 1e-11
    return module


def tolerance(module: nn.Module) -> float:
    """Distance (relative to 1 + |y|) of equal results; an adaptive ODE solver chooses its steps for the whole batch."""
    return 1e-6 if any(_adaptive(part) for part in module.modules()) else 1e-8


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked: `make()` builds the cell, model, solver or task; `named` is the model that a suite would name."""

    make: Callable[[], Any]
    inputs: int = 16
    named: ComponentConfig | None = None
    gradient_rtol: float | None = None  # where the gradient is known to be less exact; None: 1e-4, and inexact adjoints are skipped
    max_evaluations: int = 1000  # of a solver, on the maps with known fixed points

    def build(self, seed: int = 0) -> Any:
        """The cell or model from that seed, in float64 and evaluation mode, with tight tolerances."""
        torch.manual_seed(seed)
        return tighten(self.make()).double().eval()

    def arguments(self, module: nn.Module, *, batch: int = BATCH, time: int = TIME, seed: int = 0) -> tuple[Tensor, ...]:
        """Random features x (B, T, inputs); for a cell, a random state too."""
        x = random_tensor(batch, time, self.inputs, seed=seed)
        return (x, random_tensor(*module.initial_state(x).shape, seed=seed + 500)) if isinstance(module, Cell) else (x,)

    def outputs(self, module: nn.Module, arguments: tuple[Tensor, ...], memory: Any = None) -> tuple[Tensor, ...]:
        """A model's features and auxiliary features; a cell's f(z), and its features where they differ. Each (B, T, ...)."""
        if isinstance(module, Cell):
            x, z = arguments
            fz = module.bind(x, memory)(z)
            features = module.features(fz)
            return (fz,) if features is fz else (fz, features)
        output = module(*arguments, memory)
        return (output.y, *output.auxiliary)

    def memory(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> Any:
        """The memory for the next batch."""
        return module.remember(*reversed(arguments)) if isinstance(module, Cell) else module(*arguments).memory


def modules_and_inputs(subject: Subject) -> Iterator[tuple[Any, Tensor]]:
    """A module and x (B, T, inputs) of several sizes, in float32 and float64, training and evaluation."""
    for dtype in (torch.float32, torch.float64):
        module = subject.make().to(dtype)
        for training, (batch, time) in [(True, _SHAPES[0]), *((False, shape) for shape in _SHAPES)]:
            yield module.train(training), random_tensor(batch, time, subject.inputs, seed=0, dtype=dtype)


def require_tensor(name: str, part: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise Broken unless the part is a tensor of that shape and dtype."""
    require(isinstance(part, Tensor), f"{name} is a {type(part).__name__}, not a tensor")
    require(part.shape == shape, f"{name} is {tuple(part.shape)}, not {shape}")
    require(part.dtype == dtype, f"{name} is {part.dtype} for features in {dtype}".replace("torch.", ""))
