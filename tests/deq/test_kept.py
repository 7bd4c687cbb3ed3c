"""What depends on sizes alone is made once for each size, and gives the same numbers as when it is made at every bind."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines import TransformerXL
from bench.instruments.operators import Operations
from deq import CELLS, Cell
from deq.cells.kept import KeepLast

POSITIONAL = ("transformer", "transformer-xl")


def made(name: str, **settings: int) -> Cell:
    """A cell with the same weights each time, and nothing kept."""
    torch.manual_seed(1)
    return CELLS[name](width=8, heads=2, **settings)


def features(time: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(time)
    return torch.randn(2, time, 8).to(dtype), torch.randn(2, time, 8).to(dtype)


@pytest.mark.parametrize(
    ("name", "memory", "launches"),
    [("transformer", 0, 1), ("transformer", 3, 7), ("transformer-xl", 0, 10), ("transformer-xl", 3, 12)],
)
def test_a_second_bind_makes_no_positions_and_masks(name: str, memory: int, launches: int) -> None:
    """Before, 9, 17, 27 and 29 operators. What is left depends on weights, features or memory."""
    cell = made(name, memory_length=memory)
    x, z = features()
    past = cell.remember(z, x)
    with torch.no_grad():
        cell.bind(x, past)
        with Operations() as counted:
            cell.bind(x, past)
    assert counted.launches == launches


def test_a_tied_network_makes_positions_once_for_all_levels() -> None:
    x, _ = features()
    launches = []
    for layers in (1, 2):
        network = TransformerXL(inputs=8, width=8, heads=2, layers=layers, tied=True).eval()
        with torch.no_grad(), Operations() as counted:
            network(x)
        launches.append(counted.launches)
    first, second = launches
    assert second < 2 * first - 10


def sizes(name: str) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """State, features and memory of calls of several lengths and dtypes, one after the other."""
    for time, past, dtype in ((5, 0, 32), (5, 0, 32), (7, 0, 32), (5, 4, 32), (5, 3, 32), (5, 3, 64), (5, 3, 32), (4, 4, 64)):
        kind = {32: torch.float32, 64: torch.float64}[dtype]
        x, z = features(time, kind)
        earlier = features(past, kind) if past else None
        memory = made(name, memory_length=past).to(kind).remember(*earlier[::-1]) if earlier else None
        yield z, x, memory


@pytest.mark.parametrize("name", POSITIONAL)
def test_a_used_cell_has_the_bits_of_a_new_one(name: str) -> None:
    used = made(name, memory_length=4)
    for z, x, memory in sizes(name):
        assert torch.equal(used.to(x.dtype).bind(x, memory)(z), made(name, memory_length=4).to(x.dtype).bind(x, memory)(z))


@pytest.mark.parametrize("name", POSITIONAL)
def test_training_follows_inference_tracing_and_transforms(name: str) -> None:
    """What such a call makes must not reach the next: inference tensors refuse autograd, fake ones have no values."""
    x, z = features()

    def gradient(cell: Cell) -> Tensor:
        argument = z.clone().requires_grad_()
        (found,) = torch.autograd.grad(cell.bind(x)(argument).square().sum(), argument)
        return found

    expected = gradient(made(name))

    def fake(cell: Cell) -> None:
        for _ in range(2):  # two modes, whose tensors do not mix
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                cell.bind(mode.from_tensor(x))(mode.from_tensor(z))

    def inference(cell: Cell) -> None:
        with torch.inference_mode():
            cell.bind(x)(z)

    def derivative(cell: Cell) -> None:
        torch.func.grad(lambda x: cell.bind(x)(z).sum())(x)

    def batched(cell: Cell) -> None:
        torch.func.vmap(lambda x: cell.bind(x[None])(x[None]))(x)

    for before in (inference, fake, derivative, batched):
        cell = made(name)
        before(cell)
        assert torch.equal(gradient(cell), expected), before.__name__


def test_only_the_last_result_is_kept_and_not_by_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def zeros(size: int, like: Tensor) -> Tensor:
        calls.append(size)
        return torch.zeros(size, dtype=like.dtype)

    kept, like = KeepLast(zeros), torch.empty(0)
    first = kept(3, like)
    assert kept(3, torch.ones(7)) is first
    assert kept(3, like.double()).dtype == torch.float64
    assert kept(4, like).shape == (4,)
    assert kept(3, like) is not first
    assert calls == [3, 3, 4, 3]
    with monkeypatch.context() as recording:
        recording.setattr(torch.compiler, "is_compiling", lambda: True)
        kept(5, like)
    assert kept(5, like) is kept(5, like)
    assert calls == [3, 3, 4, 3, 5, 5]
    assert copy.deepcopy(kept)(3, like) is not kept(3, like)


def test_a_cell_is_pickled_without_what_it_keeps() -> None:
    cell = made("transformer-xl")
    size = len(pickle.dumps(cell))
    cell.bind(features(200)[0])
    assert len(pickle.dumps(cell)) == size
    assert torch.equal(pickle.loads(pickle.dumps(cell))(*features()), cell(*features()))
