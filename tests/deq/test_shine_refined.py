"""SHINE's refinement against dense algebra: Broyden's good method from the forward solve's estimate, down to the exact gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deq import DEQ, Broyden, Implicit, MLPCell, Solution, Status, Stop, solve
from deq.adjoints import Shine
from deq.adjoints.shine import InverseEstimate, MemoryRecorder, _Preconditioned

B, N = 3, 12
TIGHT = Stop(rtol=1e-12, max_steps=60)
pytestmark = pytest.mark.usefixtures("double")


class Contraction(nn.Module):
    """f(z) = tanh(z W^T + x), ||W||_2 = norm; x (B, N) is a parameter too. A sample whose `drift` is 1 has no fixed point."""

    def __init__(self, norm: float = 0.9) -> None:
        super().__init__()
        W = torch.randn(N, N)
        self.W = nn.Parameter(norm * W / torch.linalg.matrix_norm(W, 2))
        self.x = nn.Parameter(torch.randn(B, N))
        self.v, self.drift = torch.randn(B, N), torch.zeros(B, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.W.T + self.x) + self.drift * (z + torch.sqrt(1 + z * z))

    def row(self, b: int) -> "Contraction":
        """The map of one sample."""
        found = Contraction()
        found.W, found.x = nn.Parameter(self.W.detach()), nn.Parameter(self.x[b : b + 1].detach())
        found.v, found.drift = self.v[b : b + 1], self.drift[b : b + 1]
        return found

    def jacobian(self, z: Tensor) -> Tensor:
        return ((1 - self(z) ** 2).unsqueeze(2) * self.W).detach()


def gradients(f: Contraction, adjoint: Any, stop: Stop = TIGHT) -> tuple[list[Tensor], list[Solution]]:
    """Gradients in W and x, and the solutions: forward, backward."""
    seen: list[Solution] = []
    y = adjoint(f, torch.zeros_like(f.x), Broyden(window=60), stop, lambda phase, solution: seen.append(solution))
    return list(torch.autograd.grad(y, [f.W, f.x], f.v)), seen


@pytest.mark.parametrize("norm", [0.5, 0.99, 2.0])
def test_refined_to_the_end_it_is_the_exact_gradient(norm: float) -> None:
    f = Contraction(norm)
    found, (_, backward) = gradients(f, Shine(refine=60, stop=Stop(rtol=1e-12, max_steps=100)))
    assert backward.converged.all()
    with torch.no_grad():
        z = solve(f, torch.zeros_like(f.x), Broyden(window=60), Stop(rtol=1e-14, max_steps=200)).z
    u = torch.linalg.solve((torch.eye(N) - f.jacobian(z)).mT, f.v)
    for one, exact in zip(found, torch.autograd.grad(f(z), [f.W, f.x], u), strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("norm", [0.5, 0.9, 0.99])
def test_it_needs_fewer_products_than_broydens_method_without_an_estimate(norm: float, rtol: float) -> None:
    """The forward solve was good, so that its estimate knows the directions in which f contracts least."""
    f, stop, counts = Contraction(norm), Stop(rtol=rtol, max_steps=60), []
    for adjoint in (Shine(refine=60, stop=stop), Implicit(solver=Broyden(window=60), stop=stop)):
        _, (_, backward) = gradients(f, adjoint)
        assert backward.converged.all()
        counts.append(backward.nfe)
    assert counts[0] < counts[1]


def test_each_step_is_that_of_broydens_good_method_from_the_dense_estimate() -> None:
    """The update is of the inverse, as a matrix, by Sherman and Morrison."""
    f, kept, stop = Contraction(), MemoryRecorder(Broyden()), Stop(rtol=None, max_steps=4)
    with torch.no_grad():
        solution = solve(f, torch.zeros_like(f.x), kept, Stop(rtol=None, max_steps=6))
    J, estimate = f.jacobian(solution.z), InverseEstimate.of(kept.memory, solution.steps - 1)
    start, trusted = estimate.start(f.v, 1e9)
    found = solve(lambda u: (J.mT @ u.unsqueeze(2)).squeeze(2) + f.v, start, _Preconditioned(trusted, stop), stop)
    product = torch.stack([estimate.product(column.expand(B, N)) for column in torch.eye(N)], dim=2)
    for b in range(B):
        u, inverse, residuals = product[b] @ f.v[b], -product[b], []
        for _ in range(4):
            g = J[b].T @ u + f.v[b] - u
            residuals.append(g.norm())
            s = -inverse @ g
            y = J[b].T @ s - s
            inverse = inverse + torch.outer(s - inverse @ y, s @ inverse) / (s @ inverse @ y)
            u = u + s
        torch.testing.assert_close(found.gaps[:, b], torch.stack(residuals))


def test_without_refinement_it_is_the_product_alone_bit_for_bit_whatever_the_stop() -> None:
    f, kept = Contraction(), MemoryRecorder(Broyden(window=60))
    found, seen = gradients(f, Shine(refine=0, stop=Stop(rtol=1e-9, max_steps=7)))
    assert len(seen) == 1
    with torch.no_grad():
        solution = solve(f, torch.zeros_like(f.x), kept, TIGHT)
    u, steps, divisors = f.v, kept.memory.steps, kept.memory.divisors
    for last in range(kept.memory.stored - 1, 0, -1):
        along = torch.linalg.vecdot(steps[:, last], u) / divisors[:, last - 1]
        u = torch.addcmul(u, torch.where(last < solution.steps - 1, along, 0).unsqueeze(1), steps[:, last - 1])
    assert (u.norm(dim=1) <= 3 * f.v.norm(dim=1)).all()
    for one, other in zip(found, torch.autograd.grad(f(solution.z), [f.W, f.x], u), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_takes_so_many_steps_and_keeps_the_best(steps: int) -> None:
    f = Contraction(0.99)
    _, (_, backward) = gradients(f, Shine(refine=steps, stop=Stop(rtol=1e-12)), Stop(rtol=1e-3, max_steps=20))
    assert backward.nfe == steps + 1
    assert (backward.status == Status.MAX_STEPS).all()
    assert torch.equal(backward.gap, backward.gaps.amin(0))
    _, (_, capped) = gradients(f, Shine(refine=steps, stop=Stop(rtol=1e-12, max_steps=1)))
    assert capped.nfe == 1


@pytest.mark.parametrize("spoiled", ["state", "loss", "map"])
def test_a_sample_that_fails_spoils_no_other(spoiled: str) -> None:
    """Sample 1 has a NaN in its map, a NaN in its loss, or no fixed point."""
    f, stop = Contraction(), Stop(rtol=1e-9, max_steps=30)
    adjoint = Shine(refine=40, stop=Stop(rtol=1e-9, max_steps=60))
    exact, _ = gradients(f, adjoint, stop)
    {"state": f.x.data, "loss": f.v, "map": f.drift}[spoiled][1, 0] = 1.0 if spoiled == "map" else torch.nan
    found, (forward, backward) = gradients(f, adjoint, stop)
    assert forward.converged.tolist() == [True, spoiled == "loss", True]
    assert backward.converged[[0, 2]].all()
    assert (backward.status[1] == Status.NONFINITE) == (spoiled != "map")
    assert torch.equal(found[1][[0, 2]], exact[1][[0, 2]])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    f, stop = Contraction(), Stop(rtol=1e-6, max_steps=60)
    f.x.data *= torch.tensor([[0.0], [1.0], [5.0]])
    adjoint = Shine(refine=60, stop=stop)
    (_, together), (_, backward) = gradients(f, adjoint, stop)
    assert len(set(backward.steps.tolist())) > 1
    for b in range(B):
        (_, alone), (_, own) = gradients(f.row(b), adjoint, stop)
        torch.testing.assert_close(alone[0], together[b])
        assert own.steps[0] == backward.steps[b]


def test_a_sample_that_does_not_trust_its_estimate_starts_from_v_and_the_identity() -> None:
    f, kept = Contraction(), MemoryRecorder(Broyden())
    with torch.no_grad():
        solution = solve(f, torch.zeros_like(f.x), kept, Stop(rtol=None, max_steps=9))
    estimate = InverseEstimate.of(kept.memory, solution.steps - 1)
    u = estimate.product(f.v)
    limit = (u.norm(dim=1) / f.v.norm(dim=1)).sort().values[1].item() * 1.01  # the longest is not trusted
    start, first = estimate.start(f.v, limit)
    trusted = first.counts > 0
    assert trusted.sum() == 2
    assert torch.equal(start, torch.where(trusted.unsqueeze(1), u, f.v))
    assert torch.equal(first.product(f.v), start)


def test_evaluation_may_be_longer_than_the_window() -> None:
    stop = Stop(rtol=None, max_steps=9)
    layer = DEQ(MLPCell(width=N), solver=Broyden(window=8), stop=stop, adjoint=Shine(refine=3), evaluation_stop=Stop(max_steps=60))
    with torch.no_grad():
        assert not layer.eval()(torch.randn(B, 4, N)).y.requires_grad
    layer.train()(torch.randn(B, 4, N)).y.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_wrong_settings_are_refused() -> None:
    for refine in (-1, True, 2.0):
        with pytest.raises(ValueError, match="refine must be an integer of at least 0"):
            Shine(refine=refine)  # type: ignore[arg-type]
