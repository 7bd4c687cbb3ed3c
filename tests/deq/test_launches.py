"""The operators that a solver runs for an evaluation: on a GPU each is a kernel to launch, some microseconds of the host's time."""

from typing import Any

import pytest
import torch

from baselines import Unrolled
from bench.instruments.operators import Operations
from deq import DEQ, Anderson, Broyden, Core, Map, Picard, Solver, Stop, TransformerCell, solve
from deq.solve import force_device_path

TORCHDEQ = {"Picard": 39, "Anderson": 51, "Broyden": 70}  # of its fixed_point_iter, anderson and broyden, counted in the same way


def each(solver: Solver, rtol: float | None) -> tuple[float, float]:
    """Operators and reads for one more evaluation of tanh(W z + x), which takes three."""
    weight, x = torch.linalg.qr(torch.randn(64, 64))[0], torch.randn(32, 64)
    found = []
    for steps in (10, 20):
        with torch.no_grad(), Operations() as counted:
            solve(lambda z: torch.tanh(torch.add(x, z @ weight)), torch.zeros(32, 64), solver, Stop(rtol=rtol, max_steps=steps))
        found.append(counted)
    return (found[1].launches - found[0].launches) / 10, (found[1].syncs - found[0].syncs) / 10


@pytest.mark.parametrize(
    ("solver", "free", "looking"),
    [(Picard(), 12, 7), (Anderson(), 29, 24), (Broyden(), 33, 28)],
    ids=["picard", "anderson", "broyden"],
)
def test_an_evaluation_takes_few_operators_and_reads_no_value(solver: Solver, free: int, looking: int) -> None:
    """`free`: with rtol=None, by masks. `looking`: with a tolerance, with one copy of the gaps to the host."""
    with force_device_path():
        assert each(solver, None) == (free, 0)
        assert each(solver, 1e-30) == (looking, 0)
    assert free < 0.6 * TORCHDEQ[type(solver).__name__]
    assert each(solver, 1e-30)[0] < looking  # on a CPU the gaps are where the host reads them, and values save work


class Counting(TransformerCell):
    """A cell that counts the evaluations of its map."""

    evaluations = 0

    def bind(self, x: torch.Tensor, memory: Any = None) -> Map:
        f = super().bind(x, memory)

        def counted(z: torch.Tensor) -> torch.Tensor:
            self.evaluations += 1
            return f(z)

        return counted


@pytest.mark.parametrize(
    ("solver", "most"), [(Picard(), 1.5), (Anderson(), 2.5), (Broyden(), 2.7)], ids=["picard", "anderson", "broyden"]
)
@pytest.mark.parametrize("cap", [4, 8, 12])
def test_inference_at_a_cap_takes_the_evaluations_of_a_tied_network_of_that_depth(solver: Solver, most: float, cap: int) -> None:
    """Operators, on the path of a GPU, over the tied network's: before the solve returned its last evaluation 3.7, 4.9 and 5."""
    cell, x = Counting(width=32), torch.randn(4, 16, 32)

    def count(core: Core) -> tuple[int, int]:
        core.eval()(x)  # makes the positions
        cell.evaluations = 0
        with Operations() as counted:
            core(x)
        return cell.evaluations, counted.launches

    with torch.no_grad(), force_device_path():
        evaluations, operators = count(DEQ(cell, solver=solver, stop=Stop(rtol=1e-30, max_steps=cap)))
        depth, fewest = count(Unrolled(cell, depth=cap))
    assert evaluations == depth == cap
    assert operators < most * fewest
