"""Each solver against theory, against an independent dense implementation, and at the edges where windows are singular."""

from itertools import pairwise

import problems
import pytest
import torch
from cases import exhaustive
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem
from torch import Tensor

from deq import SOLVERS, Anderson, Broyden, Map, Picard, Solver, Status, Stop, solve

NAMES = sorted(SOLVERS)
FAST = [Anderson, Broyden]


def iterates(f: Map, z0: Tensor, solver: Solver, steps: int) -> list[Tensor]:
    """The sequence of a solver, driven by hand."""
    z, memory, seen = z0, solver.init(z0, 1000), [z0]
    for _ in range(steps):
        z, memory = solver.step(f, z, f(z), memory)
        seen.append(z.clone())
    return seen


def dense_broyden(f: Map, z0: Tensor, steps: int) -> list[Tensor]:
    """The textbook good Broyden method of one sample: a dense inverse Jacobian of g = f - z, begun at -I, Sherman-Morrison."""
    H = -torch.eye(z0.numel(), dtype=z0.dtype)
    z, seen = z0, [z0]
    g = (f(z) - z)[0]
    for _ in range(steps):
        s = -H @ g
        z = z + s
        change = (f(z) - z)[0] - g
        g = g + change
        H = H + torch.outer(s - H @ change, s @ H) / (s @ H @ change)
        seen.append(z)
    return seen


def least_squares_anderson(f: Map, z0: Tensor, steps: int, window: int, mixing: float) -> list[Tensor]:
    """Anderson acceleration of one sample by unconstrained least squares over residual differences."""
    z, seen, images, residuals = z0, [z0], [], []
    for _ in range(steps):
        fz = f(z)
        images, residuals = [*images, fz[0]][-window:], [*residuals, (fz - z)[0]][-window:]
        step_f, step_g = images[-1], residuals[-1]
        if len(images) > 1:
            dF = torch.stack([images[-1] - image for image in images[:-1]], dim=1)
            dG = torch.stack([residuals[-1] - residual for residual in residuals[:-1]], dim=1)
            gamma = torch.linalg.lstsq(dG, residuals[-1][:, None], driver="gelsd").solution
            step_f, step_g = step_f - (dF @ gamma)[:, 0], step_g - (dG @ gamma)[:, 0]
        z = (step_f - (1 - mixing) * step_g)[None]
        seen.append(z)
    return seen


SINGLE: list[Problem] = [
    problems.tanh(batch=1, size=12, norm=0.95),
    problems.tanh(batch=1, size=20, norm=1.5, seed=3),
    problems.negative_spectrum(batch=1, size=15),
    problems.affine(batch=1, size=15, low=-0.5, high=0.95),
]


@pytest.mark.parametrize("problem", SINGLE)
def test_picard_is_the_iteration_itself(problem: Problem) -> None:
    z = problem.z0
    for seen in iterates(problem.f, problem.z0, Picard(), 8):
        assert torch.equal(seen, z)
        z = problem.f(z)


@pytest.mark.parametrize("relaxation", [0.1, 0.5])
def test_relaxed_picard_is_the_weighted_mean(relaxation: float) -> None:
    problem = SINGLE[0]
    z = problem.z0
    for seen in iterates(problem.f, problem.z0, Picard(relaxation=relaxation), 8):
        torch.testing.assert_close(seen, z)
        z = (1 - relaxation) * z + relaxation * problem.f(z)


def test_relaxation_makes_picard_converge_on_a_negative_spectrum() -> None:
    problem = problems.negative_spectrum()
    assert (solve(problem.f, problem.z0, Picard(), Stop(max_steps=200)).status == Status.DIVERGED).all()
    # 1 - r (1 - a) for a in [-2, 0.5] is within 5/7 at r = 4/7.
    solution = solve(problem.f, problem.z0, Picard(relaxation=4 / 7), Stop(rtol=1e-9, max_steps=80))
    assert solution.converged.all()


@pytest.mark.parametrize("problem", SINGLE)
def test_broyden_is_the_textbook_method(problem: Problem) -> None:
    ours = iterates(problem.f, problem.z0, Broyden(window=30), 11)
    reference = dense_broyden(problem.f, problem.z0, 11)
    for k, (z, expected) in enumerate(zip(ours, reference, strict=True)):
        torch.testing.assert_close(z, expected, rtol=1e-8, atol=1e-8, msg=lambda m, k=k: f"iterate {k}: {m}")


@pytest.mark.parametrize("window", [2, 3, 5])
def test_broyden_starts_afresh_when_its_window_is_full(window: int) -> None:
    problem = SINGLE[0]
    ours = iterates(problem.f, problem.z0, Broyden(window=window), 3 * window)
    for start in range(0, 3 * window, window):
        reference = dense_broyden(problem.f, ours[start], window)
        for z, expected in zip(ours[start : start + window + 1], reference, strict=True):
            torch.testing.assert_close(z, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mixing", [1.0, 0.6])
@pytest.mark.parametrize("window", [1, 2, 3, 6])
@pytest.mark.parametrize("ridge", [None, 0.0])
@pytest.mark.parametrize("problem", SINGLE)
def test_anderson_is_constrained_least_squares(problem: Problem, ridge: float | None, window: int, mixing: float) -> None:
    ours = iterates(problem.f, problem.z0, Anderson(window=window, ridge=ridge, mixing=mixing), 10)
    reference = least_squares_anderson(problem.f, problem.z0, 10, window, mixing)
    for k, (z, expected) in enumerate(zip(ours, reference, strict=True)):
        torch.testing.assert_close(z, expected, rtol=1e-6, atol=1e-6, msg=lambda m, k=k: f"iterate {k}: {m}")


def test_a_ridge_is_relative_to_the_diagonal() -> None:
    problem, window, ridge = SINGLE[0], 3, 0.5
    images, residuals = list[Tensor](), list[Tensor]()
    for z, proposed in pairwise(iterates(problem.f, problem.z0, Anderson(window=window, ridge=ridge), 6)):
        images, residuals = [*images, problem.f(z)[0]][-window:], [*residuals, (problem.f(z) - z)[0]][-window:]
        gram = torch.stack(residuals) @ torch.stack(residuals).T
        weights = torch.linalg.solve(gram + ridge * torch.diag(gram.diag()), torch.ones(len(gram), dtype=gram.dtype))
        torch.testing.assert_close(proposed[0], weights / weights.sum() @ torch.stack(images), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [2, 5, 10])
@pytest.mark.parametrize(("low", "high"), [(-0.9, 0.9), (-2.0, 0.5), (-5.0, -1.5), (0.0, 0.99)])
def test_an_affine_problem_ends_in_its_dimension_or_twice_that(size: int, low: float, high: float) -> None:
    """With window > n, Anderson is GMRES: n + 1 evaluations span the space, one more meets the tolerance, and one for rounding.

    Broyden's method: D. M. Gay, SIAM J. Numer. Anal. 16 (1979): at most 2n steps; one evaluation more sees it.
    """
    problem = problems.affine(size=size, low=low, high=high, batch=4)
    for solver, most in ((Anderson(window=size + 1), size + 3), (Broyden(window=3 * size), 2 * size + 1)):
        solution = solve(problem.f, problem.z0, solver, Stop(rtol=1e-8, max_steps=90))
        assert solution.converged.all()
        assert solution.steps.max() <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("solver", "make", "most"),
    [
        (Anderson(), problems.affine, 30),
        (Broyden(), problems.affine, 20),
        (Anderson(), problems.negative_spectrum, 22),
        (Broyden(), problems.negative_spectrum, 20),
        (Anderson(), problems.tanh, 16),
        (Broyden(), problems.tanh, 16),
        (Anderson(), problems.cosine, 8),
        (Broyden(), problems.cosine, 8),
    ],
)
def test_evaluations_to_a_tolerance_are_bounded(solver: Solver, make: type[Problem], most: int, dtype: torch.dtype) -> None:
    problem = make(dtype=dtype)
    solution = solve(problem.f, problem.z0, solver, Stop(rtol=1e-6, max_steps=100))
    assert solution.converged.all()
    assert solution.nfe <= most
    assert problem.error(solution.z) < 2e-5


def test_picard_takes_as_many_steps_as_the_spectral_radius_says() -> None:
    problem = problems.affine(size=2, low=0.5, high=0.5, batch=1)
    solution = solve(problem.f, problem.z0, Picard(), Stop(rtol=1e-6, max_steps=100))
    assert solution.steps.item() == 20  # gap / size is 2^-k / (2 - 2^-k) at evaluation k + 1


@pytest.mark.parametrize("make", FAST)
def test_tight_tolerances_are_reached_in_float64(make: type[Anderson] | type[Broyden]) -> None:
    problem = problems.affine(size=30)
    solution = solve(problem.f, problem.z0, make(), Stop(rtol=1e-13, max_steps=150))
    assert solution.converged.all()


@pytest.mark.parametrize("make", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-20, 20])
def test_scaling_the_problem_scales_the_iterates_bit_by_bit(make: type[Solver], dtype: torch.dtype, power: int) -> None:
    """No setting, a ridge for one, may be in the units of z; powers of two leave the mantissas alone."""
    one, scaled = problems.affine(dtype=dtype), problems.affine(dtype=dtype, scale=2.0**power)
    for z, image in zip(iterates(one.f, one.z0, make(), 9), iterates(scaled.f, one.z0, make(), 9), strict=True):
        assert torch.equal(image, z * 2.0**power)


@pytest.mark.parametrize(("make", "window"), [(Anderson, 3), (Anderson, 5), (Broyden, 2), (Broyden, 3), (Broyden, 5)])
def test_a_window_far_below_the_cap_still_converges(make: type[Anderson] | type[Broyden], window: int) -> None:
    for problem in (problems.negative_spectrum(size=20), problems.tanh(size=20), problems.affine(size=20, low=-0.9, high=0.5)):
        solution = solve(problem.f, problem.z0, make(window=window), Stop(rtol=1e-10, max_steps=200))
        assert solution.converged.all()
        assert solution.nfe > window
        assert solution.gaps.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ridge", [None, 0.0])
def test_a_singular_window_is_a_picard_step_and_nobody_elses_trouble(dtype: torch.dtype, ridge: float | None) -> None:
    regular = problems.tanh(batch=1, size=4, dtype=dtype)
    solver = Anderson(ridge=ridge)
    alone = iterates(regular.f, regular.z0, solver, 8)
    # A residual that repeats, one that is zero, one that is NaN: each makes its sample's Gram matrix singular.
    f = problems.rows(problems.translation, lambda z: z, lambda z: regular.f(z[None])[0], problems.nan_at_once)
    together = iterates(f, torch.zeros(4, 4, dtype=dtype), solver, 8)
    for k in range(9):
        torch.testing.assert_close(together[k][2:3], alone[k], rtol=1e-5, atol=1e-6)
        assert together[k][1].eq(0).all()
        assert together[k][:3].isfinite().all()
    if ridge == 0:
        assert torch.equal(together[8][0], torch.full((4,), 8.0, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_going_on_at_the_solution_stays_there(name: str, dtype: torch.dtype) -> None:
    """Samples that are done go on while others are not: what rounding leaves of a residual must not throw them out."""
    for seed in range(8):
        problem = problems.affine(size=6, low=-0.5, high=0.5, dtype=dtype, seed=seed)
        solution = solve(problem.f, problem.z0, SOLVERS[name](), Stop(rtol=None, max_steps=120))
        assert (solution.status == Status.MAX_STEPS).all()
        assert problem.error(solution.z) < 20 * torch.finfo(dtype).eps
        assert (solution.gaps[60:] <= 1e-2 * solution.gaps[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_vanishing_broyden_denominator_keeps_the_old_estimate(size: int, dtype: torch.dtype) -> None:
    """A residual that repeats says nothing about the Jacobian: -I stays, and the iterates are Picard's."""
    z = iterates(problems.translation, torch.zeros(1, size, dtype=dtype), Broyden(), 5)[-1]
    assert torch.equal(z, torch.full((1, size), 5.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_plateau_of_equal_residuals_is_crossed(name: str, size: int, dtype: torch.dtype) -> None:
    """z -> z + min(1, 5 - z) has residual one up to 4 and its only fixed point at 5."""
    solution = solve(
        lambda z: z + (5 - z).clamp(max=1), torch.zeros(1, size, dtype=dtype), SOLVERS[name](), Stop(rtol=1e-6, max_steps=40)
    )
    assert solution.converged.all()
    torch.testing.assert_close(solution.z, torch.full_like(solution.z, 5), rtol=1e-5, atol=1e-5)


@given(size=st.integers(1, 40), seed=st.integers(0, 999), window=st.sampled_from([3, 6, 15]), double=st.booleans())
def test_anderson_needs_no_more_evaluations_than_picard(size: int, seed: int, window: int, double: bool) -> None:
    """A default ridge below the rounding of the Gram matrix turns window after window into a Picard step (or worse)."""
    problem = problems.tanh(size=size, norm=0.9, batch=2, seed=seed, dtype=torch.float64 if double else torch.float32)
    stop = Stop(rtol=1e-5, max_steps=200)
    steps = [solve(problem.f, problem.z0, solver, stop).steps for solver in (Anderson(window=window), Picard())]
    assert (steps[0] <= steps[1] + 2).all()


@given(size=st.integers(1, 9), batch=st.integers(1, 4), window=st.integers(2, 7), double=st.booleans(), steps=st.integers(1, 9))
def test_solver_bytes_are_the_closed_form(size: int, batch: int, window: int, double: bool, steps: int) -> None:
    dtype = torch.float64 if double else torch.float32
    z0 = torch.zeros(batch, size, dtype=dtype)
    stop = Stop(rtol=None, max_steps=steps)
    item = dtype.itemsize
    assert solve(torch.cos, z0, Picard(), stop).solver_bytes == 0
    room = min(window, steps)
    constants = item * room * (2 * room + batch)
    history = 2 * room * batch * size * item
    assert solve(torch.cos, z0, Anderson(window=window), stop).solver_bytes == history + item * batch * room**2 + constants
    history = room * batch * size * item
    assert solve(torch.cos, z0, Broyden(window=window), stop).solver_bytes == history + item * batch * (2 * room**2 + 2)


@pytest.mark.parametrize(("window", "room"), [(50, 50), (300, 256), *exhaustive((128, 128), (200, 200))])
def test_broydens_storage_grows_with_the_steps_and_changes_no_digit(
    window: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problems.affine(size=400, batch=2, low=-0.999, high=0.999)
    stop = Stop(rtol=1e-15, max_steps=256)
    grown = solve(problem.f, problem.z0, Broyden(window=window), stop)
    assert grown.nfe == 256
    assert grown.solver_bytes == 8 * 2 * (room * 400 + 2 * room**2 + 2)
    monkeypatch.setattr("deq.solvers.broyden._FIRST_ROOM", window)
    whole = solve(problem.f, problem.z0, Broyden(window=window), stop)
    assert torch.equal(grown.gaps, whole.gaps)
    assert torch.equal(grown.z, whole.z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", FAST)
def test_the_history_of_a_half_precision_solve_is_float32(make: type[Anderson] | type[Broyden], dtype: torch.dtype) -> None:
    half = solve(torch.cos, torch.zeros(2, 500, dtype=dtype), make(window=5), Stop(rtol=None, max_steps=3)).solver_bytes
    assert half == solve(torch.cos, torch.zeros(2, 500), make(window=5), Stop(rtol=None, max_steps=3)).solver_bytes


def test_broyden_stores_half_of_what_anderson_does_a_window() -> None:
    stored = [solve(torch.cos, torch.zeros(1, 10_000), make(window=10), Stop(max_steps=2)).solver_bytes for make in FAST]
    assert stored[0] == pytest.approx(2 * stored[1], rel=0.01)


@pytest.mark.parametrize("make", FAST)
def test_the_step_writes_its_own_memory_only(make: type[Solver]) -> None:
    problem = problems.tanh()
    solver, z = make(), torch.randn_like(problem.z0)
    memory = solver.init(z, 1000)
    for _ in range(10):
        fz = problem.f(z)
        kept = z.clone(), fz.clone()
        following, memory = solver.step(problem.f, z, fz, memory)
        assert torch.equal(z, kept[0])
        assert torch.equal(fz, kept[1])
        z = following


@pytest.mark.parametrize("make", FAST)
def test_two_solves_at_once_share_nothing(make: type[Solver]) -> None:
    solver, first, second = make(), problems.tanh(seed=1), problems.tanh(seed=2)
    expected = iterates(first.f, first.z0, solver, 6)[-1]

    def interrupted(z: Tensor) -> Tensor:
        solve(second.f, second.z0, solver, Stop(rtol=None, max_steps=4))
        return first.f(z)

    assert torch.equal(iterates(interrupted, first.z0, solver, 6)[-1], expected)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Picard, {"relaxation": 0.0}, r"relaxation must be in \(0, 1\], got 0.0"),
        (Picard, {"relaxation": 1.5}, "relaxation .* got 1.5"),
        (Picard, {"relaxation": float("nan")}, "relaxation .* got nan"),
        (Anderson, {"window": 0}, "window must be an integer of at least 1, got 0"),
        (Anderson, {"window": 2.5}, "window .* got 2.5"),
        (Anderson, {"mixing": 0.0}, r"mixing must be in \(0, 1\], got 0.0"),
        (Anderson, {"mixing": 2.0}, "mixing .* got 2.0"),
        (Anderson, {"ridge": -1e-9}, "ridge must not be negative, got -1e-09"),
        (Anderson, {"ridge": float("nan")}, "ridge .* got nan"),
        (Broyden, {"window": 1}, "window must be an integer of at least 2, got 1"),
        (Broyden, {"window": 2.5}, "window .* got 2.5"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_name_and_value(make: type[Solver], settings: dict[str, float], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_frozen_keywords_and_misspellings_are_errors(name: str) -> None:
    make = SOLVERS[name]
    with pytest.raises(TypeError, match="windwo"):
        make(windwo=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        make(3)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        make().window = 3  # type: ignore[misc, union-attr]
    assert make() == make()
    assert hash(make()) == hash(make())
