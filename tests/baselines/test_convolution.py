"""The TCN against convolutions written as sums, and its receptive field to the position."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import TCN


def net(**settings: Any) -> TCN:
    return TCN(**{"inputs": 3, "width": 4, "levels": 2, "kernel": 3, **settings}).double()


def naive(core: TCN, x: Tensor) -> Tensor:
    """Bai et al. (2018), section 3, one position at a time; the weights as weight normalisation gives them."""
    for level, block in enumerate(core.blocks):
        y = x
        for layer in block.convolutions:
            out = torch.zeros(*y.shape[:2], core.width, dtype=y.dtype)
            for t, k in product(range(y.shape[1]), range(core.kernel)):
                before = t - (core.kernel - 1 - k) * 2**level
                if before >= 0:
                    out[:, t] += y[:, before] @ layer.weight[:, :, k].T
            y = (out + layer.bias).clamp(min=0)
        skip = x if isinstance(block.skip, torch.nn.Identity) else x @ block.skip.weight[:, :, 0].T + block.skip.bias
        x = (y + skip).clamp(min=0)
    return x


@pytest.mark.parametrize("inputs", [3, 4])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_the_net_is_the_sums(inputs: int, weight_norm: bool) -> None:
    core, x = net(inputs=inputs, weight_norm=weight_norm), torch.randn(2, 11, inputs, dtype=torch.float64)
    torch.testing.assert_close(core(x).y, naive(core, x))


@pytest.mark.parametrize("weight_norm", [True, False])
def test_weight_norm_is_a_direction_and_a_length(weight_norm: bool) -> None:
    layer = net(weight_norm=weight_norm).blocks[0].convolutions[0]
    if weight_norm:
        length, direction = (getattr(layer.parametrizations.weight, f"original{n}") for n in (0, 1))
        expected = length * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1)
        torch.testing.assert_close(layer.weight, expected)
    else:
        assert isinstance(layer.weight, torch.nn.Parameter)


@pytest.mark.parametrize(("levels", "kernel", "field"), [(1, 2, 3), (2, 3, 13), (3, 2, 15), (8, 8, 3571)])
def test_the_receptive_field_by_its_formula(levels: int, kernel: int, field: int) -> None:
    assert net(levels=levels, kernel=kernel).receptive_field == field


@pytest.mark.parametrize(("levels", "kernel"), [(1, 2), (2, 3), (3, 2)])
def test_an_output_depends_on_the_receptive_field_and_on_nothing_else(levels: int, kernel: int) -> None:
    core = net(levels=levels, kernel=kernel, weight_norm=False)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.abs_().add_(0.1)  # no path is cut by a ReLU
    field, t = core.receptive_field, core.receptive_field + 2
    x = torch.rand(1, t + 4, 3, dtype=torch.float64).requires_grad_()
    (reach,) = torch.autograd.grad(core(x).y[0, t].sum(), x)
    seen = reach[0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(t - field + 1, t + 1))


@pytest.mark.parametrize("segment", [1, 3, 20])
def test_segments_with_memory_give_what_the_whole_sequence_gives(segment: int) -> None:
    core, x = net(levels=3), torch.randn(2, 20, 3, dtype=torch.float64)
    memory, parts = None, []
    for start in range(0, 20, segment):
        output = core(x[:, start : start + segment], memory)
        parts.append(output.y)
        memory = output.memory
    torch.testing.assert_close(torch.cat(parts, dim=1), core(x).y)
    assert not any(kept.requires_grad for pair in memory for kept in pair)


@pytest.mark.parametrize(("inputs", "weight_norm"), [(3, True), (3, False), (4, True)])
def test_parameters_are_counted(inputs: int, weight_norm: bool) -> None:
    W, K, L = 4, 3, 3
    expected = sum(K * C * W + K * W * W + 2 * W + (2 * W if weight_norm else 0) for C in (inputs, *[W] * (L - 1)))
    expected += inputs * W + W if inputs != W else 0
    assert sum(p.numel() for p in net(inputs=inputs, levels=L, weight_norm=weight_norm).parameters()) == expected


def test_the_published_net_for_copy_memory_has_the_published_size() -> None:
    core = TCN(inputs=1, width=10, levels=8, kernel=8)
    assert sum(p.numel() for p in core.parameters()) + 10 * 10 + 10 == 12_530


def test_dropout_is_for_training_alone() -> None:
    core, x = net(dropout=0.5), torch.randn(2, 6, 3, dtype=torch.float64)
    assert not torch.equal(core.train()(x).y, core(x).y)
    torch.testing.assert_close(core.eval()(x).y, naive(core, x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": 0}, "inputs"),
        ({"width": 0}, "width"),
        ({"levels": 0}, "levels"),
        ({"kernel": 1}, "kernel"),
        ({"dropout": 1}, "dropout"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message} must be .*got {next(iter(settings.values()))}"):
        net(**settings)
