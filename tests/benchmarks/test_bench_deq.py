"""Times of the smallest parts: one solver step, one cell evaluation, one training step. Run with --benchmark-enable."""

from typing import Any

import pytest
import torch

from baselines import TCN, NeuralODE, Recurrent, TransformerXL, TrellisNet, Unrolled
from deq import CELLS, DEQ, SOLVERS, Implicit, Stop, TransformerXLCell, TrellisCell, solve

TEN = Stop(rtol=None, max_steps=10)


@pytest.mark.parametrize("shape", [(32, 64), (8, 128, 128)], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_ten_solver_steps_of_a_cheap_map(benchmark: Any, name: str, shape: tuple[int, ...]) -> None:
    z0 = torch.randn(shape)
    solution = benchmark(lambda: solve(lambda z: torch.cos(z), z0, SOLVERS[name](), TEN))
    assert solution.nfe == 10


@pytest.mark.parametrize("name", CELLS)
def test_one_evaluation_of_a_cell(benchmark: Any, name: str) -> None:
    cell, x = CELLS[name](width=64), torch.randn(4, 64, 64)
    with torch.no_grad():
        f, z = cell.bind(x), cell.initial_state(x)
        assert benchmark(f, z).shape == z.shape


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", [*SOLVERS, "unrolled"])
def test_one_training_step(benchmark: Any, name: str, cell: str) -> None:
    map_of = CELLS[cell](width=64)
    core = (
        Unrolled(map_of, depth=10)
        if name == "unrolled"
        else DEQ(map_of, solver=SOLVERS[name](), stop=TEN, adjoint=Implicit(solver=SOLVERS[name](), stop=TEN))
    )
    optimizer, x = torch.optim.Adam(core.parameters()), torch.randn(4, 64, 64)

    def step() -> float:
        optimizer.zero_grad()
        loss = core(x).y.square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    assert benchmark(step) >= 0


EXPLICIT = {
    "tcn": lambda: TCN(inputs=64, width=64),
    "lstm": lambda: Recurrent(kind="lstm", inputs=64, width=64),
    "lstm, weights dropped": lambda: Recurrent(kind="lstm", inputs=64, width=64, weight_dropout=0.2),
    "transformer-xl 4": lambda: TransformerXL(inputs=64, width=64),
    "trellisnet 10": lambda: TrellisNet(TrellisCell(width=64), depth=10),
    "ode, 10 Euler steps": lambda: NeuralODE(TransformerXLCell(width=64), time=10.0, method="euler", step_size=1.0),
}


@pytest.mark.parametrize("name", EXPLICIT)
def test_forward_and_backward_of_an_explicit_network(benchmark: Any, name: str) -> None:
    core, x = EXPLICIT[name](), torch.randn(4, 64, 64)
    benchmark(lambda: core(x).y.square().mean().backward())
    assert all(p.grad is not None for p in core.parameters())
