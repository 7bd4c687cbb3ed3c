"""What the solvers of a model did, collected passively while it trains and is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines import NeuralODE
from baselines.continuous import Evaluations
from bench.records.record import Measure, measured
from deq import DEQ, Solution

Split = Literal["train", "evaluation"]
_EXPLICIT = "an explicit model solves nothing"
_ODE = "an ODE solver integrates for a given time and looks for no fixed point"
_SCOPE = {"train": "all training steps", "evaluation": "the test split"}


class SolverStats:
    """Counts and final residuals of every solve of every DEQ in a model, by split and by phase (forward, backward); of a Neural
    ODE the counts.

    Set `split` to say what the model is doing. Tensors are kept as they are and read at the end, so that nothing is synchronised.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, (DEQ, NeuralODE))]
        self.split: Split = "train"
        self.solver_bytes = 0
        self._hears = True
        self._nfe: dict[tuple[str, str], list[int]] = {}
        self._residuals: dict[tuple[str, str], list[Tensor]] = {}
        self._converged: dict[tuple[str, str], list[Tensor]] = {}
        self._stops = [layer.watch(self._note) for layer in self.layers]

    def close(self) -> None:
        """Stop listening."""
        for stop in self._stops:
            stop()
        self._stops = []

    def forget(self, split: Split) -> None:
        """Drop what was collected on a split, e.g. a validation pass before the test."""
        for store in (self._nfe, self._residuals, self._converged):
            for key in [key for key in store if key[0] == split]:
                del store[key]

    def state(self) -> dict[str, Any]:
        """What was collected in training, as tensors and numbers, for a checkpoint."""
        train = {key[1]: key for key in self._nfe if key[0] == "train"}
        return {
            "solver_bytes": self.solver_bytes,
            "nfe": {phase: list(self._nfe[key]) for phase, key in train.items()},
            "residuals": {phase: _joined(self._residuals[key]) for phase, key in train.items() if key in self._residuals},
            "converged": {phase: _joined(self._converged[key]) for phase, key in train.items() if key in self._converged},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.solver_bytes = state["solver_bytes"]
        self._nfe = {("train", phase): list(counts) for phase, counts in state["nfe"].items()}
        self._residuals = {("train", phase): _parted(*joined) for phase, joined in state["residuals"].items()}
        self._converged = {("train", phase): _parted(*joined) for phase, joined in state["converged"].items()}

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Inside, nothing is collected."""
        self._hears = False
        try:
            yield
        finally:
            self._hears = True

    def _note(self, phase: str, solution: Solution | Evaluations) -> None:
        if not self._hears:
            return
        key = (self.split, phase)
        self._nfe.setdefault(key, []).append(solution.nfe)
        if isinstance(solution, Evaluations):
            return
        self._residuals.setdefault(key, []).append(solution.residual.detach())
        self._converged.setdefault(key, []).append(solution.converged)
        if self.split == "train":
            self.solver_bytes = max(self.solver_bytes, solution.solver_bytes)

    def recent(self, phase: str, solves: int) -> tuple[float | None, float | None]:
        """Mean NFE and median residual of the last so many training solves of a phase; None where there was none."""
        nfe = self._nfe.get(("train", phase), [])[-solves:] if solves else []
        if not nfe:
            return None, None
        residuals = self._residuals.get(("train", phase), [])[-solves:]
        if not residuals:
            return sum(nfe) / len(nfe), None
        residual = torch.cat([r.flatten() for r in residuals]).float()
        median = residual.median().item()
        return sum(nfe) / len(nfe), median if median == median and median != float("inf") else None

    def read(self) -> dict[str, Measure]:
        """Every solver measure; null with the reason for an explicit model."""
        measures: dict[str, Measure] = {}
        for split, prefix in (("train", "train"), ("evaluation", "eval")):
            for phase in ("forward", "backward") if split == "train" else ("forward",):
                measures |= self._read(split, phase, prefix)
        reason = _EXPLICIT if not self.layers else None if any(isinstance(layer, DEQ) for layer in self.layers) else _ODE
        measures["solver_bytes"] = measured(
            self.solver_bytes if reason is None else None,
            "B",
            "largest storage of a solver's own memory in one solve, forward or backward",
            "all training steps",
            reason,
        )
        return measures

    def _read(self, split: str, phase: str, prefix: str) -> dict[str, Measure]:
        scope = _SCOPE[split]
        reason = None if self.layers else _EXPLICIT
        nfe = torch.tensor(self._nfe.get((split, phase), []), dtype=torch.float64)
        if not reason and not len(nfe):
            reason = f"no {phase} solve on {scope}"
        names = f"{prefix}_{phase}_nfe"
        method = f"evaluations of {'f' if phase == 'forward' else 'the VJP of f'} a solve, the attached one not counted"
        # An ODE solver's evaluations are counted, and nothing more is known of it.
        bare = reason or (None if (split, phase) in self._residuals else _ODE)
        measures = {
            f"{names}_mean": measured(None if reason else nfe.mean().item(), "evaluations", f"mean of {method}", scope, reason),
            f"{names}_p95": measured(
                None if reason else _quantile(nfe, 0.95), "evaluations", f"95th percentile of {method}", scope, reason
            ),
        }
        stem = f"{prefix}_residual" if phase == "forward" else f"{prefix}_backward_residual"
        residual = torch.empty(0) if bare else torch.cat([r.flatten() for r in self._residuals[(split, phase)]]).double().cpu()
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            how = f"{'largest' if q == 1 else name} of ||f(z) - z|| / ||f(z)|| over samples and solves, at the iterate returned"
            measures[f"{stem}_{name}"] = measured(None if bare else _quantile(residual, q), "1", how, scope, bare)
        stem = f"{prefix}_converged_fraction" if phase == "forward" else f"{prefix}_backward_converged_fraction"
        share = None if bare else torch.cat([c.flatten() for c in self._converged[(split, phase)]]).double().mean().item()
        measures[stem] = measured(share, "1", "share of samples whose solve met its tolerance", scope, bare)
        return measures


def _joined(tensors: list[Tensor]) -> tuple[Tensor, list[int]]:
    """All values in one tensor, which is quicker to write than thousands, and how many each had."""
    return torch.cat([tensor.flatten() for tensor in tensors]).cpu(), [tensor.numel() for tensor in tensors]


def _parted(values: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(values.split(sizes))


def _quantile(values: Tensor, q: float) -> float:
    """The q-quantile without interpolation (torch.quantile refuses over 16M values); not finite where a value is not."""
    ordered = values.flatten().sort().values
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))].item()
