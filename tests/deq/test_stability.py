"""The Jacobian's penalty and radius against the whole Jacobian."""

import math
from typing import Any

import pytest
import torch
from cases import few
from torch import Tensor
from torch.autograd.functional import jacobian

from deq import DEQ, Anderson, Jacobian, MLPCell, Stop, TransformerXLCell, jacobian_penalty, spectral_radius

CELLS = {"mlp": MLPCell(width=3).double(), "transformer-xl": TransformerXLCell(width=4, heads=2).double()}


def squares(cell: Any, x: Tensor, z: Tensor) -> Tensor:
    """||J||_F^2 / N of each sample, from the whole Jacobian."""
    out = []
    for b in range(len(z)):
        J = jacobian(cell.bind(x[b : b + 1]), z[b : b + 1], create_graph=True)
        out.append(J.square().sum() / z[b].numel())
    return torch.stack(out)


@pytest.mark.parametrize("name", few(CELLS, ["mlp", "trellis"]))
def test_many_probes_give_the_norm_and_its_gradient(name: str) -> None:
    cell = CELLS[name]
    x, z = torch.randn(2, 2, 3, cell.width, dtype=torch.float64)
    exact = squares(cell, x, z).mean()
    estimate = jacobian_penalty(cell.bind(x), z, probes=3000)
    torch.testing.assert_close(estimate, exact, rtol=0.05, atol=0)
    wanted = list(cell.parameters())
    expected = torch.autograd.grad(exact, wanted, allow_unused=True, materialize_grads=True)
    got = torch.autograd.grad(estimate, wanted, allow_unused=True, materialize_grads=True)
    distance = torch.cat([(a - b).flatten() for a, b in zip(got, expected, strict=True)]).norm()
    assert distance < 0.1 * torch.cat([part.flatten() for part in expected]).norm()


def test_one_probe_is_unbiased() -> None:
    """Over 2000 single probes of a linear map; the mean's standard error is taken from the draws."""
    A = torch.randn(5, 5, dtype=torch.float64)
    draws = torch.stack([jacobian_penalty(lambda z: z @ A.T, torch.zeros(1, 5, dtype=torch.float64)) for _ in range(2000)])
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - A.square().sum() / 5) < 4 * error
    assert error < 0.05 * A.square().sum() / 5


def test_a_penalty_is_drawn_as_often_as_its_probability_says() -> None:
    rule = Jacobian(weight=2.0, probability=0.3)
    f, z = (lambda z: 0.5 * z), torch.zeros(1, 4)
    drawn = [rule.penalty(f, z) for _ in range(400)]
    share = sum(penalty is not None for penalty in drawn) / 400
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)
    assert all(penalty >= 0 for penalty in drawn if penalty is not None)


def test_the_weight_is_a_factor_and_no_draw_is_made_for_certain_ones() -> None:
    f, z = (lambda z: torch.sin(z)), torch.ones(1, 4)
    torch.manual_seed(1)
    plain = jacobian_penalty(f, z)
    torch.manual_seed(1)
    weighted = Jacobian(weight=3.0).penalty(f, z)
    assert weighted is not None
    torch.testing.assert_close(weighted, 3 * plain)


def test_a_layer_has_a_penalty_in_training_alone() -> None:
    layer = DEQ(MLPCell(width=4), solver=Anderson(), stop=Stop(), jacobian=Jacobian(weight=1.0))
    x = torch.randn(2, 3, 4)
    penalty = layer.train()(x).penalty
    assert penalty is not None
    assert penalty.requires_grad
    assert layer.eval()(x).penalty is None
    with torch.no_grad():
        assert layer.train()(x).penalty is None


def test_training_on_the_penalty_makes_the_map_flatter() -> None:
    cell = MLPCell(width=6)
    layer = DEQ(cell, solver=Anderson(), stop=Stop(), jacobian=Jacobian(weight=1.0))
    optimiser, x = torch.optim.SGD(layer.parameters(), lr=0.5), torch.randn(2, 3, 6)
    before = spectral_radius(cell.bind(x), layer(x).y).max()
    for _ in range(60):
        penalty = layer(x).penalty
        assert penalty is not None
        optimiser.zero_grad()
        penalty.backward()
        optimiser.step()
    assert spectral_radius(cell.bind(x), layer(x).y).max() < 0.5 * before


@pytest.mark.parametrize("name", CELLS)
def test_the_radius_is_the_largest_eigenvalues(name: str) -> None:
    cell = CELLS[name]
    x, z = torch.randn(2, 2, 3, cell.width, dtype=torch.float64)
    radius = spectral_radius(cell.bind(x), z, steps=3000)
    for b in range(2):
        J = jacobian(cell.bind(x[b : b + 1]), z[b : b + 1]).view(z[b].numel(), -1)
        assert radius[b].item() == pytest.approx(torch.linalg.eigvals(J).abs().max().item(), rel=2e-2)


def test_the_radius_of_a_rotation_is_its_length() -> None:
    """A complex pair: the growth of single steps goes up and down, its mean does not."""
    c, s = math.cos(0.7), math.sin(0.7)
    A = 1.3 * torch.tensor([[c, -4 * s, 0], [s / 4, c, 0], [0, 0, 0.2]], dtype=torch.float64)
    radius = spectral_radius(lambda z: z @ A.T, torch.zeros(2, 1, 3, dtype=torch.float64), steps=400)
    assert radius.tolist() == pytest.approx([1.3, 1.3], rel=2e-2)


def test_the_radius_of_a_constant_map_is_zero() -> None:
    assert spectral_radius(lambda z: torch.ones_like(z) + 0 * z, torch.zeros(2, 3)).max() < 1e-30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be finite and not negative, got -1.0"),
        ({"weight": math.nan}, "weight must be finite and not negative, got nan"),
        ({"weight": 1.0, "probability": 0.0}, r"probability must be in \(0, 1\], got 0.0"),
        ({"weight": 1.0, "probability": 1.5}, r"probability must be in \(0, 1\], got 1.5"),
        ({"weight": 1.0, "probes": 0}, "probes must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Jacobian(**settings)


def test_a_radius_of_too_few_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be an integer of at least 2, got 1"):
        spectral_radius(torch.cos, torch.zeros(1, 2), steps=1)
