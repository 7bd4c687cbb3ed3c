"""Broyden's method with rejected trials: against a dense implementation, and on maps where full steps fail."""

import math

import problems
import pytest
import torch
from torch import Tensor

from deq import DEQ, Broyden, Map, MLPCell, Status, Stop, solve
from deq.adjoints import Shine
from deq.solve import force_device_path


def stiff(radius: float, size: int, batch: int, seed: int = 0) -> tuple[Map, Tensor, Tensor]:
    """tanh(W z + b), a W and a b for each sample, with that spectral radius of W; zero; and W."""
    random = torch.Generator().manual_seed(seed)
    W = torch.randn(batch, size, size, generator=random, dtype=torch.float64)
    W = radius * W / torch.linalg.eigvals(W).abs().amax(1)[:, None, None]
    b = torch.randn(batch, size, generator=random, dtype=torch.float64)
    return lambda z: torch.tanh((W @ z[..., None])[..., 0] + b), torch.zeros_like(b), W


def driven(f: Map, z0: Tensor, solver: Broyden, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """The iterates of a solver, and which samples rejected each."""
    z, memory, seen, rejected = z0, solver.init(z0, 1000), [z0], []
    for _ in range(steps):
        z, memory = solver.step(f, z, f(z), memory)
        seen.append(z.clone())
        assert memory.trials is not None
        rejected.append(memory.trials.rejected)
    return seen, rejected


def dense(f: Map, z0: Tensor, steps: int, most: float, window: int) -> list[Tensor]:
    """One sample by a dense inverse Jacobian of f - z, which every trial updates; a rejected one is followed by a shorter one."""
    z, base, seen, stored = z0, z0, [z0], 0
    H = p = g = torch.empty(0)
    share = 1.0
    for step in range(steps):
        found = (f(z) - z)[0]
        rejected = step > 0 and bool(found.norm() > most * g.norm())
        if step == 0 or stored == window:  # back to an accepted iterate, and on without a memory
            H, stored = -torch.eye(len(found), dtype=z0.dtype), 1
            if rejected:
                z, p = base, torch.zeros_like(p)
            else:
                base, g, p, share = z, found, found, 1.0
                z = base + p
        else:
            s, y = share * p, found - g
            if p.any():
                H = H + torch.outer(s - H @ y, s @ H) / (s @ H @ y)
            if not rejected:
                base, g = z, found
            last, p, stored = p, -H @ g, stored + 1
            share = min(1.0, 0.5 * share * (last.norm() / p.norm()).item()) if rejected else 1.0
            z = base + share * p
        seen.append(z)
    return seen


@pytest.mark.parametrize("window", [3, 30])
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_every_trial_is_that_of_a_dense_estimate(window: int, seed: int) -> None:
    f, z0, _ = stiff(8.0, size=12, batch=1, seed=seed)
    ours, rejected = driven(f, z0, Broyden(window=window, backtrack=1.2), 22)
    assert 1 < sum(int(one) for one in rejected) < 16
    for k, (z, expected) in enumerate(zip(ours, dense(f, z0, 22, 1.2, window), strict=True)):
        torch.testing.assert_close(z, expected, rtol=1e-6, atol=1e-6, msg=lambda m, k=k: f"iterate {k}: {m}")


def test_a_bound_that_nothing_exceeds_changes_no_digit() -> None:
    for problem in (problems.tanh(size=20, norm=1.5), problems.affine(), problems.negative_spectrum()):
        plain, bounded = (solve(problem.f, problem.z0, Broyden(backtrack=b), Stop(rtol=1e-9)) for b in (None, 1e9))
        torch.testing.assert_close(bounded.gaps, plain.gaps, rtol=1e-4, atol=1e-14)
        assert plain.converged.all()


def test_a_rejected_trial_is_followed_by_one_at_most_half_as_far_from_the_same_iterate() -> None:
    f, z0, _ = stiff(8.0, size=12, batch=20)
    seen, rejections = driven(f, z0, Broyden(backtrack=1.5), 25)
    base, accepted = seen[0], problems.norms(f(z0) - z0)
    count = 0
    for trial, following, rejected in zip(seen[1:], seen[2:], rejections[1:], strict=False):
        gap = problems.norms(f(trial) - trial)
        assert torch.equal(rejected, gap > 1.5 * accepted)
        far, next_far = problems.norms(trial - base), problems.norms(following - base)
        assert (next_far[rejected] <= 0.5 * far[rejected] + 1e-12).all()
        base, accepted = torch.where(rejected[:, None], base, trial), torch.where(rejected, accepted, gap)
        count += int(rejected.sum())
    assert count > 20


STARTS = torch.tensor([[0.5], [1.0], [2.0], [3.0], [4.0]], dtype=torch.float64) * torch.tensor([1, 0.9, 0.8])


@pytest.mark.parametrize(("f", "root"), [(lambda z: 1 - z**3, 0.6823278038280193), (lambda z: 1 - z - z**3, 0.4533976515164038)])
def test_full_steps_diverge_from_afar_where_backtracking_converges(f: Map, root: float) -> None:
    """Each number by itself has one root, of the cubics z + z^3 = 1 and 2 z + z^3 = 1."""
    stop = Stop(rtol=1e-10, max_steps=100)
    plain = solve(f, STARTS, Broyden(), stop)
    assert plain.status[:3].eq(Status.CONVERGED).all()
    assert plain.status[4] == Status.DIVERGED
    for most in (1.5, 2.0):
        searched = solve(f, STARTS, Broyden(backtrack=most), stop)
        assert searched.converged.all()
        torch.testing.assert_close(searched.z, torch.full_like(STARTS, root), rtol=1e-8, atol=0)


def test_more_of_the_stiff_maps_are_solved_and_to_newtons_roots() -> None:
    """Spectral radius 10: full steps go round without end in two of five; the roots are those of Newton's method next to them."""
    f, z0, W = stiff(10.0, size=20, batch=150)
    plain, searched = (solve(f, z0, Broyden(backtrack=b), Stop(rtol=1e-8, max_steps=200)) for b in (None, 1.5))
    assert searched.converged.sum() > 1.15 * plain.converged.sum()
    assert searched.steps.sum() < 0.92 * plain.steps.sum()
    z, W = searched.z[searched.converged], W[searched.converged]
    start, eye = z, torch.eye(20, dtype=torch.float64)
    full = z0.new_zeros(z0.shape)
    for _ in range(6):
        full[searched.converged] = z
        fz = f(full)[searched.converged]
        z = z + torch.linalg.solve(eye - (1 - fz**2)[:, :, None] * W, fz - z)
    full[searched.converged] = z
    assert (problems.norms(f(full) - full)[searched.converged] < 1e-12).all()
    assert ((start - z).norm(dim=1) < 1e-5 * z.norm(dim=1)).all()


def test_a_sample_does_not_depend_on_the_others() -> None:
    one, other = lambda z: 1 - z**3, lambda z: torch.tanh(-3 * z) + 0.5
    f = problems.rows(one, other, problems.nan_at_once, one)
    z0 = STARTS[[4, 1, 1, 0]]
    stop = Stop(rtol=1e-5, max_steps=80)
    together = solve(f, z0, Broyden(backtrack=2.0), stop)
    for row, each in ((0, one), (1, other), (3, one)):
        alone = solve(each, z0[row : row + 1], Broyden(backtrack=2.0), stop)
        assert together.status[row] == alone.status[0] == Status.CONVERGED
        assert together.steps[row] == alone.steps[0]
        torch.testing.assert_close(together.z[row], alone.z[0])
    assert together.status[2] == Status.NONFINITE


def test_the_path_without_syncs_gives_the_same_bits() -> None:
    f, z0, _ = stiff(8.0, size=12, batch=10)
    stop = Stop(rtol=1e-7, max_steps=70)
    plain = solve(f, z0, Broyden(backtrack=1.5), stop)
    with force_device_path():
        other = solve(f, z0, Broyden(backtrack=1.5), stop)
    assert torch.equal(plain.gaps, other.gaps)
    assert torch.equal(plain.z, other.z)


@pytest.mark.parametrize("power", [-20, 20])
def test_scaling_the_problem_scales_the_iterates_bit_by_bit(power: int) -> None:
    f, z0, _ = stiff(8.0, size=12, batch=10)
    scale = 2.0**power
    ours, rejected = driven(f, z0, Broyden(backtrack=1.5), 20)
    scaled, _ = driven(lambda z: scale * f(z / scale), z0, Broyden(backtrack=1.5), 20)
    assert sum(int(one.sum()) for one in rejected) > 10
    assert all(torch.equal(there, scale * here) for here, there in zip(ours, scaled, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_going_on_at_the_solution_stays_there(dtype: torch.dtype) -> None:
    """Of a gap that is rounding, half of the trials are rejected."""
    problem = problems.affine(size=6, low=-0.5, high=0.5, dtype=dtype)
    solution = solve(problem.f, problem.z0, Broyden(backtrack=1.5), Stop(rtol=None, max_steps=120))
    assert problem.error(solution.z) < 20 * torch.finfo(dtype).eps
    assert (solution.gaps[60:] <= 1e-2 * solution.gaps[0]).all()


def test_a_window_of_directions_takes_three_numbers_and_a_row_a_sample_more() -> None:
    z0, stop = torch.zeros(3, 7), Stop(rtol=None, max_steps=6)
    plain, searched = (solve(torch.cos, z0, Broyden(window=5, backtrack=b), stop).solver_bytes for b in (None, 2.0))
    assert searched - plain == 3 * (4 + 4 + 1 + 4 * 5)


@pytest.mark.parametrize("value", [1.0, 0.0, -2.0, math.inf, math.nan])
def test_a_bound_that_rejects_steps_that_do_not_grow_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"backtrack must be None or finite and above 1, got {value}"):
        Broyden(backtrack=value)


def test_shine_refuses_shares_of_steps() -> None:
    with pytest.raises(ValueError, match="Shine needs full steps, Broyden with backtrack=None"):
        DEQ(MLPCell(width=4), solver=Broyden(backtrack=2.0), stop=Stop(), adjoint=Shine())
