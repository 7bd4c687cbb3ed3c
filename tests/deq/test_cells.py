"""Cells: causal maps whose constants are drawn once, a memory that continues the segment before, and counted parameters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import layer_norm
from torch import Tensor, nn

from deq import CELLS, DEQ, Anderson, Broyden, Cell, Implicit, MLPCell, Picard, Solver, Stop, TransformerCell
from deq.cells.transformer import rotary_phases, rotate

NAMES = sorted(CELLS)


def naive_transformer(cell: TransformerCell, z: Tensor, x: Tensor) -> Tensor:
    """The transformer cell's map, position by position, with complex rotations; past and present in one sequence."""
    batch, time, width = z.shape
    size = width // cell.heads
    q, k, v = (cell.qkv(z) + cell.inject(x)).view(batch, time, 3, cell.heads, size).unbind(2)
    frequencies = [cell.rotary_base ** (-(i / max(1, size // 2 - 1))) for i in range(size // 2)]
    turns = torch.tensor(
        [[complex(math.cos(t * w), math.sin(t * w)) for w in frequencies] for t in range(time)], dtype=torch.complex128
    )

    def turned(q: Tensor) -> Tensor:
        return torch.complex(q[..., ::2], q[..., 1::2]) * turns[:, None, :]

    q, k = turned(q), turned(k)
    mixed = torch.zeros(batch, time, cell.heads, size, dtype=z.dtype)
    for b in range(batch):
        for h in range(cell.heads):
            for t in range(time):
                scores = torch.stack([(q[b, t, h] * k[b, s, h].conj()).real.sum() for s in range(t + 1)]) / math.sqrt(size)
                mixed[b, t, h] = torch.softmax(scores, 0) @ v[b, : t + 1, h]
    y = layer_norm(z + cell.project(mixed.flatten(2)))
    return layer_norm(y + cell.contract(cell.expand(y).clamp(min=0)))


def transformer(width: int = 8, **settings: int | float) -> TransformerCell:
    return TransformerCell(width=width, **{"heads": 2, **settings}).double()  # type: ignore[arg-type]


def sequence(time: int = 7, width: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, time, width, dtype=torch.float64)


def test_the_past_reaches_the_future_of_a_transformer() -> None:
    cell, x = transformer(), sequence()
    z = sequence().requires_grad_()
    (reach,) = torch.autograd.grad(cell(z, x)[:, 5, 0].sum(), z)
    assert (reach[:, :6].abs().sum(-1) > 0).all()
    assert reach[:, 6:].eq(0).all()


LEAK = {1e-4: 1e-2, 1e-12: 1e-9}


@pytest.mark.parametrize("rtol", LEAK)
@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden()])
def test_an_equilibrium_is_causal_to_the_tolerance(solver: Solver, rtol: float) -> None:
    """A global solver mixes positions while it converges: what the future moves in the past shrinks with the tolerance."""
    cell = transformer()
    layer = DEQ(cell, solver=solver, stop=Stop(rtol=rtol, max_steps=300))
    layer.watch(lambda phase, solution: converged.append(bool(solution.converged.all())))
    converged: list[bool] = []
    x = sequence(time=12)
    later = x.clone()
    later[:, 6:] = torch.randn(2, 6, 8)
    with torch.no_grad():
        before, after = layer(x).y[:, :6], layer(later).y[:, :6]
    assert converged == [True, True]
    assert (before - after).abs().max() <= LEAK[rtol] * before.abs().max()


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("base", [10_000.0, 12.0])
def test_the_transformer_is_the_naive_one(heads: int, base: float) -> None:
    cell = transformer(heads=heads, rotary_base=base, feedforward=5)
    for bias in (cell.inject.bias, cell.project.bias, cell.expand.bias, cell.contract.bias):
        nn.init.normal_(bias)
    z, x = sequence(), sequence()
    torch.testing.assert_close(cell(z, x), naive_transformer(cell, z, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("past", [1, 3, 6])
def test_a_memory_continues_the_sequence(past: int) -> None:
    """Given the past's z and x, the map of the present is that of the whole sequence, for any z: nothing is off by one."""
    cell = transformer(memory_length=past)
    z, x = sequence(time=past + 5), sequence(time=past + 5)
    memory = cell.remember(z[:, :past], x[:, :past])
    present = cell.bind(x[:, past:], memory)(z[:, past:])
    torch.testing.assert_close(present, cell(z, x)[:, past:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(present, naive_transformer(cell, z, x)[:, past:], rtol=1e-11, atol=1e-11)


def test_a_short_memory_sees_the_last_positions_only() -> None:
    cell = transformer(memory_length=3)
    z, x = sequence(time=9), sequence(time=9)
    memory = cell.remember(z[:, :5], x[:, :5])
    torch.testing.assert_close(cell.bind(x[:, 5:], memory)(z[:, 5:]), cell(z[:, 2:], x[:, 2:])[:, 3:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 3), (2, 7)])
def test_a_memory_is_carried_over_short_segments(cuts: tuple[int, ...]) -> None:
    cell = transformer(memory_length=4)
    z, x = sequence(time=9), sequence(time=9)
    memory = None
    for a, b in zip((0, *cuts), cuts, strict=False):
        memory = cell.remember(z[:, a:b], x[:, a:b], memory)
    assert memory is not None
    end = cuts[-1]
    assert torch.equal(memory.z, z[:, max(0, end - 4) : end])
    assert torch.equal(memory.x, x[:, max(0, end - 4) : end])


def test_segments_with_a_full_memory_have_the_equilibrium_of_the_whole() -> None:
    cell = transformer(memory_length=10)
    layer = DEQ(cell, solver=Anderson(), stop=Stop(rtol=1e-12, max_steps=400))
    x = sequence(time=10)
    with torch.no_grad():
        whole = layer(x).y
        first = layer(x[:, :4])
        second = layer(x[:, 4:], first.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y), dim=1), whole, rtol=1e-8, atol=1e-8)


def test_a_memory_is_detached_and_leaves_the_gradient_of_its_keys_alone() -> None:
    cell = transformer(memory_length=3)
    z, x = sequence(time=3).requires_grad_(), sequence(time=3).requires_grad_()
    memory = cell.remember(z * 1, x * 1)
    assert memory is not None
    assert not memory.z.requires_grad
    assert not memory.x.requires_grad
    cell.bind(sequence(), memory)(sequence()).sum().backward()
    assert z.grad is None
    assert x.grad is None
    assert transformer(memory_length=0).remember(z, x) is None


@given(a=st.integers(0, 20), b=st.integers(0, 20), shift=st.integers(0, 20), pairs=st.integers(1, 6), base=st.floats(1.5, 1e5))
def test_rotary_scores_depend_on_distances_alone(a: int, b: int, shift: int, pairs: int, base: float) -> None:
    q, k = torch.randn(2, 1, 1, 1, 2 * pairs, dtype=torch.float64)
    phases = rotary_phases(41, 2 * pairs, q, base)

    def score(s: int, t: int) -> Tensor:
        return (rotate(q, phases[s : s + 1]) * rotate(k, phases[t : t + 1])).sum()

    torch.testing.assert_close(score(a + shift, b + shift), score(a, b), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rotate(q, phases[a : a + 1]).norm(), q.norm())


def test_rotary_scores_do_depend_on_distances() -> None:
    q = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    phases = rotary_phases(9, 4, q, 100.0)
    scores = torch.stack([(rotate(q, phases[:1]) * rotate(q, phases[t : t + 1])).sum() for t in range(4)])
    assert scores.diff().abs().min() > 0.1


def counted(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("width", "feedforward"), [(8, None), (8, 5), (24, 96), (4, 1)])
def test_the_transformer_has_the_parameters_it_says(width: int, feedforward: int | None) -> None:
    F = feedforward or 4 * width
    cell = TransformerCell(width=width, heads=2, feedforward=feedforward)
    assert counted(cell) == 7 * width**2 + 5 * width + F * (2 * width + 1)
    assert "7 D^2 + 5 D + feedforward (2 D + 1)" in (TransformerCell.__doc__ or "")


@pytest.mark.parametrize(("width", "hidden"), [(8, None), (8, 5), (3, 1)])
def test_the_mlp_has_the_parameters_it_says(width: int, hidden: int | None) -> None:
    H = hidden or 2 * width
    assert counted(MLPCell(width=width, hidden=hidden)) == H * (2 * width + 1) + width * (H + 1)
    assert "H(2D + 1) + D(H + 1)" in (MLPCell.__doc__ or "")


def test_the_mlp_is_the_formula() -> None:
    cell = MLPCell(width=4).double()
    z, x = sequence(width=4), sequence(width=4)
    hidden = (z @ cell.inner.weight.T + x @ cell.inject.weight.T + cell.inject.bias).clamp(min=0)
    torch.testing.assert_close(cell(z, x), torch.tanh(hidden @ cell.outer.weight.T + cell.outer.bias))


@pytest.mark.parametrize("gain", [0.1, 0.5, 1.0])
def test_the_gain_of_the_mlp_starts_a_contraction(gain: float) -> None:
    torch.manual_seed(1)
    quiet = MLPCell(width=6, gain=gain)
    torch.manual_seed(1)
    loud = MLPCell(width=6, gain=1.0)
    torch.testing.assert_close(quiet.inner.weight, gain * loud.inner.weight)
    torch.testing.assert_close(quiet.outer.weight, gain * loud.outer.weight)
    bound = torch.linalg.matrix_norm(quiet.inner.weight, 2) * torch.linalg.matrix_norm(quiet.outer.weight, 2)
    assert gain > 0.5 or bound < 1


@pytest.mark.parametrize("name", NAMES)
def test_bind_draws_once(name: str) -> None:
    cell = CELLS[name](width=8).train()
    x = torch.randn(2, 5, 8)
    z = torch.randn_like(cell.initial_state(x))
    f = cell.bind(x)
    first = f(z)
    torch.rand(3)  # moves the generator
    assert torch.equal(f(z), first)
    x.zero_()  # what bind took from x stays
    assert torch.equal(f(z), first)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_starts_at_zero_in_the_input_s_dtype(name: str) -> None:
    cell = CELLS[name](width=8)
    start = cell.initial_state(sequence())
    assert start.shape[:2] == (2, 7)
    assert cell.features(start).shape == (2, 7, 8)
    assert start.dtype == torch.float64
    assert start.eq(0).all()
    assert not start.requires_grad


def test_bias_std_is_that_of_the_biases_of_queries_and_keys_alone() -> None:
    bias = TransformerCell(width=512, bias_std=2.0).inject.bias.detach()
    assert bias[:1024].std().item() == pytest.approx(2.0, rel=0.1)
    assert not bias[1024:].any()


@pytest.mark.parametrize("std", [0.0, 0.02])
def test_the_initial_std_is_that_of_every_weight(std: float) -> None:
    cell = TransformerCell(width=64, initial_std=std, bias_std=0.0)
    for name, parameter in cell.named_parameters():
        wanted = 0.0 if name.endswith("bias") else std
        assert parameter.std().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 9, "heads": 3}, "even head width, got width 9, heads 3"),
        ({"width": 8, "heads": 3}, "got width 8, heads 3"),
        ({"width": 8, "heads": 0}, "heads must be an integer of at least 1, got 0"),
        ({"width": 8, "memory_length": -1}, "memory_length must be an integer of at least 0, got -1"),
        ({"width": 8, "rotary_base": 1.0}, "rotary_base must be above 1, got 1.0"),
        ({"width": 8, "rotary_base": math.nan}, "rotary_base .* got nan"),
        ({"width": 0}, "width .* got .*0"),
        ({"width": 8, "feedforward": 0}, "feedforward .* got 0"),
    ],
    ids=str,
)
def test_a_wrong_transformer_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerCell(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width .* got 0"),
        ({"width": 4, "hidden": 0}, "hidden .* got 0"),
    ],
    ids=str,
)
def test_a_wrong_mlp_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPCell(**settings)  # type: ignore[arg-type]


def test_a_cell_without_a_map_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Cell()  # type: ignore[abstract]


def test_a_segment_longer_than_the_training_one_is_no_trouble() -> None:
    layer = DEQ(transformer(memory_length=4), solver=Picard(), stop=Stop(), adjoint=Implicit())
    assert layer(sequence(time=3)).y.shape == (2, 3, 8)
    assert layer(sequence(time=30)).y.shape == (2, 30, 8)
