"""GMRES against dense algebra: residuals are the least possible, and the gradient is the implicit one."""

import pytest
import torch
from torch import Tensor, nn

from deq import CELLS, DEQ, GMRES, Anderson, Implicit, Solution, Status, Stop
from deq.adjoints.gmres import gmres

B, N = 3, 7


def systems(radius: float = 0.9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(B, N, N, generator=generator, dtype=torch.float64)
    matrices = radius * matrices / torch.linalg.eigvals(matrices).abs().amax(1).view(B, 1, 1)
    return matrices, torch.randn(B, N, generator=generator, dtype=torch.float64)


def solved(matrices: Tensor, right: Tensor, stop: Stop, restart: int = 30) -> Solution:
    return gmres(lambda u: torch.einsum("bij,bj->bi", matrices, u), right, stop, restart)


@pytest.mark.parametrize("radius", [0.5, 0.9, 3.0])
def test_after_as_many_products_as_unknowns_it_is_the_dense_solution(radius: float) -> None:
    matrices, right = systems(radius)
    exact = torch.linalg.solve(torch.eye(N, dtype=torch.float64) - matrices, right)
    solution = solved(matrices, right, Stop(rtol=None, max_steps=N))
    torch.testing.assert_close(solution.z, exact, rtol=1e-9, atol=1e-9)
    assert solution.nfe == N


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_residuals_are_the_least_in_the_krylov_space(steps: int) -> None:
    matrices, right = systems()
    solution = solved(matrices, right, Stop(rtol=None, max_steps=steps))
    for b in range(B):
        a = torch.eye(N, dtype=torch.float64) - matrices[b]
        space = [right[b]]
        for _ in range(steps - 1):
            space.append(a @ space[-1])
        k = torch.stack(space, dim=1)
        best = torch.linalg.lstsq(a @ k, right[b].unsqueeze(1)).solution
        least = (right[b].unsqueeze(1) - a @ k @ best).norm()
        left = (right[b] - a @ solution.z[b]).norm()
        assert left.item() == pytest.approx(least.item(), rel=1e-8, abs=1e-12)
        assert solution.gap[b].item() == pytest.approx(left.item(), rel=1e-8, abs=1e-12)
    assert (solution.gaps.diff(dim=0) <= 1e-12).all()


@pytest.mark.parametrize("restart", [1, 2, 3, 5])
def test_it_converges_over_restarts(restart: int) -> None:
    matrices, right = systems(0.5)
    solution = solved(matrices, right, Stop(rtol=1e-9, max_steps=400), restart)
    assert (solution.status == Status.CONVERGED).all()
    left = right - solution.z + torch.einsum("bij,bj->bi", matrices, solution.z)
    assert (left.norm(dim=1) <= 1.01e-9 * right.norm(dim=1)).all()


def test_a_sample_stops_by_itself_and_its_result_does_not_depend_on_the_others() -> None:
    matrices, right = systems()
    matrices[0] *= 0.01  # easy
    stop = Stop(rtol=1e-6, max_steps=50)
    together = solved(matrices, right, stop)
    assert together.steps[0] < together.steps[1]
    for b in range(B):
        alone = solved(matrices[b : b + 1], right[b : b + 1], stop)
        torch.testing.assert_close(alone.z[0], together.z[b], rtol=1e-12, atol=1e-12)
        assert alone.steps[0] == together.steps[b]


def test_zero_exhausted_and_nonfinite_systems_end() -> None:
    matrices, right = systems()
    right[0] = 0.0
    matrices[1] = 0.0  # one product is enough
    zero = solved(matrices, right, Stop(rtol=None, max_steps=9))
    assert torch.equal(zero.z[0], torch.zeros(N, dtype=torch.float64))
    torch.testing.assert_close(zero.z[1], right[1])
    assert zero.z.isfinite().all()
    matrices[2, 0, 0] = float("nan")
    broken = solved(matrices, right, Stop(rtol=1e-9, atol=1e-30, max_steps=20))
    assert broken.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE]
    assert broken.z.isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "transformer-xl", "trellis"])
def test_the_gradient_is_the_implicit_one_in_no_more_products(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](width=8, **({"heads": 2} if name == "transformer-xl" else {})).double()
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    found, counts = [], []
    stop = Stop(rtol=1e-9, max_steps=100)
    for adjoint in (GMRES(stop=stop), Implicit(solver=Anderson(), stop=stop)):
        layer = DEQ(cell, solver=Anderson(), stop=Stop(rtol=1e-11, max_steps=200), adjoint=adjoint)
        backward: list[int] = []
        layer.watch(lambda phase, one, kept=backward: kept.append(one.nfe) if phase == "backward" else None)  # type: ignore[misc]
        loss = layer(x).y.sin().sum()
        found.append(torch.autograd.grad(loss, list(cell.parameters()), allow_unused=True))
        counts.append(backward[0])
    for one, exact in zip(*found, strict=True):
        if exact is not None:
            torch.testing.assert_close(one, exact, rtol=1e-6, atol=1e-9)
    assert counts[0] <= counts[1]


def test_a_restart_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="restart"):
        GMRES(restart=0)


def test_a_sample_without_a_gradient_ends_at_once() -> None:
    matrices, right = systems()
    right[0] = 0.0
    solution = solved(matrices, right, Stop(rtol=1e-6, max_steps=50))
    assert solution.status.tolist() == [Status.CONVERGED] * B
    assert solution.steps[0] == 1 < solution.steps[1]
    assert not solution.z[0].any()


def test_it_ends_at_an_absolute_residual() -> None:
    matrices, right = systems()
    solution = solved(matrices, right, Stop(rtol=0.0, atol=0.5, max_steps=50))
    assert (solution.status == Status.CONVERGED).all()
    for b, steps in enumerate(solution.steps.tolist()):
        assert solution.gaps[steps - 1, b] < 0.5
        assert steps == 1 or solution.gaps[steps - 2, b] >= 0.5
    assert solution.nfe < N


@pytest.mark.parametrize("restart", [2, 30])
def test_a_sample_that_is_not_finite_keeps_what_it_had_while_others_go_on(restart: int) -> None:
    matrices, right = systems(0.5)
    calls = 0

    def product(u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        image = torch.einsum("bij,bj->bi", matrices, u)
        return image.index_fill(0, torch.tensor(0), float("nan")) if calls == 3 else image

    solution = gmres(product, right, Stop(rtol=1e-9, max_steps=40), restart)
    alone = solved(matrices[1:], right[1:], Stop(rtol=1e-9, max_steps=40), restart)
    assert solution.status.tolist() == [Status.NONFINITE, Status.CONVERGED, Status.CONVERGED]
    assert solution.z.isfinite().all()
    torch.testing.assert_close(solution.z[1:], alone.z, rtol=1e-12, atol=1e-12)


def test_a_large_gradient_loses_no_product() -> None:
    """In float32, (J^T u + v) - v has no digit of J^T u left where v is large, as loss scaling makes it."""
    linear = nn.Linear(4096, 4096, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.linspace(-0.9, 0.9, 4096)))
    solutions: list[Solution] = []
    y = GMRES(stop=Stop(rtol=0.0, atol=1e-2, max_steps=200))(
        linear, torch.zeros(1, 4096), Anderson(), Stop(), lambda phase, solution: solutions.append(solution)
    )
    v = 3e4 * torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    y.backward(v)
    exact = v.double() / (1 - torch.diag(linear.weight).double())
    assert (solutions[1].z.double() - exact).norm() < 1e-4 * exact.norm()
