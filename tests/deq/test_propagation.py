"""Equilibrium propagation against the implicit gradient, and the energy that it needs: potential, symmetry, rest states."""

import gc
import math
import weakref
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from deq import DEQ, SOLVERS, Anderson, Implicit, MLPCell, Picard, Solution, Status, Stop, TransformerCell, Unroll
from deq.adjoints import Adjoint
from deq.adjoints.propagation import EquilibriumPropagation, Potential
from deq.cells.energy import EnergyCell, EnergyMap, log_cosh

TIGHT = Stop(rtol=1e-13, max_steps=200)
NUDGED = Stop(rtol=1e-10, max_steps=200)
EXACT = Implicit(stop=TIGHT)
BETAS = (1.0, 0.3, 0.1, 0.03, 0.01)


def propagation(beta: float, symmetric: bool = True) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, symmetric=symmetric, stop=NUDGED)


def layer_of(adjoint: Adjoint, *, gain: float = 0.7, dtype: torch.dtype = torch.float64, stop: Stop = TIGHT, width: int = 5) -> DEQ:
    torch.manual_seed(1)
    cell = EnergyCell(width=width, gain=gain)
    nn.init.normal_(cell.c, std=0.3)
    return DEQ(cell, solver=Anderson(), stop=stop, adjoint=adjoint).to(dtype)


def batch(dtype: torch.dtype = torch.float64, width: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    x, v = torch.randn(2, 4, 3, width, generator=random, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), v


def gradients(layer: DEQ, x: Tensor, v: Tensor) -> dict[str, Tensor]:
    """dL/dx and dL/dp of every parameter for a loss with dL/dz* = v."""
    names = dict(layer.cell.named_parameters())
    found = torch.autograd.grad(layer(x).y, (x, *names.values()), v)
    return dict(zip(("x", *names), found, strict=True))


def together(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts.values()]).double()


def error(adjoint: Adjoint, exact: dict[str, Tensor]) -> float:
    """Relative distance of the whole gradient from the exact one."""
    got, expected = together(gradients(layer_of(adjoint), *batch())), together(exact)
    return float((got - expected).norm() / expected.norm())


@pytest.fixture
def exact() -> dict[str, Tensor]:
    return gradients(layer_of(EXACT), *batch())


# the gradient -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_gradient_turns_into_the_implicit_one_as_beta_shrinks(symmetric: bool, exact: dict[str, Tensor]) -> None:
    for name in exact:
        away = []
        for beta in BETAS:
            got = gradients(layer_of(propagation(beta, symmetric)), *batch())[name]
            away.append(1 - F.cosine_similarity(got.flatten(), exact[name].flatten(), dim=0).item())
        assert all(later < earlier for earlier, later in pairwise(away)), (name, away)
        assert away[-1] < (1e-8 if symmetric else 1e-3), name


@pytest.mark.parametrize(("symmetric", "order"), [(True, 2), (False, 1)])
def test_the_bias_is_of_second_order_symmetric_and_of_first_one_sided(
    symmetric: bool, order: int, exact: dict[str, Tensor]
) -> None:
    errors = [error(propagation(beta, symmetric), exact) for beta in (0.04, 0.02, 0.01)]
    for larger, smaller in pairwise(errors):
        assert math.log2(larger / smaller) == pytest.approx(order, abs=0.1)


def test_sign_and_size_are_those_of_the_implicit_gradient(exact: dict[str, Tensor]) -> None:
    got = gradients(layer_of(propagation(1e-3)), *batch())
    assert got.keys() == exact.keys() == {"x", "V", "c", "inject.weight", "inject.bias"}
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, exact[name], rtol=1e-4, atol=1e-5 * exact[name].abs().max().item(), msg=name)


def test_the_gradient_is_the_difference_quotient_of_the_loss() -> None:
    """Along one direction through x and all parameters at once; no other adjoint is asked."""
    layer, (x, v) = layer_of(propagation(1e-3)), batch()
    leaves = {"x": x, **dict(layer.cell.named_parameters())}
    directions = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    slope = sum((gradient * directions[name]).sum() for name, gradient in gradients(layer, x, v).items())

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            moved = {name: leaf + step * directions[name] for name, leaf in leaves.items()}
            there = moved.pop("x")
            y = torch.func.functional_call(layer, {f"cell.{name}": leaf for name, leaf in moved.items()}, (there,)).y
            return (y * v).sum()

    torch.testing.assert_close(slope, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-7)


def test_a_single_unit_has_the_closed_form() -> None:
    """z = w tanh(w z + i) + c, D = H = B = T = 1: dz/dc = 1 / (1 - w^2 (1 - tanh^2))."""
    w, i, c = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.8, 0.3, -0.2))
    f = EnergyMap(w.view(1, 1), i.view(1, 1, 1), c.view(1))
    z = propagation(1e-4)(f, torch.zeros(1, 1, 1, dtype=torch.float64), Picard(), TIGHT, lambda *_: None)
    got = torch.autograd.grad(z.sum(), (w, i, c))
    with torch.no_grad():
        t = torch.tanh(w * z + i).squeeze()
        s = 1 - t**2
        slopes = (t + w * s * z.squeeze(), w * s, torch.ones_like(t))
        expected = tuple(slope / (1 - w**2 * s) for slope in slopes)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [2.0**-24, 1e-12, 3e5])
def test_scaling_the_loss_scales_the_gradient_and_nothing_else(scale: float, dtype: torch.dtype, symmetric: bool) -> None:
    layer, (x, v) = layer_of(EquilibriumPropagation(symmetric=symmetric), dtype=dtype, stop=Stop()), batch(dtype)
    watched: list[int] = []
    layer.watch(lambda _, solution: watched.append(solution.nfe))
    one, other = together(gradients(layer, x, v)), together(gradients(layer, x, scale * v)) / scale
    assert watched[: len(watched) // 2] == watched[len(watched) // 2 :]
    assert (one - other).norm() < (1e-4 if dtype == torch.float32 else 1e-12) * one.norm()


def test_samples_are_nudged_by_their_own_measure() -> None:
    """A neighbour with a gradient a billion times as large does not change how a sample is nudged."""
    layer, (x, v) = layer_of(propagation(0.1)), batch()
    (alone,) = torch.autograd.grad(layer(x).y, x, v)
    scale = torch.tensor([1.0, 1e9, 1e-9, 1.0], dtype=torch.float64).view(-1, 1, 1)
    (mixed,) = torch.autograd.grad(layer(x).y, x, v * scale)
    torch.testing.assert_close(mixed / scale, alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_in_is_no_gradient_out(dtype: torch.dtype, symmetric: bool) -> None:
    layer, (x, v) = layer_of(EquilibriumPropagation(symmetric=symmetric), dtype=dtype, stop=Stop()), batch(dtype)
    assert all(part.eq(0).all() for part in gradients(layer, x, 0 * v).values())
    v = 1e-6 * v
    v[1:] = 0  # a silent sample adds nothing to what the others say, not even the rounding of what cancels
    got = gradients(layer, x, v)
    one = layer_of(EquilibriumPropagation(symmetric=symmetric), dtype=dtype, stop=Stop())
    alone = gradients(one, x[:1].detach().requires_grad_(), v[:1])
    assert got["x"][1:].eq(0).all()
    assert (got["V"] - alone["V"]).norm() < 1e-4 * alone["V"].norm()


def test_a_state_at_zero_is_nudged_all_the_same() -> None:
    """With x, b and c at zero z* is zero, and a nudge relative to it would be none."""
    layer = layer_of(propagation(1e-3))
    nn.init.zeros_(layer.cell.c)  # type: ignore[arg-type]
    nn.init.zeros_(layer.cell.inject.bias)  # type: ignore[arg-type, union-attr]
    x, v = torch.zeros_like(batch()[0]).requires_grad_(), batch()[1]
    got = gradients(layer, x, v)
    layer.adjoint = EXACT
    torch.testing.assert_close(together(got), together(gradients(layer, x, v)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hostile", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_passed_on(hostile: float) -> None:
    x, v = batch()
    v[0, 0, 0] = hostile
    assert not gradients(layer_of(propagation(0.1)), x, v)["V"].isfinite().all()


def test_float32_at_the_defaults_is_as_good_as_implicit_at_its_own() -> None:
    """The default beta is where the bias is below what a tolerance of 1e-3 leaves, and the cancellation too."""
    x, v = batch(width=24)
    exact = together(gradients(layer_of(EXACT, width=24, gain=0.9), x, v))
    x, v = batch(torch.float32, width=24)
    away = []
    for adjoint in (EquilibriumPropagation(), Implicit()):
        got = together(gradients(layer_of(adjoint, dtype=torch.float32, stop=Stop(), width=24, gain=0.9), x, v))
        away.append(1 - F.cosine_similarity(got, exact, dim=0).item())
    assert away[0] < 1e-4
    assert away[0] < 2 * away[1] + 1e-7


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_any_solver_finds_the_nudged_states(name: str, exact: dict[str, Tensor]) -> None:
    assert error(EquilibriumPropagation(beta=1e-3, solver=SOLVERS[name](), stop=NUDGED), exact) < 1e-4


def test_a_loose_free_phase_does_not_disturb_the_contrast() -> None:
    """The nudged phase starts from what the free one found and differs from it by the nudge alone, even one-sided and tiny."""
    x, v = batch()
    loose = Stop(rtol=1e-2)
    got = together(gradients(layer_of(propagation(1e-5, symmetric=False), stop=loose), x, v))
    expected = together(gradients(layer_of(EXACT, stop=loose), x, v))
    assert (got - expected).norm() < 1e-2 * expected.norm()  # as far as the loose solve itself is off


# the adjoint as a part of autograd ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [Stop(), Stop(rtol=None, max_steps=3)])
def test_the_value_is_that_of_implicit_with_and_without_grad(stop: Stop) -> None:
    x, _ = batch()
    values = [layer_of(adjoint, stop=stop)(x).y for adjoint in (EquilibriumPropagation(), Implicit())]
    with torch.no_grad():
        values.append(layer_of(EquilibriumPropagation(), stop=stop)(x).y)
    assert [y.requires_grad for y in values] == [True, True, False]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@pytest.mark.parametrize(("symmetric", "solves"), [(True, 2), (False, 1)])
def test_every_solve_is_told_and_no_jacobian_is_taken(symmetric: bool, solves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """f is evaluated without a graph, so that nothing could be multiplied by its Jacobian."""
    layer, (x, v) = layer_of(propagation(0.1, symmetric)), batch()
    watched: list[tuple[str, Solution]] = []
    layer.watch(lambda *event: watched.append(event))
    graph: list[bool] = []
    plain = EnergyMap.__call__

    def spied(f: EnergyMap, z: Tensor) -> Tensor:
        fz = plain(f, z)
        graph.append(fz.requires_grad)
        return fz

    monkeypatch.setattr(EnergyMap, "__call__", spied)
    gradients(layer, x, v)
    assert [phase for phase, _ in watched] == ["forward"] + solves * ["backward"]
    assert all(solution.converged.all() for _, solution in watched)
    assert not any(graph)
    assert sum(solution.nfe for _, solution in watched) + solves == len(graph)


def test_a_nudged_solve_that_fails_is_reported() -> None:
    adjoint = EquilibriumPropagation(solver=Picard(), stop=Stop(rtol=1e-13, max_steps=2))
    layer, (x, v) = layer_of(adjoint), batch()
    watched: list[Solution] = []
    layer.watch(lambda phase, solution: watched.append(solution))
    gradients(layer, x, v)
    assert watched[0].converged.all()
    assert all((solution.status == Status.MAX_STEPS).all() for solution in watched[1:])


def test_only_what_needs_a_gradient_gets_one(exact: dict[str, Tensor]) -> None:
    layer, (x, v) = layer_of(propagation(1e-3)), batch()
    layer(x.detach()).y.backward(v)
    assert x.grad is None
    layer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x).y, x, v)
    torch.testing.assert_close(gradient, exact["x"], rtol=1e-4, atol=1e-6)
    assert not layer(x.detach()).y.requires_grad


def test_a_layer_on_a_layer() -> None:
    x, v = batch()
    found = []
    for adjoint in (propagation(1e-3), EXACT):
        layer = layer_of(adjoint)
        found.append(torch.autograd.grad(layer(layer(x).y).y, (x, *layer.parameters()), v))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_backward_twice_gives_the_same_and_a_freed_graph_raises() -> None:
    layer, (x, v) = layer_of(propagation(0.1)), batch()
    y = layer(x).y
    first = torch.autograd.grad(y, tuple(layer.parameters()), v, retain_graph=True)
    again = torch.autograd.grad(y, tuple(layer.parameters()), v)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(v)


def test_a_second_derivative_raises() -> None:
    layer, (x, v) = layer_of(propagation(0.1)), batch()
    with pytest.raises(RuntimeError, match=r"EquilibriumPropagation has first derivatives only; use Unroll"):
        torch.autograd.grad(layer(x).y, x, v, create_graph=True)


def test_what_changed_in_place_before_backward_is_noticed() -> None:
    layer, (x, v) = layer_of(propagation(0.1)), batch()
    y = layer(x).y
    with torch.no_grad():
        layer.cell.V.mul_(2)  # type: ignore[operator, union-attr]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(v)


@pytest.mark.parametrize("backward", [False, True])
def test_the_graph_dies_with_its_output(backward: bool) -> None:
    cell, (x, v) = layer_of(EXACT).cell, batch()
    f = cell.bind(x)
    assert isinstance(f, EnergyMap)
    kept = weakref.ref(f.injection)
    y = propagation(0.1)(f, cell.initial_state(x), Anderson(), TIGHT, lambda *_: None)
    if backward:
        y.backward(v)
    del f, y
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_works_inside_a_checkpoint(reentrant: bool) -> None:
    layer, (x, v) = layer_of(propagation(0.1)), batch()
    expected = gradients(layer, x, v)["x"]
    torch.utils.checkpoint.checkpoint(lambda x: layer(x).y, x, use_reentrant=reentrant).backward(v)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("cell", [MLPCell(width=4), TransformerCell(width=4, heads=2)], ids=lambda cell: type(cell).__name__)
def test_a_cell_without_an_energy_is_refused(cell: MLPCell | TransformerCell) -> None:
    layer = DEQ(cell, solver=Anderson(), stop=Stop(), adjoint=EquilibriumPropagation())
    with pytest.raises(ValueError, match=r"needs an energy-based cell such as EnergyCell; .* has no potential"):
        layer(torch.randn(1, 2, 4))


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_a_wrong_beta_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta must be positive and finite, got {beta}"):
        EquilibriumPropagation(beta=beta)


# the cell -----------------------------------------------------------------------------------------------------------


def bound(gain: float = 0.7) -> tuple[EnergyMap, Tensor]:
    x, z = batch()
    f = layer_of(EXACT, gain=gain).cell.bind(x)
    assert isinstance(f, EnergyMap)
    assert isinstance(f, Potential)
    return f, z


def test_the_map_is_the_gradient_of_its_potential_and_the_energy_rests_at_its_fixed_point() -> None:
    f, z = bound()
    z.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(f.potential(z).sum(), z)[0], f(z), rtol=1e-12, atol=1e-12)
    layer, (x, _) = layer_of(EXACT), batch()
    rest = layer(x).y.detach().requires_grad_()
    energy = rest.square().flatten(1).sum(1) / 2 - f.potential(rest)
    assert torch.autograd.grad(energy.sum(), rest)[0].abs().max() < 1e-12
    for _ in range(5):
        moved = rest + torch.randn_like(rest)
        assert (moved.square().flatten(1).sum(1) / 2 - f.potential(moved) > energy).all()


def test_the_potential_by_hand() -> None:
    f, z = bound()
    for b in range(4):
        total = sum(torch.log(torch.cosh(f.V @ z[b, t] + f.injection[b, t])).sum() + f.c @ z[b, t] for t in range(3))
        torch.testing.assert_close(f.potential(z)[b], total)


@pytest.mark.parametrize("gain", [0.5, 1.7])
def test_the_jacobian_is_symmetric_with_eigenvalues_between_zero_and_the_gain(gain: float) -> None:
    f, z = bound(gain)
    J = jacobian(lambda z: f(z.view(4, 3, 5)).flatten(), z.flatten()).detach()
    torch.testing.assert_close(J, J.T, rtol=1e-12, atol=1e-13)
    values = torch.linalg.eigvalsh(J)
    assert values.min() > -1e-12
    assert values.max() < gain


def test_positions_do_not_touch_one_another() -> None:
    f, z = bound()
    for t in range(3):
        there = f.with_tensors((f.V, f.injection[:, t : t + 1], f.c))
        torch.testing.assert_close(there(z[:, t : t + 1]), f(z)[:, t : t + 1], rtol=1e-13, atol=1e-13)


def test_other_tensors_make_another_map() -> None:
    f, z = bound()
    doubled = f.with_tensors(tuple(2 * p for p in f.tensors))
    expected = torch.tanh(2 * (z @ f.V.T + f.injection)) @ (2 * f.V) + 2 * f.c
    torch.testing.assert_close(doubled(z), expected)
    assert torch.equal(f.with_tensors(f.tensors)(z), f(z))


@given(h=st.floats(-1e6, 1e6))
def test_log_cosh_is_stable_and_its_derivative_is_tanh(h: float) -> None:
    x = torch.tensor(h, dtype=torch.float64, requires_grad=True)
    value = log_cosh(x)
    expected = math.log(math.cosh(h)) if abs(h) < 300 else abs(h) - math.log(2)
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    assert slope.item() == pytest.approx(math.tanh(h), rel=1e-12, abs=1e-14)
    assert torch.autograd.grad(slope, x)[0].item() == pytest.approx(1 - math.tanh(h) ** 2, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("width", "hidden"), [(5, None), (8, 3), (1, 1)])
def test_parameters_are_counted_and_the_start_is_a_contraction(width: int, hidden: int | None) -> None:
    cell = EnergyCell(width=width, hidden=hidden, gain=0.6)
    H = hidden or 2 * width
    assert sum(p.numel() for p in cell.parameters()) == H * (2 * width + 1) + width
    assert torch.linalg.matrix_norm(cell.V.detach(), 2).item() ** 2 == pytest.approx(0.6, rel=1e-5)


def test_the_first_solves_converge() -> None:
    layer = DEQ(EnergyCell(width=32), solver=Anderson(), stop=Stop(rtol=1e-3, max_steps=30), adjoint=EquilibriumPropagation())
    watched: list[Solution] = []
    layer.watch(lambda _, solution: watched.append(solution))
    layer(torch.randn(4, 30, 32)).y.square().mean().backward()
    assert len(watched) == 3
    assert all(solution.converged.all() and solution.nfe < 12 for solution in watched)


@pytest.mark.parametrize("settings", [{"width": 0}, {"hidden": 0}, {"gain": 0.0}, {"gain": math.nan}], ids=str)
def test_a_wrong_cell_is_refused(settings: dict[str, float]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        EnergyCell(**{"width": 4, **settings})  # type: ignore[arg-type]


# training -----------------------------------------------------------------------------------------------------------


def train(adjoint: Adjoint) -> list[float]:
    """Losses of a classifier of the parity of two signs (XOR), which no linear readout of x can do.

    By plain iteration, which climbs the potential and stays at one rest state while the weights change; where there are several,
    Anderson jumps between them.
    """
    torch.manual_seed(3)
    layer = DEQ(EnergyCell(width=8), solver=Picard(), stop=Stop(rtol=1e-4, max_steps=200), adjoint=adjoint)
    head = nn.Linear(8, 2)
    optimiser = torch.optim.Adam((*layer.parameters(), *head.parameters()), lr=0.002)
    signs = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    x, target = F.pad(signs, (0, 6)).unsqueeze(1), (signs.prod(1) > 0).long()
    losses = []
    for _ in range(120):
        loss = F.cross_entropy(head(layer(x).y[:, 0]), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.exhaustive
def test_training_reaches_what_implicit_reaches() -> None:
    propagated, implicit = train(EquilibriumPropagation(solver=Picard())), train(Implicit(solver=Picard()))
    assert min(propagated[0], implicit[0]) > 0.6
    assert max(propagated[-1], implicit[-1]) < 0.1


def test_unrolling_the_cell_far_enough_gives_the_same_gradient(exact: dict[str, Tensor]) -> None:
    layer = DEQ(layer_of(EXACT).cell, solver=Picard(), stop=Stop(rtol=None, max_steps=150), adjoint=Unroll())
    torch.testing.assert_close(gradients(layer, *batch()), exact, rtol=1e-9, atol=1e-10)
