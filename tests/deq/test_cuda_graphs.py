"""GraphedCell: the same results as the cell, bit by bit, with recordings that run again on a CPU in place of CUDA graphs.

tests/test_cuda.py has the same on a GPU.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from bench.instruments.probes import saved_bytes
from deq import (
    ADJOINTS,
    CELLS,
    DEQ,
    GMRES,
    Adjoint,
    Anderson,
    Broyden,
    Cell,
    Implicit,
    Jacobian,
    MLPCell,
    Phantom,
    Picard,
    Reversible,
    Stack,
    Status,
    Stop,
    TransformerXLCell,
    TrellisCell,
)
from deq import cuda_graphs as module

CELL: dict[str, Callable[[], Cell]] = {
    "mlp": lambda: MLPCell(width=6),
    "transformer": lambda: CELLS["transformer"](width=8, heads=2, memory_length=3),
    "transformer-xl": lambda: TransformerXLCell(width=8, heads=2, memory_length=3, dropout=0.2, attention_dropout=0.2),
    "trellis": lambda: TrellisCell(width=6, dropout=0.2, weight_dropout=0.2, weight_norm=True),
    "contraction": lambda: CELLS["contraction"](width=6),
    "state-space": lambda: CELLS["state-space"](width=6),
}
ADJOINT = [name for name in ADJOINTS if name != "propagation"]


class Rerun:
    """Records a function as what runs it again and overwrites its first results, as a CUDA graph does."""

    made = 0

    def __init__(self, device: torch.device) -> None: ...

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        Rerun.made += 1
        with torch.random.fork_rng():
            result = function()

        def replay() -> Any:
            for old, new in zip(tree_leaves(result), tree_leaves(function()), strict=True):
                if old is not None:
                    old.data.copy_(new)
            return result

        return replay


@pytest.fixture(autouse=True)
def recordings_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CudaRecorder", Rerun)
    monkeypatch.setattr(module, "can_record", lambda x: True)
    Rerun.made = 0


def pair(cell: str = "mlp", adjoint: str | Adjoint = "implicit", **settings: Any) -> tuple[DEQ, DEQ]:
    """A layer without recordings and the same with them."""
    torch.manual_seed(0)
    solver = {"unroll": Picard(), "reverse": Reversible()}.get(str(adjoint), Broyden(window=20))
    gradient = ADJOINTS[adjoint]() if isinstance(adjoint, str) else adjoint
    own = {"solver": solver, "stop": Stop(rtol=1e-4, max_steps=12), "adjoint": gradient, **settings}
    plain = DEQ(CELL[cell](), **own)
    graphed = DEQ(copy.deepcopy(plain.cell), **own, cuda_graphs=True)
    return plain, graphed


def trained(layer: DEQ, half: bool = False) -> list[torch.Tensor]:
    """Outputs, gradients and weights of some steps with a carried memory, and an evaluation after each."""
    torch.manual_seed(1)
    optimiser, memory = torch.optim.SGD(layer.parameters(), lr=0.1), None
    found = []
    for _ in range(4):
        x = torch.randn(3, 5, layer.width, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = layer.train()(x, memory)
        loss = output.y.square().mean() + sum(part.sin().mean() for part in output.auxiliary)
        optimiser.zero_grad()
        loss.backward()
        found += [output.y.detach().clone(), x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]
        optimiser.step()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(layer.eval()(x, memory).y)
        memory = output.memory
    return found + [p.detach() for p in layer.parameters()]


def assert_same(plain: DEQ, graphed: DEQ, exact: bool, half: bool = False) -> None:
    """Several attached evaluations add their gradients in another order."""
    for expected, found in zip(trained(plain, half), trained(graphed, half), strict=True):
        torch.testing.assert_close(found, expected, rtol=0 if exact else 2e-5, atol=0 if exact else 1e-6)


@pytest.mark.parametrize("cell", CELL)
@pytest.mark.parametrize("adjoint", ADJOINT)
def test_training_is_the_same(cell: str, adjoint: str) -> None:
    assert_same(*pair(cell, adjoint), exact=adjoint not in ("unroll", "reverse", "phantom"))
    assert Rerun.made >= 6


def test_what_is_forgotten_is_recorded_anew() -> None:
    plain, graphed = pair()
    trained(graphed)
    made = Rerun.made
    graphed.forget_recordings()
    plain.load_state_dict(graphed.state_dict())
    assert_same(plain, graphed, exact=True)
    assert Rerun.made == 2 * made
    plain.forget_recordings()  # has none


def test_a_submodules_mode_is_a_mode_of_the_recording() -> None:
    plain, graphed = pair("transformer-xl")
    for layer in (plain, graphed):
        trained(layer)
        layer.train()
        layer.cell.get_submodule("attention").eval()  # no dropout inside, though the cell trains
    x = torch.randn(3, 5, plain.width)
    for _ in range(3):
        torch.manual_seed(2)
        expected = plain(x).y
        torch.manual_seed(2)
        assert torch.equal(graphed(x).y, expected)


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({"adjoint": Phantom(steps=3)}, False),
        ({"adjoint": Implicit(solver=Anderson()), "solver": Anderson(window=3)}, True),
        ({"adjoint": GMRES(stop=Stop(rtol=1e-6)), "solver": Picard()}, True),
        ({"auxiliary_every": 3}, False),
        ({"stop": Stop(rtol=None, max_steps=7)}, True),
    ],
)
def test_other_settings_are_the_same(settings: dict[str, Any], exact: bool) -> None:
    assert_same(*pair("trellis", **settings), exact=exact)


@pytest.mark.parametrize("adjoint", ["implicit", "shine"])
@pytest.mark.parametrize("cell", ["transformer-xl", "trellis", "mlp"])
def test_autocast_is_the_same(cell: str, adjoint: str) -> None:
    assert_same(*pair(cell, adjoint), exact=True, half=True)


def test_a_recording_is_made_at_the_second_call_and_serves_the_next() -> None:
    _, graphed = pair()
    made = []
    for _ in range(4):
        graphed(torch.randn(3, 5, 6)).y.sum().backward()
        made.append(Rerun.made)
    assert made == [0, 5, 5, 5]  # bind, f, f with a graph, the gradient at z, those at the parameters
    with torch.no_grad():
        for _ in range(3):
            graphed(torch.randn(3, 5, 6))
    assert Rerun.made == 7  # an evaluation needs the first two


@pytest.mark.parametrize("change", ["shape", "mode", "weight", "frozen", "input"])
def test_another_key_gets_a_recording_of_its_own(change: str) -> None:
    plain, graphed = pair("trellis", solver=Picard())
    for layer in (plain, graphed):
        torch.manual_seed(2)
        x = torch.randn(3, 5, 6)
        for _ in range(3):
            layer(x)
        made = Rerun.made
        if change == "shape":
            x = torch.randn(2, 9, 6)
        elif change == "mode":
            layer.eval()
        elif change == "weight":
            layer.cell.mix.bias = None
            layer.cell.inject.bias = torch.nn.Parameter(torch.full((24,), 0.3))
        elif change == "frozen":
            layer.cell.mix.requires_grad_(False)
        else:
            x = x.clone().requires_grad_()
        layer.found = []
        for _ in range(3):
            torch.manual_seed(3)
            layer.zero_grad()
            y = layer(x).y
            y.sum().backward()
            layer.found += [y.detach(), *(p.grad for p in layer.parameters())]
    assert Rerun.made == made + 5  # what runs again here would follow the change, what a GPU replays would not
    for expected, found in zip(plain.found, graphed.found, strict=True):
        assert (expected is None) == (found is None)
        assert expected is None or torch.equal(expected, found)


def test_the_oldest_recordings_are_dropped() -> None:
    _, graphed = pair()
    for times in range(1, 20):
        for _ in range(2):
            with torch.no_grad():
                graphed(torch.randn(3, times, 6))
    assert len(graphed._graphed._recordings) == 8


def test_lengths_that_change_drop_no_recording() -> None:
    """Nine in turn are too many to remember, and are not recorded again and again either."""
    _, graphed = pair()
    for _ in range(3):
        graphed(torch.randn(3, 5, 6)).y.sum().backward()
    assert Rerun.made == 5
    for times in 2 * [*range(6, 15)]:
        with torch.no_grad():
            graphed(torch.randn(3, times, 6))
    for _ in range(2):
        graphed(torch.randn(3, 5, 6)).y.sum().backward()
    assert Rerun.made == 5


def test_what_autograd_saves_is_counted_without_recordings() -> None:
    counts = []
    for layer in pair():
        x = torch.randn(3, 5, 6)
        for _ in range(3):
            layer(x).y.sum().backward()
        layer.zero_grad()
        counts.append(saved_bytes(lambda layer=layer, x=x: layer(x).y.sum(), [*layer.parameters(), x]))
    assert counts[0] == counts[1] > 0
    with module.without_recordings():
        layer(x)
    assert Rerun.made == 5


def test_a_second_forward_before_backward_is_an_error_and_not_a_wrong_gradient() -> None:
    _, graphed = pair()
    x = torch.randn(3, 5, 6)
    graphed(x).y.sum().backward()
    first = graphed(x).y
    second = graphed(x).y
    with pytest.raises(RuntimeError, match="call backward before the next forward"):
        first.sum().backward()
    second.sum().backward()


def test_gradients_of_several_steps_add_up() -> None:
    plain, graphed = pair()
    for layer in (plain, graphed):
        torch.manual_seed(2)
        for _ in range(4):
            layer(torch.randn(3, 5, 6)).y.sin().sum().backward()
    for expected, found in zip(plain.parameters(), graphed.parameters(), strict=True):
        torch.testing.assert_close(expected.grad, found.grad, rtol=0, atol=0)


def test_results_outlive_the_next_call() -> None:
    _, graphed = pair()
    x = torch.randn(3, 5, 6, requires_grad=True)
    found = []
    for scale in (0.0, 1.0, 2.0, 3.0):
        output = graphed(scale * x)
        (gradient,) = torch.autograd.grad(output.y.sin().sum(), x)
        found.append((output.y, output.state, gradient, *(one.clone() for one in (output.y, output.state, gradient))))
    for y, state, gradient, *copies in found:
        for one, other in zip((y, state, gradient), copies, strict=True):
            assert torch.equal(one, other)


def test_layers_in_sequence_have_recordings_of_their_own() -> None:
    made = []
    for index in range(2):
        layers = [pair(solver=Anderson())[index] for _ in range(2)]
        stack = Stack(layers)
        stack.width = 6
        made.append(trained(stack))  # type: ignore[arg-type]
    for expected, found in zip(*made, strict=True):
        assert torch.equal(expected, found)


def test_a_copy_has_its_own_cell_and_no_recordings() -> None:
    _, graphed = pair()
    x = torch.randn(3, 5, 6)
    for _ in range(2):
        graphed(x)
    for twin in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert twin._graphed._cell is twin.cell is not graphed.cell
        assert not twin._graphed._recordings
        for _ in range(3):
            assert torch.equal(twin(x).y, graphed(x).y)


def test_a_penalty_on_the_jacobian_is_refused() -> None:
    _, graphed = pair(jacobian=Jacobian(weight=1.0))
    with pytest.raises(ValueError, match="cuda_graphs has first derivatives only"):
        graphed(torch.randn(3, 5, 6))


def test_equilibrium_propagation_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its potential"):
        DEQ(CELLS["energy"](width=6), solver=Picard(), stop=Stop(), adjoint=ADJOINTS["propagation"](), cuda_graphs=True)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_cell_that_cannot_be_recorded_is_named_with_the_cause(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Rerun, function: Callable[[], Any]) -> Callable[[], Any]:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            if hidden:  # by torch, where it ends the capture
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Rerun, "record", fail)
    _, graphed = pair()
    graphed(torch.randn(3, 5, 6))
    with pytest.raises(RuntimeError, match=r"cuda_graphs cannot record MLPCell .*not permitted"):
        graphed(torch.randn(3, 5, 6))


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
def test_a_recording_that_ran_out_of_memory_is_made_again(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphed = pair()
    x = torch.randn(3, 5, 6)
    record, made = Rerun.record, 0

    def full(self: Rerun, function: Callable[[], Any]) -> Callable[[], Any]:
        nonlocal made
        made += 1
        if made == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(self, function)

    monkeypatch.setattr(Rerun, "record", full)
    graphed(x)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(x)
    for _ in range(3):
        found = []
        for layer in (plain, graphed):
            layer.zero_grad()
            y = layer(x).y
            y.sum().backward()
            found.append([y, *(p.grad for p in layer.parameters())])
        for expected, other in zip(*found, strict=True):
            assert torch.equal(expected, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_the_same(dtype: torch.dtype) -> None:
    plain, graphed = (layer.to(dtype) for layer in pair("trellis"))
    x = torch.randn(3, 5, 6, dtype=dtype)
    for _ in range(3):
        found = []
        for layer in (plain, graphed):
            torch.manual_seed(0)
            layer.zero_grad()
            y = layer(x).y
            y.float().sum().backward()
            found.append([y, *(p.grad for p in layer.parameters())])
        for expected, other in zip(*found, strict=True):
            assert torch.equal(expected, other)


def test_what_is_not_finite_ends_as_without_recordings() -> None:
    statuses: list[list[int]] = []
    layers = pair()
    for layer in layers:
        layer.watch(lambda phase, solution: statuses.append(solution.status.tolist()))
    for _ in range(3):
        for layer in layers:
            layer(torch.full((3, 5, 6), torch.nan))
    assert statuses == [[int(Status.NONFINITE)] * 3] * 6


def test_second_derivatives_are_refused() -> None:
    _, graphed = pair(adjoint="unroll")
    x = torch.randn(3, 5, 6, requires_grad=True)
    for _ in range(2):
        y = graphed(x).y
    (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_cpu_keeps_the_cells_own_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    _, graphed = pair()
    for _ in range(3):
        graphed(torch.randn(3, 5, 6)).y.sum().backward()
    assert not graphed._graphed._recordings
