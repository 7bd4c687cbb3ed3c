"""The reversible solve: its iterates are the paper's coupled states, its gradient is backpropagation's in constant memory."""

from typing import Any

import pytest
import torch
from problems import silent
from torch import Tensor, nn

from bench.instruments.probes import peak_live_bytes, saved_bytes
from deq import CELLS, DEQ, Anderson, Cell, Picard, Reverse, Reversible, Solution, Status, Stop, Unroll, solve
from deq.adjoints.adjoint import Adjoint

EXACT = Stop(rtol=None, max_steps=9)


class Affine(nn.Module):
    """f(z) = tanh(z A^T + b)."""

    def __init__(self, size: int = 6, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Parameter(0.6 * torch.randn(size, size, dtype=dtype) / size**0.5)
        self.b = nn.Parameter(torch.randn(size, dtype=dtype))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.a.T + self.b)


def z_of(f: nn.Module, batch: int = 4) -> Tensor:
    parameter = next(f.parameters())
    return torch.randn(batch, len(parameter), dtype=parameter.dtype, generator=torch.Generator().manual_seed(1))


def gradients(adjoint: Adjoint, f: nn.Module, solver: Any, stop: Stop = EXACT, watch: Any = silent) -> tuple[Tensor, list[Tensor]]:
    y = adjoint(f, z_of(f), solver, stop, watch)
    v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    return y.detach(), list(torch.autograd.grad(y, list(f.parameters()), v))


@pytest.mark.parametrize("relaxation", [0.3, 0.5, 0.8, 1.3])
def test_the_iterates_are_the_coupled_states(relaxation: float) -> None:
    f, states = Affine(), []
    y = z = z_of(f)
    for _ in range(4):
        y = (1 - relaxation) * y + relaxation * f(z)
        z = (1 - relaxation) * z + relaxation * f(y)
        states += [y, z]
    seen: list[Tensor] = []

    def watched(state: Tensor) -> Tensor:
        seen.append(state)
        return f(state)

    with torch.no_grad():
        solve(watched, z_of(f), Reversible(relaxation=relaxation), Stop(rtol=None, max_steps=9))
    for found, expected in zip(seen[1:], states, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("relaxation", [0.3, 0.5, 0.8, 1.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 20])
def test_the_gradient_is_that_of_backpropagation_through_the_same_steps(relaxation: float, steps: int) -> None:
    solver, stop = Reversible(relaxation=relaxation), Stop(rtol=None, max_steps=steps)
    (y, found), (other, expected) = (gradients(adjoint, Affine(), solver, stop) for adjoint in (Reverse(), Unroll()))
    assert torch.equal(y, other)
    for one, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-8])
def test_so_it_is_where_samples_stop_by_themselves(rtol: float) -> None:
    stop, counts = Stop(rtol=rtol, max_steps=200), []
    (y, found), (other, expected) = (
        gradients(adjoint, Affine(), Reversible(relaxation=0.5), stop, lambda phase, solution: counts.append(solution.nfe))
        for adjoint in (Reverse(), Unroll())
    )
    assert counts[0] == counts[1] < 200
    assert torch.equal(y, other)
    for one, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-8, atol=1e-10)


def test_a_float32_map_has_the_gradient_of_its_own_steps() -> None:
    """The state is float64: in float32 the inverses of thirty steps would leave no digit."""
    solver, stop = Reversible(relaxation=0.8), Stop(rtol=None, max_steps=30)
    f, exact = Affine(dtype=torch.float32), Affine()
    exact.load_state_dict(f.state_dict())
    v, z0 = (torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found, expected = (
        torch.autograd.grad(adjoint(g, z0.to(g.a), solver, stop, silent), [g.a, g.b], v.to(g.a))
        for adjoint, g in ((Reverse(), f), (Unroll(), exact))
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "energy"])
def test_a_layer_in_every_cell(name: str) -> None:
    """The gradients of parameters and inputs, which f's closure holds, against unrolling."""
    torch.manual_seed(0)
    settings = {"heads": 2} if "transformer" in name else {}
    cell: Cell = CELLS[name](width=8, **settings).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for adjoint in (Reverse(), Unroll()):
        layer = DEQ(cell, solver=Reversible(relaxation=0.6), stop=Stop(rtol=None, max_steps=8), adjoint=adjoint)
        loss = layer(x).y.square().sum()
        found.append(list(torch.autograd.grad(loss, [x, *cell.parameters()], allow_unused=True)))
    for one, expected in zip(*found, strict=True):
        assert (one is None) == (expected is None)
        if one is not None:
            torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-11)


def test_memory_does_not_grow_with_the_steps() -> None:
    f = Affine(64, torch.float32)
    z0 = z_of(f, 128)
    saved, peak = [], []
    for steps in (5, 10, 40):
        stop = Stop(rtol=None, max_steps=steps)

        def forward(stop: Stop = stop) -> Tensor:
            return Reverse()(f, z0, Reversible(), stop, silent).sum()

        saved.append(saved_bytes(forward, [*f.parameters(), z0]))
        peak.append(peak_live_bytes(lambda forward=forward: forward().backward(), [*f.parameters(), z0]).step)  # type: ignore[misc]
        f.zero_grad()
    state = 128 * 64 * 8
    per_step = 128 * 40  # gaps and masks, a few numbers a sample
    assert saved[2] - saved[0] <= 35 * per_step
    assert peak[2] - peak[0] <= 35 * per_step < state * 5


def test_backward_runs_twice() -> None:
    f = Affine()
    y = Reverse()(f, z_of(f), Reversible(), EXACT, silent)
    first = torch.autograd.grad(y.sum(), list(f.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), list(f.parameters()), retain_graph=True)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_an_evaluation_that_stores_nothing_is_repeated_for_the_iterates_before_it() -> None:
    """f(z) = b - z / 2 has no saved tensor, so that autograd never asks for its evaluation again."""
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    z0 = torch.zeros(2, 3, dtype=torch.float64)
    found = []
    for adjoint in (Reverse(), Unroll()):
        y = adjoint(lambda z: b - 0.5 * z, z0, Reversible(), EXACT, silent)
        found.append(torch.autograd.grad(y.square().sum(), b)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_without_a_gradient_it_is_the_plain_solve() -> None:
    f, solutions = Affine(), list[Solution]()
    stop = Stop(rtol=1e-9, max_steps=300)
    with torch.no_grad():
        y = Reverse()(f, z_of(f), Reversible(), stop, lambda phase, solution: solutions.append(solution))
        exact = solve(f, z_of(f), Anderson(), Stop(rtol=1e-12, max_steps=300)).z
    assert not y.requires_grad
    assert (solutions[0].status == Status.CONVERGED).all()
    torch.testing.assert_close(y, exact, rtol=1e-8, atol=1e-8)


def test_wrong_settings_are_refused() -> None:
    for relaxation in (0.0, 1.0, 2.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="relaxation must be in"):
            Reversible(relaxation=relaxation)
    with pytest.raises(ValueError, match="Reverse needs solver Reversible"):
        DEQ(CELLS["mlp"](width=4), solver=Picard(), stop=Stop(), adjoint=Reverse())


@pytest.mark.parametrize(("norm", "steps", "retraced"), [(0.5, 12, True), (1.0, 12, True), (1.0, 30, False)])
def test_backward_says_whether_it_came_back_to_the_start(norm: float, steps: int, retraced: bool) -> None:
    """A rotation by that norm, then tanh: rounding grows by up to 5 a step, until the gradient is no longer that of the steps."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q
    weight = (norm * rotation).requires_grad_()
    found, told = [], list[tuple[str, Solution]]()
    for adjoint in (Reverse(), Unroll()):
        y = adjoint(
            lambda z: torch.tanh(z @ weight.T + 0.1),
            torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
            Reversible(),
            Stop(rtol=None, max_steps=steps),
            lambda phase, solution: told.append((phase, solution)),
        )
        found.append(torch.autograd.grad(y.square().sum(), weight)[0])
    error = ((found[0] - found[1]).norm() / found[1].norm()).item()
    assert [phase for phase, _ in told] == ["forward", "backward", "forward"]
    backward = told[1][1]
    assert backward.nfe == steps
    assert backward.converged.all() == retraced
    assert (error < 1e-3) == retraced
