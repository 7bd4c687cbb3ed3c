"""What a solver adds to the evaluations it makes, how many it makes, and what it keeps: every library in turns in one process."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.instruments.probes import peak_live_bytes, saved_bytes
from bench.peers.libraries import METHODS, Library
from bench.peers.problems import PROBLEMS, Problem

STEPS = 20  # forward, and as many backward
TIMED = {"tiny": 100, "block": 21, "large": 21}  # rounds
_REPEATED = {"tiny": 50}  # evaluations a timing of one, where one is too short for a clock
TOLERANCES = ((torch.float32, 1e-3), (torch.float32, 1e-6), (torch.float64, 1e-9))
Row = dict[str, Any]


class _Counter:
    """Counts the evaluations of a map, and while it is inside, the vector-Jacobian products asked for."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self._f, self.evaluations, self.products = f, 0, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.evaluations += 1
        return self._f(z)

    @contextmanager
    def inside(self) -> Iterator[None]:
        grad = torch.autograd.grad

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.products += 1
            return grad(*args, **kwargs)

        torch.autograd.grad = counted
        try:
            yield
        finally:
            torch.autograd.grad = grad


def _clear(problem: Problem) -> None:
    for leaf in problem.leaves:
        leaf.grad = None


def _seconds(do: Callable[[], object], repeats: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        do()
    return (time.perf_counter() - begin) / repeats


def overhead(libraries: Sequence[Library], name: str, rounds: int | None = None) -> list[Row]:
    """Seconds of a training step and its floor in every round: evaluations x t_f + VJPs x t_vjp + one attached evaluation and
    its backward, timed in the same round. Libraries take turns, forwards in one round and backwards in the next."""
    problem, repeats = PROBLEMS[name](), _REPEATED.get(name, 3)
    f, z0, v = problem.f, problem.z0, torch.randn(problem.z0.shape, generator=torch.Generator().manual_seed(1))
    rows: list[Row] = []
    layers = []
    for method in METHODS:
        for library in libraries:
            counter = _Counter(f)
            with counter.inside():
                library.layer(counter, method, STEPS)(z0).backward(v)
            layers.append(library.layer(f, method, STEPS))
            counts = {"evaluations": counter.evaluations, "products": counter.products}
            rows.append({"problem": name, "method": method, "library": library.name, **counts, "step_s": [], "floor_s": []})
    leaf = z0.clone().requires_grad_()
    graph = f(leaf)
    for number in range(TIMED[name] if rounds is None else rounds):
        with torch.no_grad():
            t_f = _seconds(lambda: f(z0), repeats)
        t_vjp = _seconds(lambda: torch.autograd.grad(graph, leaf, v, retain_graph=True), repeats)
        _clear(problem)
        t_attached = _seconds(lambda: f(z0).backward(v))
        turns = list(zip(rows, layers, strict=True))
        for row, layer in turns if number % 2 else reversed(turns):
            _clear(problem)
            row["step_s"].append(_seconds(lambda layer=layer: layer(z0).backward(v)))  # type: ignore[misc]
            row["floor_s"].append((row["evaluations"] - 1) * t_f + row["products"] * t_vjp + t_attached)
    _clear(problem)
    return rows


def _residual(problem: Problem, z: Tensor) -> float:
    """The largest relative residual over the batch, in float64."""
    with torch.no_grad():
        fz = problem.f(z).double().flatten(1)
        return ((fz - z.double().flatten(1)).norm(dim=1) / fz.norm(dim=1)).max().item()


def steps_to(libraries: Sequence[Library], name: str) -> list[Row]:
    """Evaluations that a solve took when asked for a tolerance, and the relative residual of what it returned (the worst sample's);
    and after how many evaluations one was first below the tolerance for the whole batch, whatever the library made of it."""
    rows = []
    for dtype, rtol in TOLERANCES:
        if name == "large" and dtype == torch.float64:
            continue
        problem = PROBLEMS[name](dtype)
        for method in METHODS:
            for library in libraries:
                counter, first = _Counter(problem.f), 0

                def watched(z: Tensor, counter: _Counter = counter, rtol: float = rtol, problem: Problem = problem) -> Tensor:
                    nonlocal first
                    fz = counter(z)
                    state, image = z.double().reshape(len(fz), -1), fz.double().flatten(1)
                    if not first and ((image - state).norm(dim=1) < rtol * image.norm(dim=1)).all():
                        first = counter.evaluations
                    return fz

                z = library.solve(watched, problem.z0, method, rtol, problem.cap).view(problem.z0.shape)
                asked = {"problem": name, "method": method, "library": library.name, "dtype": str(dtype)[6:], "rtol": rtol}
                found = {"evaluations": counter.evaluations, "first_below": first or None, "residual": _residual(problem, z)}
                rows.append(asked | found | {"cap": problem.cap})
    return rows


def memory(libraries: Sequence[Library], name: str) -> list[Row]:
    """Bytes that a training step saves for backward and its peak over what is there before, parameters' gradients included; the
    same of one attached evaluation of f and its backward (method "one evaluation"), and of `STEPS` unrolled."""
    problem = PROBLEMS[name]()
    f, z0 = problem.f, problem.z0

    def unrolled(z: Tensor) -> Tensor:
        for _ in range(STEPS):
            z = f(z)
        return z

    made = [(library.layer(f, method, STEPS), method, library.name) for method in METHODS for library in libraries]
    rows = []
    for layer, method, library in [(f, "one evaluation", "torch"), (unrolled, "unrolled", "torch"), *made]:
        _clear(problem)
        saved = saved_bytes(lambda layer=layer: layer(z0), [*problem.leaves, z0])  # type: ignore[misc]
        peak = peak_live_bytes(lambda layer=layer: layer(z0).sum().backward(), [*problem.leaves, z0])  # type: ignore[misc]
        rows.append({"problem": name, "method": method, "library": library, "saved_bytes": saved, "peak_bytes": peak.step})
    _clear(problem)
    return [row | {"state_bytes": z0.nbytes} for row in rows]
