"""Fixed-point correction: the auxiliary features of a DEQ are those of single evaluations at iterates of its solve."""

from typing import Any

import pytest
import torch
from torch import Tensor

from deq import DEQ, Anderson, Broyden, Implicit, MLPCell, Picard, Reverse, Reversible, Shine, Stop, Unroll


def layer(solver: Any = None, adjoint: Any = None, every: int = 2, steps: int = 7) -> DEQ:
    torch.manual_seed(0)
    stop = Stop(rtol=None, max_steps=steps)
    return DEQ(MLPCell(width=5), solver=solver or Picard(), stop=stop, adjoint=adjoint, auxiliary_every=every).double()


X = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def iterates(core: DEQ) -> list[Tensor]:
    f, z = core.cell.bind(X), core.cell.initial_state(X)
    found = []
    with torch.no_grad():
        for _ in range(7):
            found.append(z)
            z = f(z)
    return found


def test_features_and_gradients_are_those_of_one_evaluation_at_each_iterate() -> None:
    core = layer()
    auxiliary = core(X).auxiliary
    states = iterates(core)[2:6:2]
    assert len(auxiliary) == 2  # of iterates 2 and 4; the last evaluation is at 6
    for y, state in zip(auxiliary, states, strict=True):
        expected = core.cell.bind(X)(state)
        torch.testing.assert_close(y, expected)
        wanted = list(core.parameters())
        for one, exact in zip(
            torch.autograd.grad(y.sum(), wanted, retain_graph=True), torch.autograd.grad(expected.sum(), wanted), strict=True
        ):
            torch.testing.assert_close(one, exact)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [(Anderson(), Implicit()), (Broyden(), Shine()), (Picard(), Unroll()), (Reversible(), Reverse())],
    ids=["anderson", "shine", "unroll", "reverse"],
)
def test_the_main_result_and_its_gradient_do_not_change(solver: Any, adjoint: Any) -> None:
    found = []
    for every in (0, 3):
        core = layer(solver, adjoint, every)
        output = core(X)
        assert len(output.auxiliary) == (1 if every else 0)
        found.append([output.y, *torch.autograd.grad(output.y.sin().sum(), list(core.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_there_are_none_in_evaluation_or_without_gradients() -> None:
    core = layer()
    with torch.no_grad():
        assert core(X).auxiliary == ()
    assert core.eval()(X).auxiliary == ()
    with pytest.raises(ValueError, match="auxiliary_every"):
        layer(every=-1)
