"""No evaluation is made twice: the last one of a solve is attached in training and returned in evaluation."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import problems
import pytest
import torch
from problems import Counted, norms
from torch import Tensor

from deq import DEQ, SOLVERS, Broyden, Implicit, Map, MLPCell, Phantom, Picard, Shine, Solution, Status, Stop, Unroll, solve
from deq.solve import force_device_path

NAMES = sorted(SOLVERS)
ADJOINTS: dict[str, Callable[[], Any]] = {
    "implicit": lambda: Implicit(stop=Stop(rtol=None, max_steps=2)),
    "phantom": Phantom,
    "phantom 3": lambda: Phantom(steps=3),
    "shine": Shine,
    "unroll": Unroll,
}


def evaluations(adjoint: Any, stop: Stop, *, grad: bool) -> tuple[int, int, Solution]:
    """The evaluations of a forward pass as reported to the watcher and as counted by the map, and the solution."""
    problem = problems.tanh(dtype=torch.float32)
    weight = torch.ones((), requires_grad=True)
    f = Counted(lambda z: problem.f(weight * z))
    solver = Broyden(window=60) if isinstance(adjoint, Shine) else Picard()
    seen: list[Solution] = []
    with nullcontext() if grad else torch.no_grad():
        y = adjoint(f, problem.z0, solver, stop, lambda _, solution: seen.append(solution))
    assert y.requires_grad == grad
    return seen[0].nfe, f.calls, seen[0]


@pytest.mark.parametrize("rtol", [None, 1e-12])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ADJOINTS)
@pytest.mark.parametrize("most", [1, 4])
def test_a_capped_solve_makes_exactly_max_steps_evaluations(name: str, grad: bool, rtol: float | None, most: int) -> None:
    reported, counted, _ = evaluations(ADJOINTS[name](), Stop(rtol=rtol, max_steps=most), grad=grad)
    assert reported == counted == most + (2 if name == "phantom 3" else 0)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ADJOINTS)
def test_a_solve_that_ends_early_makes_one_more_for_the_graph_alone(name: str, grad: bool) -> None:
    reported, counted, solution = evaluations(ADJOINTS[name](), Stop(rtol=1e-3, max_steps=60), grad=grad)
    steps = int(solution.steps.max())
    assert solution.converged.all()
    assert reported == counted == steps + (2 if name == "phantom 3" else 0) + (grad and name != "unroll")


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rtol", [None, 1e-2, 1e-12])
def test_the_image_is_f_of_the_returned_iterates(name: str, rtol: float | None, device: bool) -> None:
    f = problems.rows(problems.halving, problems.slow, problems.nan_later, problems.tripling, problems.inf_at_once, torch.cos)
    z0 = torch.rand(6, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with force_device_path() if device else nullcontext():
        solution = solve(f, z0, SOLVERS[name](), Stop(rtol=rtol, max_steps=17), image=True)
    assert solution.image is not None
    kept, over = solution.status != Status.NONFINITE, solution.steps < 17
    assert torch.equal(solution.image[kept], f(solution.z)[kept])
    plain = solve(f, z0, SOLVERS[name](), Stop(rtol=rtol, max_steps=17))
    assert plain.image is None
    torch.testing.assert_close(plain.gaps[:-1], solution.gaps[:-1], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(plain.z[over], solution.z[over])


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rtol", [None, 1e-9])
def test_the_last_evaluation_is_at_the_newest_iterates_of_those_that_go_on(name: str, rtol: float | None, device: bool) -> None:
    shift = torch.linspace(-1, 1, 8, dtype=torch.float64)
    fates: list[Map] = [lambda z: (z.roll(1) + shift).tanh(), problems.nan_at_once, problems.tripling, lambda z: (z + shift).cos()]
    f, most, at = problems.rows(*fates), 6, []

    def last(z: Tensor) -> Tensor:
        at.append(z.clone())
        return f(z)

    stop = Stop(rtol=rtol, max_steps=most, growth=20)
    with force_device_path() if device else nullcontext():
        solution = solve(f, torch.zeros(4, 8, dtype=torch.float64), SOLVERS[name](), stop, attached=last)
        ended = solve(f, torch.zeros(4, 8, dtype=torch.float64), SOLVERS[name](), stop)
    assert len(at) == 1
    assert solution.nfe == most
    assert torch.equal(solution.z, at[0])
    torch.testing.assert_close(norms(f(solution.z) - solution.z), solution.gap, equal_nan=True)
    assert torch.equal(solution.status, ended.status)
    over = ended.steps < most
    assert over[1]
    assert torch.equal(solution.z[over], ended.z[over])


def test_both_ways_of_a_solve_with_a_last_evaluation_are_the_same() -> None:
    f = problems.rows(problems.halving, problems.slow, problems.nan_later, problems.tripling, torch.cos)
    found = []
    for context in (nullcontext(), force_device_path()):
        with context:
            stop = Stop(rtol=None, max_steps=6)
            found.append(solve(f, torch.zeros(5, 4, dtype=torch.float64), Picard(), stop, attached=f))
    for part in ("z", "image", "status", "gap", "residual", "steps", "gaps"):
        torch.testing.assert_close(getattr(found[0], part), getattr(found[1], part), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("attached", [False, True])
def test_without_a_tolerance_a_failure_at_the_last_evaluation_costs_no_more_on_either_path(attached: bool) -> None:
    f, found = Counted(lambda z: torch.where(z > 1.7, torch.nan, z / 2 + 1)), []
    for number, context in enumerate((nullcontext(), force_device_path()), 1):
        with context:
            stop = Stop(rtol=None, max_steps=4)
            found.append(solve(f, torch.zeros(1, 2).double(), Picard(), stop, image=not attached, attached=f if attached else None))
        assert (f.calls, found[-1].nfe, found[-1].status.tolist()) == (4 * number, 4, [Status.NONFINITE])
    for part in ("z", "image", "gap", "residual", "steps", "gaps"):
        torch.testing.assert_close(getattr(found[0], part), getattr(found[1], part), rtol=0, atol=0, equal_nan=True)


def test_a_sample_that_fails_at_the_last_evaluation_is_evaluated_at_its_best() -> None:
    calls = [0]

    def f(z: Tensor) -> Tensor:
        calls[0] += 1
        return z / 2 + 1 if calls[0] < 4 else torch.where(z > 1.6, torch.nan, z / 2 + 1)

    z0 = torch.zeros(1, 2, dtype=torch.float64)
    solution = solve(f, z0, Picard(), Stop(rtol=1e-9, max_steps=4), attached=f)
    assert (solution.nfe, calls[0], solution.status.tolist()) == (5, 5, [Status.NONFINITE])
    assert solution.image is not None
    assert solution.z[0, 0] == 1.5
    assert torch.equal(solution.image, z0 + 1.75)


@pytest.mark.parametrize("rtol", [None, 1e-9])
@pytest.mark.parametrize("name", [*ADJOINTS])
def test_the_output_does_not_depend_on_grad_mode_where_a_solve_reaches_its_cap(name: str, rtol: float | None) -> None:
    shift, weight = torch.linspace(-1, 1, 8, dtype=torch.float64), torch.ones((), dtype=torch.float64, requires_grad=True)
    solver = SOLVERS["picard" if name == "unroll" else "broyden"]()

    def output() -> Tensor:
        y: Tensor = ADJOINTS[name]()(
            lambda z: torch.tanh(3 * weight * z.roll(1) + shift), torch.zeros(1, 8).double(), solver, stop, lambda *_: None
        )
        return y.detach()

    for most in range(1, 9):
        stop = Stop(rtol=rtol, max_steps=most)
        with torch.no_grad():
            quiet = output()
        assert torch.equal(quiet, output())


def test_an_evaluation_returns_what_training_returns_at_convergence() -> None:
    layer = DEQ(MLPCell(width=6), solver=SOLVERS["anderson"](), stop=Stop(rtol=1e-6, max_steps=80))
    x = torch.randn(2, 3, 6)
    trained = layer(x).y
    with torch.no_grad():
        assert torch.equal(layer.eval()(x).y, trained)
