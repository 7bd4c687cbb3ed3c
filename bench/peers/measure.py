"""A solver's cost on top of its evaluations, its number of evaluations and its memory, of all libraries alternately."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.instruments.operators import operations
from bench.instruments.probes import peak_live_bytes, saved_bytes
from bench.peers.libraries import METHODS, NEVER, Library
from bench.peers.problems import GPU_PROBLEMS, PROBLEMS, Problem
from deq import Map
from deq.solve import force_device_path

STEPS = 20  # forward, and as many backward
TIMED = {"tiny": 100, "block": 21, "large": 21}  # rounds
GPU_TIMED = {"medium": 5, "block, bfloat16": 21, "medium, bfloat16": 5}  # rounds, on a GPU only
_REPEATED = {"tiny": 50}  # evaluations per timing, where one is too short for a clock
STOPPING = 1e-3  # the relative tolerance of the solves that stop by themselves
_CAPS = (10, 20)  # of the solves whose operators are counted: their difference is the cost of late evaluations
TOLERANCES = ((torch.float32, 1e-3), (torch.float32, 1e-6), (torch.float64, 1e-9))
Row = dict[str, Any]


class _CallCounter:
    """Counts the evaluations of a map and, inside `counting_products`, the vector-Jacobian products."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self._f, self.evaluations, self.products = f, 0, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.evaluations += 1
        return self._f(z)

    @contextmanager
    def counting_products(self) -> Iterator[None]:
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


def seconds_of(do: Callable[[], object], repeats: int = 1, device: str = "cpu") -> float:
    """Seconds of one call; a CUDA device is synchronised before the first and after the last."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begin = now()
    for _ in range(repeats):
        do()
    return (now() - begin) / repeats


def timed_problems(device: str) -> dict[str, int]:
    """The rounds of every problem that is timed on the device."""
    return TIMED | GPU_TIMED if device == "cuda" else TIMED


def _problem(name: str, device: str, dtype: torch.dtype = torch.float32) -> Problem:
    return (PROBLEMS | GPU_PROBLEMS)[name](dtype=dtype, device=device)


def _rounds(name: str, rounds: int | None) -> int:
    return (TIMED | GPU_TIMED)[name] if rounds is None else rounds


def time_in_turns(turns: Sequence[tuple[list[float], Callable[[], float]]], rounds: int, warmup: int) -> None:
    """Append what each turn measures in every round to its list, in opposite order each second round, after rounds of warm-up."""
    for number in range(-warmup, rounds):
        for measured, measure in turns if number % 2 else reversed(turns):
            seconds = measure()
            if number >= 0:
                measured.append(seconds)


def overhead(libraries: Sequence[Library], name: str, rounds: int | None = None, device: str = "cpu") -> list[Row]:
    """Seconds of a training step and its floor in every round; libraries alternate, in opposite order each second round.

    The floor is evaluations x t_f + VJPs x t_vjp + one attached evaluation and its backward, timed in the same round.
    """
    problem, repeats, seconds = _problem(name, device), _REPEATED.get(name, 3), partial(seconds_of, device=device)
    f, z0, v = problem.f, problem.z0, torch.randn(problem.z0.shape, generator=torch.Generator().manual_seed(1)).to(device)
    turns: list[tuple[Row, Callable[[Tensor], Tensor]]] = []
    for method in METHODS:
        for library in libraries:
            counter = _CallCounter(f)
            with counter.counting_products():
                library.layer(counter, method, STEPS)(z0).backward(v)
            row: Row = {"problem": name, "method": method, "library": library.name}
            row |= {"evaluations": counter.evaluations, "products": counter.products, "step_s": [], "floor_s": []}
            turns.append((row, library.layer(f, method, STEPS)))
    leaf = z0.clone().requires_grad_()
    graph = f(leaf)
    for number in range(_rounds(name, rounds)):
        with torch.no_grad():
            t_f = seconds(lambda: f(z0), repeats)
        t_vjp = seconds(lambda: torch.autograd.grad(graph, leaf, v, retain_graph=True), repeats)
        _clear(problem)
        t_attached = seconds(lambda: f(z0).backward(v))
        for row, layer in turns if number % 2 else reversed(turns):
            _clear(problem)
            row["step_s"].append(seconds(lambda layer=layer: layer(z0).backward(v)))  # type: ignore[misc]
            row["floor_s"].append((row["evaluations"] - 1) * t_f + row["products"] * t_vjp + t_attached)
    _clear(problem)
    return [row for row, _ in turns]


def stopping(libraries: Sequence[Library], name: str, rounds: int | None = None, device: str = "cpu") -> list[Row]:
    """Seconds of a forward solve that stops by itself at `STOPPING`, and its floor, evaluations x t_f, in every round."""
    problem, repeats, seconds = _problem(name, device), _REPEATED.get(name, 3), partial(seconds_of, device=device)
    turns: list[tuple[Row, Callable[[Map], Tensor]]] = []
    for method in METHODS:
        for library in libraries:
            solved: Callable[[Map], Tensor]
            solved = partial(library.solve, z0=problem.z0, method=method, rtol=STOPPING, cap=problem.cap)
            counter = _CallCounter(problem.f)
            solved(counter)
            row: Row = {"problem": name, "method": method, "library": library.name, "evaluations": counter.evaluations}
            turns.append((row | {"solve_s": [], "floor_s": []}, solved))
    for number in range(_rounds(name, rounds)):
        with torch.no_grad():
            t_f = seconds(lambda: problem.f(problem.z0), repeats)
        for row, solved in turns if number % 2 else reversed(turns):
            row["solve_s"].append(seconds(lambda solved=solved: solved(problem.f)))  # type: ignore[misc]
            row["floor_s"].append(row["evaluations"] * t_f)
    return [row for row, _ in turns]


def launches(libraries: Sequence[Library], name: str, device: str = "cpu") -> list[Row]:
    """Operators that are not views, which a GPU launches, for one more evaluation of a solve, and those of f alone.

    `waits`: how often the host then waits for the device, counted by operator. On a CPU, ours is made to take the path of a GPU.
    """
    problem = _problem(name, device)
    with torch.no_grad():
        own = operations(lambda: problem.f(problem.z0)).launches
    rows = []
    for method in METHODS:
        for library in libraries:
            few, many = (partial(library.solve, problem.f, problem.z0, method, rtol=NEVER, cap=cap) for cap in _CAPS)
            more = _CAPS[1] - _CAPS[0]
            with force_device_path():
                less, found = operations(few), operations(many)
            row: Row = {"problem": name, "method": method, "library": library.name, "f": own}
            rows.append(row | {"launches": (found.launches - less.launches) / more, "waits": (found.syncs - less.syncs) / more})
    return rows


def steps_to(libraries: Sequence[Library], name: str, device: str = "cpu") -> list[Row]:
    """Evaluations of a solve to a tolerance, and the relative residual of its result (the worst sample's).

    `first_below`: after how many evaluations one was first below the tolerance for the whole batch.
    """
    rows: list[Row] = []
    for dtype, rtol in TOLERANCES:
        if name == "large" and dtype == torch.float64:
            continue
        problem = _problem(name, device, dtype)
        for method in METHODS:
            for library in libraries:
                row = {"problem": name, "method": method, "library": library.name, "dtype": str(dtype)[6:], "rtol": rtol}
                rows.append(row | _solve(library, problem, method, rtol) | {"cap": problem.cap})
    return rows


def _solve(library: Library, problem: Problem, method: str, rtol: float) -> Row:
    counter, first = _CallCounter(problem.f), 0

    def watched(z: Tensor) -> Tensor:
        nonlocal first
        fz = counter(z)
        state, image = z.double().reshape(len(fz), -1), fz.double().flatten(1)
        if not first and ((image - state).norm(dim=1) < rtol * image.norm(dim=1)).all():
            first = counter.evaluations
        return fz

    z = library.solve(watched, problem.z0, method, rtol, problem.cap).view(problem.z0.shape)
    with torch.no_grad():
        fz = problem.f(z).double().flatten(1)
        residual = ((fz - z.double().flatten(1)).norm(dim=1) / fz.norm(dim=1)).max().item()
    return {"evaluations": counter.evaluations, "first_below": first or None, "residual": residual}


def memory(libraries: Sequence[Library], name: str, device: str = "cpu") -> list[Row]:
    """Bytes that a training step saves for backward and its peak over what exists before, parameters' gradients included.

    Also of one attached evaluation of f and its backward (method "one evaluation"), and of `STEPS` unrolled.
    """
    problem = _problem(name, device)
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
        row = {"problem": name, "method": method, "library": library, "saved_bytes": saved, "peak_bytes": peak.step}
        rows.append(row | {"state_bytes": z0.nbytes})
    _clear(problem)
    return rows
