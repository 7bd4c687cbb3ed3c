"""The contraction cell: its bound on dense Jacobians, its one fixed point, and the rate at which plain iteration finds it."""

import math

import pytest
import torch
from problems import recurrence_by_loop
from torch import Tensor
from torch.autograd.functional import jacobian

from deq import DEQ, SOLVERS, ContractionCell, Map, Picard, Stop, solve

D, T, B = 5, 7, 2
TIGHT = Stop(rtol=1e-13, max_steps=400)


def contraction(rate: float, state: str, seed: int = 0) -> ContractionCell:
    """A cell as built, after large random updates of its weights, or with weights of extreme sizes."""
    torch.manual_seed(seed)
    cell = ContractionCell(width=D, inputs=3, rate=rate).double()
    optimiser = torch.optim.SGD(cell.parameters(), lr=30.0)
    for _ in range({"built": 0, "trained": 20, "extreme": 1}[state]):
        y = DEQ(cell, solver=Picard(), stop=TIGHT)(features()).y
        optimiser.zero_grad()
        ((y - torch.randn_like(y)).square().mean()).backward()
        optimiser.step()
    if state == "extreme":
        with torch.no_grad():
            cell.mix.weight.mul_(10.0 ** torch.linspace(-300, 300, D, dtype=torch.float64)[:, None])
            cell.inject.weight.mul_(20)
    return cell


def features(time: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, time, 3, dtype=torch.float64)


def largest_row_sum(f: Map, z: Tensor) -> Tensor:
    """The norm of df/dz at z (1, T, D) that belongs to the largest absolute value: its largest row sum."""
    return jacobian(f, z).reshape(z.numel(), -1).abs().sum(1).max()


@pytest.mark.parametrize("state", ["built", "trained", "extreme"])
@pytest.mark.parametrize("rate", [0.1, 0.8, 0.99])
def test_the_jacobian_is_bounded_by_the_rate_at_every_point(rate: float, state: str) -> None:
    cell = contraction(rate, state)
    assert cell.weight().abs().sum(1).max() <= rate * (1 + 1e-12)
    for size in (0.0, 0.1, 1.0, 100.0):
        for memory in (None, torch.randn(1, D, dtype=torch.float64)):
            f = cell.bind(features(batch=1), memory)
            norm = largest_row_sum(f, size * torch.randn(1, T, D, dtype=torch.float64))
            assert norm <= rate * (1 + 1e-12)


def test_the_bound_is_reached_where_no_gate_saturates() -> None:
    """Equal weights, decays near 0 and no injection: at zero the row sum is the rate, so that no smaller bound holds."""
    cell = contraction(0.8, "built")
    with torch.no_grad():
        cell.mix.weight.fill_(1.0)
        cell.inject.weight.zero_()
        cell.inject.bias.zero_()
        cell.inject.bias[:D] = -40.0
    f = cell.bind(features(batch=1))
    assert largest_row_sum(f, torch.zeros(1, T, D, dtype=torch.float64)).item() == pytest.approx(0.8, rel=1e-12)


@pytest.mark.parametrize("state", ["built", "trained", "extreme"])
def test_every_start_and_solver_ends_at_the_same_fixed_point(state: str) -> None:
    cell, x = contraction(0.8, state), features()
    f = cell.bind(x)
    starts = [size * torch.randn(B, T, D, dtype=torch.float64) for size in (0.0, 1.0, 1e3, 1e8)]
    found = [solve(f, z0, Picard(), TIGHT) for z0 in starts]
    found += [solve(f, starts[1], SOLVERS[name](), Stop(rtol=1e-13, max_steps=1000)) for name in ("anderson", "broyden")]
    for solution in found:
        assert solution.converged.all()
        torch.testing.assert_close(solution.z, found[0].z, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("time", [1, 16, 200])
@pytest.mark.parametrize("state", ["built", "trained"])
def test_plain_iteration_converges_at_least_at_the_rate_at_any_length(state: str, time: int) -> None:
    cell, x = contraction(0.8, state), features(time)
    f, z = cell.bind(x), 10 * torch.randn(B, time, D, dtype=torch.float64)
    with torch.no_grad():
        exact = solve(f, z, Picard(), TIGHT).z
        first = (f(z) - z).abs().max()
        for k in range(1, 40):
            before, z = (z - exact).abs().max(), f(z)
            after = (z - exact).abs().max()
            assert after <= 0.8 * before + 1e-12
            assert after <= 0.8**k / (1 - 0.8) * first + 1e-12


def test_the_fixed_point_is_the_implicit_recurrence_solved_position_by_position() -> None:
    cell, x = contraction(0.8, "trained"), features()
    z = solve(cell.bind(x), torch.zeros(B, T, D, dtype=torch.float64), Picard(), TIGHT).z
    weight, before = cell.weight().detach(), torch.zeros(B, D, dtype=torch.float64)
    for t in range(T):
        gate, u = (x[:, t] @ cell.inject.weight.T + cell.inject.bias).detach().split(D, dim=-1)
        a, now = 1 / (1 + torch.exp(-gate)), before
        for _ in range(200):
            now = a * before + (1 - a) * torch.tanh(now @ weight.T + u)
        torch.testing.assert_close(z[:, t], now, rtol=1e-11, atol=1e-11)
        before = now


def test_a_map_is_its_formula_and_rows_within_the_rate_are_left_alone() -> None:
    cell, x, z = contraction(0.8, "built"), features(), torch.randn(B, T, D, dtype=torch.float64)
    with torch.no_grad():
        cell.mix.weight[0] = 0.01 * torch.arange(D)
    weight = cell.weight()
    assert torch.equal(weight[0], cell.mix.weight[0])
    torch.testing.assert_close(weight[1:].abs().sum(1), torch.full((D - 1,), 0.8).double())
    gate, u = cell.inject(x).split(D, dim=-1)
    a = gate.sigmoid()
    torch.testing.assert_close(cell(z, x), recurrence_by_loop(a, (1 - a) * torch.tanh(z @ weight.T + u)))


def test_a_state_fades_by_at_least_the_stated_factor() -> None:
    """What the guarantee costs: two memories approach each other at every position."""
    cell, x = contraction(0.8, "trained"), features(30, batch=1)
    memories = torch.randn(2, 1, D, dtype=torch.float64)
    one, other = (
        solve(cell.bind(x, memory), torch.zeros(1, 30, D, dtype=torch.float64), Picard(), TIGHT).z[0].detach()
        for memory in memories
    )
    distances = torch.cat(((memories[0] - memories[1]).abs().amax(1), (one - other).abs().amax(1)))
    a = cell.inject(x).detach()[0, :, :D].sigmoid()
    factors = (a / (1 - (1 - a) * 0.8)).amax(1)
    assert (distances[1:] <= factors * distances[:-1] + 1e-12).all()


def test_segments_have_the_fixed_point_of_the_whole() -> None:
    cell, x = contraction(0.8, "trained"), features(9)
    layer = DEQ(cell, solver=Picard(), stop=TIGHT)
    with torch.no_grad():
        whole, first = layer(x).y, layer(x[:, :4])
        second = layer(x[:, 4:], first.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y), dim=1), whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("width", "inputs"), [(4, None), (5, 3), (1, 1)])
def test_the_number_of_parameters(width: int, inputs: int | None) -> None:
    cell, n = ContractionCell(width=width, inputs=inputs), inputs or width
    assert sum(p.numel() for p in cell.parameters()) == width**2 + 2 * width * n + 2 * width
    assert "D^2 + 2 D I + 2 D" in (ContractionCell.__doc__ or "")
    decays = cell.inject.bias[:width].sigmoid()
    torch.testing.assert_close((decays[0], decays[-1]), (torch.tensor(0.1), torch.tensor(0.99 if width > 1 else 0.1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"inputs": 0}, "inputs must be an integer of at least 1, got 0"),
        ({"rate": 0.0}, r"rate must be between 0 and 1, got 0.0"),
        ({"rate": 1.0}, r"rate must be between 0 and 1, got 1.0"),
        ({"rate": math.nan}, r"rate must be between 0 and 1, got nan"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContractionCell(**{"width": 4, **settings})  # type: ignore[arg-type]
