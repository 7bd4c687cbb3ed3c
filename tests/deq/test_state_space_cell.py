"""The implicit state-space model against a recurrent network solved position by position, and what reading z_{t-1} guarantees."""

import math

import pytest
import torch
from cases import exhaustive
from problems import layer_norm, recurrence_by_loop
from torch import Tensor
from torch.autograd.functional import jacobian

from deq import DEQ, Implicit, Picard, StateSpaceCell, Stop, solve
from deq.cells.state_space import StateSpaceMemory

D, S, INPUTS, T, B = 5, 6, 3, 7, 2
TIGHT = Stop(rtol=1e-13, max_steps=400)
EITHER = pytest.mark.parametrize("strict", [False, True])


def state_space(strict: bool, gain: float = 1.0) -> StateSpaceCell:
    """A cell whose reading of z is `gain` times that of the start; above one, a strict one is no contraction."""
    torch.manual_seed(0)
    cell = StateSpaceCell(width=D, inputs=INPUTS, states=S, strict=strict).double()
    with torch.no_grad():
        cell.read.weight.mul_(gain)
        cell.inject.bias.normal_()
    return cell


def features(time: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, time, INPUTS, dtype=torch.float64)


def memory_of(batch: int = B) -> StateSpaceMemory:
    return StateSpaceMemory(torch.randn(batch, 1, D, dtype=torch.float64), torch.randn(batch, S, dtype=torch.float64))


def transition(cell: StateSpaceCell, read: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """z_t and h_t (B, ...) of one position, from what its decays, inputs and gates read and the state before."""
    a, b, g = (read @ cell.read.weight.T + x @ cell.inject.weight.T + cell.inject.bias).split(S, dim=-1)
    a = 1 / (1 + torch.exp(-a))
    h = a * h + (1 - a) * b
    return layer_norm((h * g / (1 + torch.exp(-g))) @ cell.project.weight.T + cell.project.bias), h


def solved_in_turn(cell: StateSpaceCell, x: Tensor, memory: StateSpaceMemory | None) -> Tensor:
    """The fixed point (B, T, D), one position after the other: each by Newton's method from the position before."""
    z = torch.zeros(len(x), D, dtype=torch.float64) if memory is None else memory.z[:, 0]
    h = torch.zeros(len(x), S, dtype=torch.float64) if memory is None else memory.h
    found = []
    for t in range(x.shape[1]):
        if cell.strict:
            z, h = transition(cell, z, x[:, t], h)
        else:
            rows = [newton(cell, z[b : b + 1], x[b : b + 1, t], h[b : b + 1]) for b in range(len(x))]
            z, h = (torch.cat(part) for part in zip(*rows, strict=True))
        found.append(z)
    return torch.stack(found, dim=1)


def newton(cell: StateSpaceCell, z: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """z (1, D) and h (1, S) of one position of one sample, where z is read by its own decays, inputs and gates."""
    for _ in range(100):  # near enough for Newton
        z = transition(cell, z, x, h)[0].detach()
    for _ in range(5):
        J = jacobian(lambda read: transition(cell, read, x, h)[0], z).view(D, D)
        z = z + torch.linalg.solve(torch.eye(D, dtype=torch.float64) - J, (transition(cell, z, x, h)[0] - z)[0]).detach()
    return z, transition(cell, z, x, h)[1].detach()


@EITHER
@pytest.mark.parametrize("remembered", [True, *exhaustive(False)])
def test_the_fixed_point_is_the_recurrent_network_solved_position_by_position(strict: bool, remembered: bool) -> None:
    cell, x, memory = state_space(strict, gain=3.0 if strict else 1.0), features(20), memory_of() if remembered else None
    with torch.no_grad():
        solution = solve(cell.bind(x, memory), cell.initial_state(x), Picard(), TIGHT)
    assert solution.converged.all()
    torch.testing.assert_close(solution.z, solved_in_turn(cell, x, memory), rtol=1e-10, atol=1e-10)


@EITHER
def test_the_map_is_its_formula(strict: bool) -> None:
    cell, x, z = state_space(strict), features(), torch.randn(B, T, D, dtype=torch.float64)
    seen = torch.cat((torch.zeros(B, 1, D, dtype=torch.float64), z[:, :-1]), dim=1) if strict else z
    a, b, g = (seen @ cell.read.weight.T + x @ cell.inject.weight.T + cell.inject.bias).split(S, dim=-1)
    h = recurrence_by_loop(a.sigmoid(), (1 - a.sigmoid()) * b)
    wanted = layer_norm((h * g * g.sigmoid()) @ cell.project.weight.T + cell.project.bias)
    torch.testing.assert_close(cell(z, x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gain", [1.0, 30.0])
@pytest.mark.parametrize("time", [1, 2, 16, 33])
def test_a_strict_one_is_solved_exactly_in_as_many_evaluations_as_positions(time: int, gain: float) -> None:
    """From any start, to the bit, also far from a contraction; not one evaluation sooner where it is none."""
    cell, x = state_space(True, gain), features(time)
    f = cell.bind(x)
    ends = []
    with torch.no_grad():
        for size in (0.0, 1.0, 1e6):
            z = size * torch.randn(B, time, D, dtype=torch.float64)
            for _ in range(time):
                before, z = z, f(z)
            assert torch.equal(f(z), z)
            assert gain == 1 or size == 0 or not torch.equal(before, z)
            ends.append(z)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_a_strict_one_has_a_nilpotent_jacobian_and_the_other_has_not() -> None:
    x, z = features(batch=1), torch.randn(1, T, D, dtype=torch.float64)
    for strict in (True, False):
        J = jacobian(state_space(strict, 10.0).bind(x), z).view(T, D, T, D)
        for t in range(T):
            assert not J[t, :, t + 1 :].any()
            assert bool(J[t, :, t].any()) is not strict
        if strict:
            assert not torch.linalg.matrix_power(J.reshape(T * D, T * D), T).any()


@EITHER
def test_the_image_is_bounded_so_that_a_fixed_point_exists(strict: bool) -> None:
    cell, x = state_space(strict, 100.0), features()
    for size in (0.0, 1.0, 1e8):
        fz = cell(size * torch.randn(B, T, D, dtype=torch.float64), x)
        assert fz.square().sum(-1).max() <= D * (1 + 1e-12)


def test_a_strict_one_has_its_gradient_in_as_many_evaluations_as_positions() -> None:
    """Backpropagation through T plain iterations is exact; T products with the transposed Jacobian are too."""
    cell, x = state_space(True, 5.0), features().requires_grad_()
    steps = Stop(rtol=None, max_steps=T + 1)
    layer = DEQ(cell, solver=Picard(), stop=steps, adjoint=Implicit(solver=Picard(), stop=steps))
    v, wanted = torch.randn(B, T, D, dtype=torch.float64), [x, *cell.parameters()]
    f, z = cell.bind(x), cell.initial_state(x)
    for _ in range(T):
        z = f(z)
    for one, exact in zip(torch.autograd.grad(layer(x).y, wanted, v), torch.autograd.grad(z, wanted, v), strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-10, atol=1e-11)


@EITHER
def test_segments_have_the_fixed_point_of_the_whole(strict: bool) -> None:
    cell, x = state_space(strict), features(9)
    layer = DEQ(cell, solver=Picard(), stop=TIGHT)
    with torch.no_grad():
        whole, first = layer(x).y, layer(x[:, :4])
        second = layer(x[:, 4:], first.memory)
        third = layer(x[:, 4:5], first.memory)
        last = layer(x[:, 5:], third.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y), dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last.y, whole[:, 5:], rtol=1e-10, atol=1e-10)
    assert not any(part.requires_grad for part in layer(x).memory)


@pytest.mark.parametrize(("width", "inputs", "states"), [(4, None, None), (5, 3, 7)])
def test_the_number_of_parameters(width: int, inputs: int | None, states: int | None) -> None:
    cell, n, s = StateSpaceCell(width=width, inputs=inputs, states=states), inputs or width, states or width
    assert sum(p.numel() for p in cell.parameters()) == s * (4 * width + 3 * n + 3) + width
    assert "S (4 D + 3 I + 3) + D" in (StateSpaceCell.__doc__ or "")
    decays = cell.inject.bias[:s].sigmoid()
    assert math.isclose(decays.min().item(), 0.5, rel_tol=1e-5)
    assert math.isclose(decays.max().item(), 0.999, rel_tol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"inputs": 0}, {"states": 0}], ids=str)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an integer of at least 1, got 0"):
        StateSpaceCell(**{"width": 4, **wrong})
