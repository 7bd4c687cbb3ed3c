"""SHINE against dense algebra: Broyden's update as a matrix, and a line, where his estimate is the inverse."""

from typing import Any

import problems
import pytest
import torch
from problems import silent
from torch import Tensor, nn

from bench.instruments.probes import saved_bytes
from deq import DEQ, Anderson, Broyden, Cell, Implicit, Map, MLPCell, Phantom, Solution, Stop, solve
from deq.adjoints.shine import InverseEstimate, MemoryRecorder, Shine

B, N = 3, 5
TIGHT = Stop(rtol=1e-12, max_steps=31)
pytestmark = pytest.mark.usefixtures("double")


class Affine(nn.Module):
    """f(z) = z A^T + b."""

    def __init__(self, size: int = N) -> None:
        super().__init__()
        self.a = nn.Parameter(0.5 * torch.randn(size, size) / size**0.5)
        self.b = nn.Parameter(torch.randn(size))

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.a.T + self.b


def gradients(f: nn.Module, adjoint: Any, solver: Any = None, stop: Stop = TIGHT) -> list[Tensor]:
    size = len(next(f.parameters()))
    y = adjoint(f, torch.randn(B, size, generator=torch.Generator().manual_seed(1)), solver or Broyden(), stop, silent)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad(y, list(f.parameters()), v))


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_the_gradient_at_the_solution_is_v_by_the_transposed_dense_estimate(steps: int) -> None:
    """The matrix is built by the good method's own update of B from s and y = g(z + s) - g(z), not in product form."""
    f = Affine()
    z0, kept = torch.randn(B, N), MemoryRecorder(Broyden())
    with torch.no_grad():
        solve(f, z0, kept, Stop(rtol=None, max_steps=steps + 1))
    found = kept.memory.steps[:, : kept.memory.stored]
    assert found.shape[1] == steps
    v = torch.randn(B, N)
    u = InverseEstimate.of(kept.memory, torch.full((B,), steps)).apply_transposed(v, 1e9)
    for b in range(B):
        dense = -torch.eye(N)  # of g(z) = f(z) - z
        for s in found[b, :-1]:
            y = f.a.detach() @ s - s
            dense = dense + torch.outer(y - dense @ s, s) / (s @ s)
        torch.testing.assert_close(u[b], torch.linalg.solve(-dense.T, v[b]))


def test_on_a_line_it_is_the_implicit_gradient_where_a_step_alone_is_not() -> None:
    """In one dimension Broyden's method is the secant method: its estimate of a slope is the slope."""
    f = Affine(size=1)
    shared, exact, free = (gradients(f, how) for how in (Shine(), Implicit(solver=Anderson(), stop=TIGHT), Phantom()))
    for ours, wanted, other in zip(shared, exact, free, strict=True):
        torch.testing.assert_close(ours, wanted)
        assert not torch.allclose(other, wanted, rtol=1e-2)


def test_a_sample_whose_estimate_is_wild_takes_v_itself() -> None:
    steps = torch.zeros(2, 2, N)
    steps[:, 0, 0], steps[0, 1, 0], steps[1, 1, 0] = 1.0, 50.0, 0.5
    v = torch.ones(2, N)
    both = torch.tensor([2, 2])

    def shared(counts: Tensor) -> Tensor:
        return InverseEstimate(steps=steps, divisors=steps.square().sum(2), counts=counts).apply_transposed(v, Shine().limit)

    u = shared(both)
    assert torch.equal(u[0], v[0])
    torch.testing.assert_close(u[1], torch.tensor([1.5, 1.0, 1.0, 1.0, 1.0]))
    steps[0, 1, 0] = torch.nan
    assert torch.equal(shared(both)[0], v[0])
    assert torch.equal(shared(torch.tensor([1, 1])), v)  # one step is no estimate


def test_a_solve_of_one_step_is_jacobian_free() -> None:
    f = Affine()
    one = Stop(rtol=None, max_steps=1)
    for ours, free in zip(gradients(f, Shine(), stop=one), gradients(f, Phantom(), stop=one), strict=True):
        assert torch.equal(ours, free)


def test_samples_do_not_see_their_batch() -> None:
    class Bound(Cell):
        width = N

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(N, N)

        def bind(self, x: Tensor, memory: Any = None) -> Map:
            return lambda z: torch.tanh(self.inner(z)) + x

    torch.manual_seed(0)
    layer = DEQ(Bound(), solver=Broyden(), stop=Stop(rtol=1e-3, max_steps=12), adjoint=Shine())
    x = torch.randn(B, 4, N, requires_grad=True)
    (together,) = torch.autograd.grad(layer(x).y.sum(), x)
    for b in range(B):
        alone = x[b : b + 1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(alone).y.sum(), alone)
        torch.testing.assert_close(gradient[0], together[b])


def test_what_a_sample_does_after_its_end_is_not_in_its_estimate() -> None:
    """Row 0 is solved in a few evaluations, and overflows while row 1 goes on."""
    stop, kept = Stop(rtol=1e-2, max_steps=9), MemoryRecorder(Broyden())

    def estimate(*maps: Map) -> InverseEstimate:
        with torch.no_grad():
            solution = solve(problems.rows(*maps), torch.zeros(len(maps), N), kept, stop)
        assert solution.converged[0]
        assert 3 <= solution.steps[0] <= 6
        return InverseEstimate.of(kept.memory, solution.steps - 1)

    def breaking(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(z) if calls <= 6 else z * torch.inf

    calls = 0
    together, alone = estimate(breaking, problems.translation), estimate(torch.cos)
    assert not together.steps[0].isfinite().all()
    v = torch.randn(2, N)
    u = alone.apply_transposed(v[:1], 10)
    assert torch.equal(together.apply_transposed(v, 10)[0], u[0])
    assert not torch.equal(u, v[:1])


def test_nothing_of_the_solve_is_saved_but_its_steps_and_no_backward_solve_is_told_of() -> None:
    watched: list[str] = []
    torch.manual_seed(0)
    layer = DEQ(MLPCell(width=N), solver=Broyden(), stop=Stop(rtol=None, max_steps=9), adjoint=Shine())
    layer.watch(lambda phase, solution: watched.append(phase))
    layer(torch.randn(B, 4, N)).y.sum().backward()
    assert watched == ["forward"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    with torch.no_grad():
        assert not layer(torch.randn(B, 4, N)).y.requires_grad


@pytest.mark.parametrize("refine", [0, 3])
def test_the_steps_count_as_saved(refine: int) -> None:
    """No less than eight steps and their divisors, and no more than the solver's memory and a count a sample."""
    f, z0, stop = Affine(), torch.randn(B, N), Stop(rtol=None, max_steps=9)
    told, exclude = list[Solution](), [*f.parameters(), z0]

    def saved_by(adjoint: Any) -> int:
        return saved_bytes(lambda: adjoint(f, z0, Broyden(), stop, lambda phase, one: told.append(one)).sum(), exclude)

    more = saved_by(Shine(refine=refine)) - saved_by(Implicit())
    assert 8 * B * (8 * N + 8) <= more <= told[0].solver_bytes + 4 * B


def test_another_solver_or_a_limit_below_one_is_refused() -> None:
    with pytest.raises(TypeError, match="uses the estimate of Broyden's method, which Anderson does not make"):
        gradients(Affine(), Shine(), solver=Anderson())
    with pytest.raises(ValueError, match="a window for all 59 steps of the solve, got 30"):
        gradients(Affine(), Shine(), stop=Stop(max_steps=60))
    for limit in (0.5, float("nan")):
        with pytest.raises(ValueError, match="limit must be at least 1"):
            Shine(limit=limit)
