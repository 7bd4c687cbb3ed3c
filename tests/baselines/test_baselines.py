"""Explicit baselines: the same numbers whatever is checkpointed, torch's own recurrences, and memory that costs what it should."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import exhaustive
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import Recurrent, Unrolled
from baselines.unrolled import segments
from bench.instruments.probes import peak_live_bytes, saved_bytes
from deq import CELLS, DEQ, Anderson, MLPCell, Stop, TransformerCell

WAYS = ["none", "every", "sqrt"]


def gradients(core: Unrolled, x: Tensor) -> tuple[Tensor, ...]:
    y = core(x).y
    torch.manual_seed(7)
    return (y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), (x, *core.parameters())))


@pytest.mark.parametrize("depth", [1, 5, 12, *exhaustive(2, 9)])
@pytest.mark.parametrize("way", ["every", "sqrt"])
@pytest.mark.parametrize("name", sorted(CELLS))
@pytest.mark.parametrize("dtype", [torch.float32, *exhaustive(torch.float64)])
def test_checkpointing_changes_no_bit(name: str, way: str, depth: int, dtype: torch.dtype) -> None:
    cell = CELLS[name](width=8).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)
    plain = gradients(Unrolled(cell, depth=depth), x)
    for got, expected in zip(gradients(Unrolled(cell, depth=depth, checkpointing=way), x), plain, strict=True):  # type: ignore[arg-type]
        assert torch.equal(got, expected)


@given(depth=st.integers(1, 500), way=st.sampled_from(WAYS))
def test_the_segments_are_the_depth_evenly_cut(depth: int, way: str) -> None:
    parts = segments(depth, way)  # type: ignore[arg-type]
    assert sum(parts) == depth
    assert max(parts) - min(parts) <= 1
    assert min(parts) >= 1
    if way == "sqrt":
        assert abs(len(parts) - math.sqrt(depth)) <= 1
    else:
        assert len(parts) == (1 if way == "none" else depth)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("depth", [1, 3, 10])
@pytest.mark.parametrize("name", sorted(CELLS))
def test_unrolled_is_the_map_applied_by_hand(name: str, depth: int, way: str) -> None:
    core = Unrolled(CELLS[name](width=8), depth=depth, checkpointing=way)  # type: ignore[arg-type]
    x = torch.randn(2, 5, 8)
    f, z = core.cell.bind(x), core.cell.initial_state(x)
    for _ in range(depth):
        z = f(z)
    assert torch.equal(core(x).y, core.cell.features(z))
    assert core.width == 8


@pytest.mark.parametrize("way", WAYS)
def test_the_map_runs_as_often_as_it_says(way: str) -> None:
    """Depth applications forward; checkpointing makes each once more in backward, none under no_grad."""
    core, calls = Unrolled(MLPCell(width=4), depth=9, checkpointing=way), [0]  # type: ignore[arg-type]
    core.cell.inner.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))  # type: ignore[union-attr]
    y = core(torch.randn(2, 3, 4)).y
    assert calls[0] == 9
    y.sum().backward()
    assert calls[0] == (9 if way == "none" else 18)
    with torch.no_grad():
        core(torch.randn(2, 3, 4))
    assert calls[0] == (18 if way == "none" else 27)


def test_deep_unrolling_is_the_equilibrium_in_value_and_gradient() -> None:
    cell = MLPCell(width=8).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    tight = Stop(rtol=1e-13, max_steps=100)
    layer = DEQ(cell, solver=Anderson(), stop=tight)
    layer.adjoint = type(layer.adjoint)(stop=tight)  # type: ignore[call-arg]
    deep = Unrolled(cell, depth=100)
    torch.testing.assert_close(deep(x).y, layer(x).y, rtol=1e-10, atol=1e-11)
    expected = torch.autograd.grad(deep(x).y.sum(), (x, *cell.parameters()))
    torch.testing.assert_close(torch.autograd.grad(layer(x).y.sum(), (x, *cell.parameters())), expected, rtol=1e-9, atol=1e-10)
    errors = [(Unrolled(cell, depth=d)(x).y - layer(x).y).norm().item() for d in (1, 3, 9)]
    assert errors == sorted(errors, reverse=True)


def peaks(way: str, depths: list[int]) -> list[int]:
    x = torch.randn(4, 8, 16)
    cell = TransformerCell(width=16, heads=2)

    def step(depth: int) -> None:
        Unrolled(cell, depth=depth, checkpointing=way)(x).y.sum().backward()  # type: ignore[arg-type]
        cell.zero_grad()

    step(1)  # the first backward allocates what torch keeps
    return [peak_live_bytes(lambda d=d: step(d), [x, *cell.parameters()]).step for d in depths]


def test_checkpointing_stores_less() -> None:
    at = {way: peaks(way, [36])[0] for way in WAYS}
    assert at["none"] > 3 * at["sqrt"]
    assert at["none"] > 4 * at["every"]


def test_the_peak_grows_as_the_way_says() -> None:
    """Without: linear. "every": linear by one state a step. "sqrt": four times the depth, about twice the growing part."""
    state = 4 * 8 * 16 * 4
    a, b, c = peaks("none", [4, 16, 64])
    assert (c - b) == pytest.approx(4 * (b - a), rel=0.02)
    a, b, c = peaks("every", [4, 16, 64])
    assert (c - b) == pytest.approx(48 * state, rel=0.1)
    a, b, c = peaks("sqrt", [4, 16, 64])
    assert (c - b) == pytest.approx(2 * (b - a), rel=0.15)


def test_what_is_saved_orders_the_ways() -> None:
    x, cell = torch.randn(8, 16, 16), MLPCell(width=16)
    plain = [saved_bytes(lambda d=d: Unrolled(cell, depth=d)(x).y, []) for d in (8, 16, 32)]
    assert plain[2] - plain[1] == 2 * (plain[1] - plain[0]) > 0


@pytest.mark.parametrize(("kind", "make"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_is_torchs_own(kind: str, make: type[nn.LSTM] | type[nn.GRU], layers: int) -> None:
    core = Recurrent(kind=kind, inputs=5, width=7, layers=layers)  # type: ignore[arg-type]
    reference = make(5, 7, num_layers=layers, batch_first=True)
    reference.load_state_dict(core.network.state_dict())
    x = torch.randn(3, 6, 5)
    y, state = reference(x)
    output = core(x)
    assert torch.equal(output.y, y)
    assert core.width == 7
    state, memory = (s if isinstance(s, tuple) else (s,) for s in (state, output.memory))
    assert all(torch.equal(a, b) for a, b in zip(memory, state, strict=True))


def test_an_unrolled_transformer_carries_its_memory() -> None:
    core = Unrolled(TransformerCell(width=8, heads=2, memory_length=4), depth=3)
    x = torch.randn(2, 6, 8)
    first = core(x[:, :3])
    assert first.memory.z.shape == (2, 3, 8)
    assert torch.equal(first.memory.z, first.y)
    assert torch.equal(first.memory.x, x[:, :3])
    second = core(x[:, 3:], first.memory)
    assert second.memory.z.shape == (2, 4, 8)
    assert not torch.equal(second.y, core(x[:, 3:]).y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unrolled(MLPCell(width=2), depth=0), "depth must be an integer of at least 1, got 0"),
        (lambda: Unrolled(MLPCell(width=2), depth=2.5), "depth .* got 2.5"),  # type: ignore[arg-type]
        (lambda: Unrolled(MLPCell(width=2), depth=2, checkpointing="all"), "none, every or sqrt, got 'all'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_baseline_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()
