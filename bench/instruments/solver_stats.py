"""Collect what a model's solvers do while it trains and is evaluated."""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.counted import CountedCore, Evaluations
from bench.records.record import Measure, measured
from deq import DEQ, Solution

Mode = Literal["train", "evaluation"]
_EXPLICIT = "an explicit model solves nothing"
_SCOPE = {"train": "all training steps", "evaluation": "the test split"}


class _Samples:
    """A number for every sample of every solve, kept in one block.

    Thousands of small tensors that stay alive would keep the heap's blocks between them from being reused: a training lost half a
    megabyte of the host's memory a step. On a GPU they would hold its memory. The last solves' tensors wait to be read together.
    """

    def __init__(self, values: Tensor | None = None, seen: int = 0) -> None:
        self.seen = seen  # values that `recent` has returned
        self._block = array("d", [] if values is None else values.tolist())
        self._waiting: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._block) or bool(self._waiting)

    def append(self, tensor: Tensor) -> None:
        """Add a solve's numbers, without reading them."""
        self._waiting.append(tensor.detach())

    def all(self) -> Tensor:
        """Every number, in float64 on the host."""
        if self._waiting:
            self._block.extend(torch.cat([tensor.flatten() for tensor in self._waiting]).tolist())
            self._waiting = []
        return torch.tensor(self._block, dtype=torch.float64)

    def recent(self) -> Tensor:
        """The numbers since the last call."""
        values = self.all()[self.seen :]
        self.seen = len(self._block)
        return values


@dataclass
class _Solves:
    """NFE of each solve, and residuals and convergence of its samples; of a CountedCore only the NFE.

    `seen`: solves that `recent` has read.
    """

    nfe: list[int | float | Tensor] = field(default_factory=list)
    seen: int = 0
    residuals: _Samples = field(default_factory=_Samples)
    converged: _Samples = field(default_factory=_Samples)


class SolverStats:
    """Record the evaluations, final residuals and convergence of every solve, by mode and by phase (forward, backward).

    Set `mode` before training or evaluating. Tensors are read at the end only, so that nothing synchronises the device.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, (DEQ, CountedCore))]
        self.mode: Mode = "train"
        self.solver_bytes = 0
        self._paused = False
        self._solves: dict[tuple[str, str], _Solves] = defaultdict(_Solves)
        self._unwatch = [layer.watch(self._record) for layer in self.layers]

    def close(self) -> None:
        """Stop recording for good."""
        while self._unwatch:
            self._unwatch.pop()()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing inside."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def forget(self, mode: Mode) -> None:
        """Drop what was recorded in a mode, such as a validation before the test."""
        for key in [key for key in self._solves if key[0] == mode]:
            del self._solves[key]

    def state(self) -> dict[str, Any]:
        """What was recorded in training, as tensors and numbers, for a checkpoint."""
        phases = {
            phase: {
                **{"nfe": _numbers(solves.nfe), "seen": solves.seen, "samples_seen": solves.residuals.seen},
                **{"residuals": solves.residuals.all(), "converged": solves.converged.all()},
            }
            for (mode, phase), solves in self._solves.items()
            if mode == "train"
        }
        return {"solver_bytes": self.solver_bytes, "phases": phases}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.solver_bytes = state["solver_bytes"]
        for phase, saved in state["phases"].items():
            residuals, converged = _Samples(saved["residuals"], saved["samples_seen"]), _Samples(saved["converged"])
            self._solves["train", phase] = _Solves(list(saved["nfe"]), saved["seen"], residuals, converged)

    def _record(self, phase: str, solution: Solution | Evaluations) -> None:
        if self._paused:
            return
        solves = self._solves[self.mode, phase]
        solves.nfe.append(solution.nfe)
        if isinstance(solution, Solution):
            solves.residuals.append(solution.residual)
            solves.converged.append(solution.converged)
            if self.mode == "train":
                self.solver_bytes = max(self.solver_bytes, solution.solver_bytes)

    def recent(self, phase: str) -> tuple[float | None, float | None]:
        """Mean NFE and median residual of a phase's training solves since the last call; None where there are none.

        Moves what these solves left to the host, so that a long training holds no device memory for it.
        """
        solves = self._solves["train", phase]
        nfe = solves.nfe[solves.seen :] = _numbers(solves.nfe[solves.seen :])
        solves.seen = len(solves.nfe)
        mean = sum(nfe) / len(nfe) if nfe else None
        residuals, _ = solves.residuals.recent(), solves.converged.recent()
        median = residuals.float().median().item() if len(residuals) else math.inf
        return mean, median if math.isfinite(median) else None

    def read(self) -> dict[str, Measure]:
        """Every solver measure; of an explicit model each is None with a reason."""
        measures = self._read("train", "forward") | self._read("train", "backward") | self._read("evaluation", "forward")
        reason = _EXPLICIT if not self.layers else self._no_residual
        method = "largest storage of a solver's own memory in one solve, forward or backward"
        value = self.solver_bytes if reason is None else None
        return measures | {"solver_bytes": measured(value, "B", method, _SCOPE["train"], reason)}

    @property
    def _no_residual(self) -> str | None:
        """Why no layer has a residual, or None where one has."""
        reasons = [layer.no_residual for layer in self.layers if isinstance(layer, CountedCore)]
        return reasons[0] if len(reasons) == len(self.layers) else None

    def _read(self, mode: str, phase: str) -> dict[str, Measure]:
        scope, solves = _SCOPE[mode], self._solves[mode, phase]
        prefix = "eval" if mode == "evaluation" else "train"
        stem = prefix if phase == "forward" else f"{prefix}_backward"
        reason = _EXPLICIT if not self.layers else None if solves.nfe else f"no {phase} solve on {scope}"
        no_residual = reason or (None if solves.residuals else self._no_residual)
        measures = {}

        def add(name: str, value: float | None, unit: str, method: str, reason: str | None) -> None:
            measures[name] = measured(value, unit, method, scope, reason)

        nfe = torch.tensor(_numbers(solves.nfe), dtype=torch.float64)
        method = f"evaluations of {'f, with the attached one,' if phase == 'forward' else 'the VJP of f'} a solve"
        mean, p95 = (None, None) if reason else (nfe.mean().item(), _quantile(nfe, 0.95))
        add(f"{prefix}_{phase}_nfe_mean", mean, "evaluations", f"mean of {method}", reason)
        add(f"{prefix}_{phase}_nfe_p95", p95, "evaluations", f"95th percentile of {method}", reason)
        residual = None if no_residual else solves.residuals.all()
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            method = f"{'largest' if q == 1 else name} of ||f(z) - z|| / ||f(z)|| over samples and solves, at the iterate returned"
            add(f"{stem}_residual_{name}", None if residual is None else _quantile(residual, q), "1", method, no_residual)
        share = None if no_residual else solves.converged.all().mean().item()
        add(f"{stem}_converged_fraction", share, "1", "share of samples whose solve met its tolerance", no_residual)
        return measures


def _numbers(nfe: Sequence[int | float | Tensor]) -> list[int | float]:
    """Evaluations as numbers; reads those that are still on a device."""
    return [one.item() if isinstance(one, Tensor) else one for one in nfe]


def _quantile(values: Tensor, q: float) -> float:
    """The q-quantile without interpolation (torch.quantile refuses over 16M values); not finite where a value is not."""
    ordered = values.flatten().sort().values
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))].item()
