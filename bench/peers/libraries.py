"""Adapters, one per library: a solve for a fixed point, and a layer that can be trained."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from bench.instruments.environment import version
from bench.records.errors import UserError
from deq import Anderson, Broyden, Implicit, Map, Picard, Solver, Stop, solve

METHODS = ("picard", "anderson", "broyden")
NEVER = 1e-30  # a relative tolerance that no solve reaches
Layer = Callable[[Tensor], Tensor]


class Library(Protocol):
    """A library: the same methods at its own defaults, with tolerances relative to ||f(z)||."""

    name: str
    version: str | None

    def solve(self, f: Map, z0: Tensor, method: str, rtol: float, cap: int) -> Tensor:
        """The solution (B, ...) for this tolerance, in at most `cap` evaluations."""

    def layer(self, f: Map, method: str, steps: int) -> Layer:
        """A map from z0 to the fixed point with its implicit gradient, of `steps` iterations forward and backward."""


class Ours:
    """This library."""

    name = "deq"

    def __init__(self) -> None:
        self.version = version("deq-bench")  # None: run from a checkout

    @staticmethod
    def _solver(method: str, cap: int) -> Solver:
        solvers: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden(window=max(2, cap))}
        return solvers[method]

    def solve(self, f: Map, z0: Tensor, method: str, rtol: float, cap: int) -> Tensor:
        """The best iterate of every sample."""
        with torch.no_grad():
            return solve(f, z0, self._solver(method, cap), Stop(rtol=rtol, max_steps=cap)).z

    def layer(self, f: Map, method: str, steps: int) -> Layer:
        """`Implicit` with a tolerance out of reach, so that residuals are checked as in any solve."""
        solver, stop = self._solver(method, steps), Stop(rtol=NEVER, max_steps=steps)
        adjoint = Implicit(solver=solver, stop=stop)
        return lambda z0: adjoint(f, z0, solver, stop, lambda phase, solution: None)


class TorchDEQ:
    """TorchDEQ (Geng and Kolter, arXiv 2310.18605), the package `torchdeq`, at its defaults."""

    name = "torchdeq"
    _METHODS: ClassVar = {"picard": "fixed_point_iter", "anderson": "anderson", "broyden": "broyden"}

    def __init__(self) -> None:
        self.version = version("torchdeq")

    def solve(self, f: Map, z0: Tensor, method: str, rtol: float, cap: int) -> Tensor:
        """The result of its solver, stopped by its relative criterion."""
        from torchdeq.solver import get_solver

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            z: Tensor = get_solver(self._METHODS[method])(f, z0, tol=rtol, max_iter=cap, stop_mode="rel")[0]
        return z

    def layer(self, f: Map, method: str, steps: int) -> Layer:
        """Its implicit gradient as an autograd Function (`ift`)."""
        from torchdeq import get_deq

        same = {"solver": self._METHODS[method], "max_iter": steps, "tol": 0.0, "stop_mode": "rel"}
        deq = get_deq(ift=True, **{f"{side}_{name}": value for side in "fb" for name, value in same.items()})
        deq.train()
        return lambda z0: deq(f, z0)[0][-1]


def installed() -> list[Library]:
    """This library and the peers; UserError where a peer is not installed."""
    if importlib.util.find_spec("torchdeq") is None:
        raise UserError("peers: torchdeq is not installed (pip install 'deq-bench[peers]', or `make compare-peers`)")
    return [Ours(), TorchDEQ()]
