"""What a caller may do with an output: write to it in place, differentiate it twice (or be refused), steer f from outside."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import product
from problems import silent
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from baselines import TCN, AdaptiveLoop, NeuralODE, Recurrent, TransformerXL, TrellisNet, Unrolled
from deq import (
    DEQ,
    GMRES,
    Anderson,
    Broyden,
    Cell,
    ContractionCell,
    Core,
    EnergyCell,
    EquilibriumPropagation,
    Implicit,
    Map,
    MLPCell,
    Phantom,
    Picard,
    Reverse,
    Reversible,
    Solver,
    Stack,
    StateSpaceCell,
    Stop,
    TransformerCell,
    TransformerXLCell,
    TrellisCell,
    Unroll,
)
from deq.adjoints import Adjoint, Shine

WIDTH = 6
STOP = Stop(rtol=1e-9, max_steps=60)
CELLS: dict[str, Callable[[], Cell]] = {
    "contraction": lambda: ContractionCell(width=WIDTH),
    "energy": lambda: EnergyCell(width=WIDTH),
    "mlp": lambda: MLPCell(width=WIDTH),
    "state-space": lambda: StateSpaceCell(width=WIDTH),
    "transformer": lambda: TransformerCell(width=WIDTH, heads=1, memory_length=3),
    "transformer-xl": lambda: TransformerXLCell(width=WIDTH, heads=1, memory_length=3),
    "trellis": lambda: TrellisCell(width=WIDTH),
}
ADJOINTS: dict[str, Callable[[], Adjoint]] = {
    "implicit": lambda: Implicit(stop=STOP),
    "phantom": lambda: Phantom(steps=2, relaxation=0.8),
    "shine": lambda: Shine(),
    "unroll": lambda: Unroll(),
    "propagation": lambda: EquilibriumPropagation(stop=STOP),
}


def deq(cell: str, adjoint: str) -> DEQ:
    solver = Picard() if adjoint == "unroll" else Broyden(window=60)
    return DEQ(CELLS[cell](), solver=solver, stop=STOP, adjoint=ADJOINTS[adjoint]())


CORES: dict[str, Callable[[], Core]] = {
    f"{cell} {adjoint}": lambda cell=cell, adjoint=adjoint: deq(cell, adjoint)  # type: ignore[misc]
    for cell in CELLS
    for adjoint in ADJOINTS
    if adjoint != "propagation" or cell == "energy"
} | {
    "stack": lambda: Stack([deq("mlp", "implicit"), deq("transformer", "shine")]),
    "tied": lambda: Unrolled(CELLS["transformer"](), depth=3),
    "tied checkpointed": lambda: Unrolled(CELLS["transformer-xl"](), depth=4, checkpointing="sqrt"),
    "adaptive loop": lambda: AdaptiveLoop(CELLS["transformer"](), depth=3, initial_bias=-1.0),
    "trellisnet": lambda: TrellisNet(TrellisCell(width=WIDTH), depth=3),
    "transformer-xl": lambda: TransformerXL(inputs=WIDTH, width=WIDTH, heads=1, layers=2, memory_length=3),
    "tcn": lambda: TCN(inputs=WIDTH, width=WIDTH),
    "lstm": lambda: Recurrent(kind="lstm", inputs=WIDTH, width=WIDTH),
    "gru": lambda: Recurrent(kind="gru", inputs=WIDTH, width=WIDTH, layers=2, hidden_dropout=0.1),
    "ode adjoint": lambda: NeuralODE(CELLS["mlp"](), time=1.0, method="rk4", step_size=0.5),
    "ode": lambda: NeuralODE(CELLS["transformer"](), time=1.0, method="rk4", step_size=0.5, adjoint=False),
}
pytestmark = pytest.mark.usefixtures("double")
IN_PLACE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "add": (lambda y: y.add_(0.3), lambda y: y + 0.3),
    "relu": (nn.ReLU(inplace=True), nn.ReLU()),
    "slice": (lambda y: y[:, 1:].mul_(2).sum() + y.sum(), lambda y: 3 * 2 * y[:, 1:].sum() - 2 * y[:, 1:].sum() + y[:, :1].sum()),
}


@pytest.mark.parametrize(("name", "how"), product(list(CORES), list(IN_PLACE)))
def test_an_in_place_operation_on_the_output_leaves_the_gradient_and_the_memory_right(name: str, how: str) -> None:
    core, x = CORES[name]().eval(), torch.randn(2, 5, WIDTH)
    if name == "tcn":  # it ends in a ReLU, whose backward needs its result: torch refuses, as after any ReLU
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            IN_PLACE[how][0](core(x).y).sum().backward()
        return
    v, results = torch.randn(2, 5, WIDTH), []
    for operation in IN_PLACE[how]:
        own = x.clone().requires_grad_()
        output = core(own)
        before = copy.deepcopy(tree_leaves(output.memory))
        y = operation(output.y)
        value = (y * v).sum() if y.dim() else y
        found = torch.autograd.grad(value, [own, *core.parameters()], allow_unused=True, materialize_grads=True)
        results.append(found)
        for kept, was in zip(tree_leaves(output.memory), before, strict=True):
            assert kept is None or torch.equal(kept, was)
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CORES)
def test_an_in_place_operation_on_the_input_afterwards_leaves_the_memory_right(name: str) -> None:
    core, x = CORES[name]().eval(), torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        memory = core(x).memory
    before = copy.deepcopy(tree_leaves(memory))
    x.zero_()
    for kept, was in zip(tree_leaves(memory), before, strict=True):
        assert kept is None or torch.equal(kept, was)


def scalar_map(x: Tensor) -> Map:
    """z = tanh(z x)/2 + x."""
    return lambda z: torch.tanh(z * x) / 2 + x


TWICE: dict[str, tuple[Adjoint, Solver]] = {
    "implicit": (Implicit(stop=STOP), Picard()),
    "gmres": (GMRES(stop=STOP), Picard()),
    "phantom": (Phantom(steps=2, relaxation=0.8), Picard()),
    "shine": (Shine(), Broyden(window=60)),
    "shine, refined": (Shine(refine=2), Broyden(window=60)),
    "reverse": (Reverse(), Reversible()),
    "unroll": (Unroll(), Picard()),
}


@pytest.mark.parametrize("name", [*TWICE, "ode", "ode adjoint"])
def test_a_second_derivative_is_right_or_refused(name: str) -> None:
    """At x = 0.3 it is 1.5292; a one-step gradient's own derivative is -0.0130 (phantom) and -0.0152 (shine)."""
    x = torch.full((1, 1), 0.3, requires_grad=True)
    if name.startswith("ode"):

        class Bound(Cell):
            width = 1

            def bind(self, x: Tensor, memory: Any = None) -> Map:
                return scalar_map(x)

        ode = NeuralODE(Bound(), time=60.0, method="rk4", step_size=0.5, adjoint=name == "ode adjoint")
        z = ode(x.unsqueeze(1)).y.flatten(1)
    else:
        adjoint, solver = TWICE[name]
        z = adjoint(scalar_map(x), torch.zeros(1, 1), solver, STOP, silent)
    if name in ("unroll", "ode"):
        (first,) = torch.autograd.grad(z, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
        assert second.item() == pytest.approx(1.5292, abs=1e-4)
    else:
        with pytest.raises(RuntimeError, match="has first derivatives only; use Unroll"):
            torch.autograd.grad(z, x, create_graph=True)


class Steered(Cell):
    """tanh(W z + x + e) with W frozen, and e from outside the cell: a prompt, an adapter, a hypernetwork's output."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(0.5 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5, requires_grad=False)
        self.outside: Tensor | None = None

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return lambda z: torch.tanh(z @ self.W + x + self.outside)


STEERED: dict[str, Callable[[Cell], Core]] = {
    **{
        name: lambda cell, name=name: DEQ(  # type: ignore[misc]
            cell, solver=Picard() if name == "unroll" else Broyden(window=60), stop=STOP, adjoint=ADJOINTS[name]()
        )
        for name in ("implicit", "shine", "unroll")
    },
    "tied": lambda cell: Unrolled(cell, depth=40),
    "tied checkpointed": lambda cell: Unrolled(cell, depth=40, checkpointing="every"),
    "ode": lambda cell: NeuralODE(cell, time=25.0, method="rk4", step_size=0.25),
    "ode unrolled": lambda cell: NeuralODE(cell, time=25.0, method="rk4", step_size=0.25, adjoint=False),
}


@pytest.mark.parametrize("above", [False, True], ids=["input alone", "input of a layer"])
@pytest.mark.parametrize("name", STEERED)
def test_a_frozen_cell_passes_the_gradient_on_to_what_steers_it(name: str, above: bool) -> None:
    cell, network, below = Steered(), nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)
    x = below(torch.randn(2, 4, WIDTH)) if above else torch.randn(2, 4, WIDTH)
    cell.outside = network(torch.randn(2, 4, 3))
    wanted = [*network.parameters(), *(below.parameters() if above else ())]
    v = torch.randn(2, 4, WIDTH)
    z = torch.zeros(2, 4, WIDTH)
    for _ in range(80):
        z = torch.tanh(z @ cell.W + x + cell.outside)
    exact = torch.autograd.grad(z, wanted, v, retain_graph=True)
    found = torch.autograd.grad(STEERED[name](cell)(x).y, wanted, v)
    if name == "shine":  # an inexact gradient
        flat = [torch.cat([part.flatten() for part in parts]) for parts in (found, exact)]
        assert torch.cosine_similarity(*flat, dim=0) > 0.8
    else:
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STEERED)
def test_where_nothing_needs_a_gradient_there_is_no_graph(name: str) -> None:
    cell = Steered()
    cell.outside = torch.zeros(1)
    y = STEERED[name](cell)(torch.randn(2, 4, WIDTH)).y
    assert not y.requires_grad


def test_a_potential_that_hides_a_tensor_is_refused() -> None:
    class Hiding(EnergyCell):
        def bind(self, x: Tensor, memory: Any = None) -> Any:
            f, outside = super().bind(x), self.outside

            class Map(type(f)):  # type: ignore[misc]
                def __call__(self, z: Tensor) -> Tensor:
                    return super().__call__(z) + outside

            return Map(*f.tensors)

    cell = Hiding(width=WIDTH)
    cell.outside = torch.zeros(WIDTH, requires_grad=True)  # type: ignore[assignment]
    layer = DEQ(cell, solver=Anderson(), stop=STOP, adjoint=EquilibriumPropagation())
    with pytest.raises(ValueError, match="depends on a tensor that needs a gradient but is not in its `tensors`"):
        layer(torch.randn(2, 3, WIDTH))
