"""The Neural ODE: closed forms, its gradient against backpropagation, its memory, and the two networks at its ends."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import few
from torch import Tensor, nn

from baselines import NeuralODE, Unrolled
from baselines.continuous import ADAPTIVE, FIXED
from baselines.counted import Evaluations
from bench.instruments.probes import peak_live_bytes
from deq import DEQ, Anderson, Cell, Map, MLPCell, Stop, TransformerXLCell, TrellisCell

pytestmark = pytest.mark.end_to_end

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


class Linear(Cell):
    """f(z) = z A^T + x, A symmetric of norm 0.6."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width
        A = torch.randn(width, width, dtype=torch.float64)
        A = A + A.T
        self.A = nn.Parameter(0.6 * A / torch.linalg.matrix_norm(A, 2))

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return lambda z: z @ self.A.T + x


def sequence(time: int = 4, width: int = 3) -> Tensor:
    return torch.randn(2, time, width, dtype=torch.float64)


@pytest.mark.parametrize("method", few(ADAPTIVE, set(ADAPTIVE) - {"fehlberg2"}))  # of low order: seconds
def test_a_linear_flow_has_its_closed_form(method: str) -> None:
    """z(t) = (I - A)^-1 (I - exp((A - I) t)) x from zero."""
    cell, x = Linear(), sequence()
    y = NeuralODE(cell, time=1.7, method=method, **({"rtol": 1e-5, "atol": 1e-7} if method == "adaptive_heun" else TIGHT))(x).y
    one = torch.eye(3, dtype=torch.float64)
    decay = torch.linalg.matrix_exp((cell.A - one) * 1.7)
    expected = x @ (torch.linalg.inv(one - cell.A) @ (one - decay)).T
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_for_ever_it_ends_where_the_deq_is_solved() -> None:
    cell, x = Linear(), sequence()
    solved = DEQ(cell, solver=Anderson(), stop=Stop(rtol=1e-12, max_steps=100))(x).y
    torch.testing.assert_close(NeuralODE(cell, time=60.0, **TIGHT)(x).y, solved, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adjoint", [True, False])
def test_euler_with_step_one_is_the_unrolled_network(adjoint: bool) -> None:
    cell, x = MLPCell(width=3).double(), sequence()
    ode = NeuralODE(cell, time=5.0, method="euler", step_size=1.0, adjoint=adjoint)
    torch.testing.assert_close(ode(x).y, Unrolled(cell, depth=5)(x).y)


CELLS: dict[str, Callable[[], Cell]] = {
    "linear": Linear,
    "mlp": lambda: MLPCell(width=3).double(),
    "transformer-xl": lambda: TransformerXLCell(width=3, heads=1, weight_norm=True).double(),
    "trellis": lambda: TrellisCell(width=3, weight_norm=True).double(),
}


@pytest.mark.parametrize("name", few(CELLS, ["mlp", "transformer-xl"]))
def test_the_adjoint_is_the_gradient_of_the_flow(name: str) -> None:
    """Against backpropagation through the solver's steps, in the input (here no leaf) and in every parameter."""
    cell, x, found = CELLS[name](), sequence().requires_grad_(), []
    for adjoint in (True, False):
        y = NeuralODE(cell, time=1.5, adjoint=adjoint, **TIGHT)(2 * x).y
        found.append(torch.autograd.grad(y.square().sum(), [x, *cell.parameters()]))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)  # ReLUs leave kinks that no step size resolves


def test_the_adjoint_passes_gradcheck() -> None:
    ode = NeuralODE(MLPCell(width=2).double(), time=1.0, **TIGHT)
    x = sequence(2, 2)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ode(x).y, x, atol=1e-5)


@pytest.mark.parametrize("adjoint", [True, False])
def test_memory_does_not_grow_with_the_steps_of_an_adjoint_solve(adjoint: bool) -> None:
    cell, x = MLPCell(width=8), torch.randn(2, 4, 8)

    def saved(steps: int) -> int:
        kept: list[Tensor] = []
        ode = NeuralODE(cell, time=4.0, method="euler", step_size=4 / steps, adjoint=adjoint)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            ode(x)
        return len(kept)

    assert (saved(40) == saved(4)) is adjoint


@pytest.mark.parametrize("adjoint", [True, False])
def test_the_peak_of_a_step_does_not_grow_with_the_steps_of_an_adjoint_solve(adjoint: bool) -> None:
    """All that is alive at once, forward and backward: at 40 steps what it is at 4, where backpropagation needs 5 times as much."""
    cell, x = MLPCell(width=32), torch.randn(4, 16, 32)

    def peak(steps: int) -> int:
        ode = NeuralODE(cell, time=4.0, method="euler", step_size=4 / steps, adjoint=adjoint)
        cell.zero_grad(set_to_none=True)
        return peak_live_bytes(lambda: ode(x).y.square().sum().backward(), cell.parameters()).step

    few, many = peak(4), peak(40)
    scalars = 40 * 64  # bytes: the solver's grid of times
    assert (many <= few + scalars) if adjoint else (many > 5 * few), (few, many)


def test_evaluations_are_counted_forward_and_backward() -> None:
    ode, watched = NeuralODE(MLPCell(width=3).double(), time=1.0, method="rk4", step_size=0.25), []
    stop = ode.watch(lambda phase, solve: watched.append((phase, solve)))
    y = ode(sequence()).y
    assert watched == [("forward", Evaluations(16))]
    y.sum().backward()
    assert watched == [("forward", Evaluations(16)), ("backward", Evaluations(16))]
    with torch.no_grad():
        ode(sequence())
    assert len(watched) == 3
    stop()
    ode(sequence())
    assert len(watched) == 3


def test_a_copy_has_no_watchers() -> None:
    ode, watched = NeuralODE(MLPCell(width=3)), []
    ode.watch(lambda *call: watched.append(call))
    copy.deepcopy(ode)(torch.randn(1, 2, 3))
    assert watched == []


def test_masks_hold_through_the_solve_and_its_adjoint() -> None:
    """With one mask throughout, the gradient of a training-mode flow is that of backpropagation with the same draw."""
    cell, x, found = TransformerXLCell(width=4, heads=1, dropout=0.4).double().train(), sequence(width=4), []
    for adjoint in (True, False):
        torch.manual_seed(2)
        y = NeuralODE(cell, time=0.5, adjoint=adjoint, **TIGHT)(x).y
        found.append((y, *torch.autograd.grad(y.square().sum(), list(cell.parameters()))))
    got, expected = (torch.cat([part.flatten() for part in parts]) for parts in found)
    assert (got - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("method", FIXED)
def test_with_fixed_steps_it_is_causal_exactly(method: str) -> None:
    ode, x = NeuralODE(CELLS["transformer-xl"](), time=2.0, method=method, step_size=0.5), sequence()
    later = torch.cat((x[:, :2], sequence()[:, :2]), dim=1)
    assert torch.equal(ode(x).y[:, :2], ode(later).y[:, :2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rk5"}, "method must be one of dopri5, .*got 'rk5'"),
        ({"method": "euler"}, "step_size is for the fixed methods .* which need it; got None for euler"),
        ({"step_size": 0.1}, "step_size is for the fixed methods .* got 0.1 for dopri5"),
        ({"time": 0.0}, "time must be positive, got 0.0"),
        ({"time": math.inf}, "time must be positive, got inf"),
        ({"rtol": -1.0}, "rtol must be positive, got -1.0"),
        ({"atol": math.nan}, "atol must be positive, got nan"),
        ({"method": "rk4", "step_size": 0.0}, "step_size must be positive, got 0.0"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralODE(MLPCell(width=2), **settings)


def test_a_solver_that_gives_up_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"the ODE solver dopri5 failed: .*underflow"):
        NeuralODE(MLPCell(width=3))(torch.full((1, 2, 3), math.nan))


def test_what_contracts_forward_is_unstable_backward() -> None:
    """dz/dt = x - 10 z^3: followed back from its rest, it leaves for infinity in finite time; backpropagation does not mind."""

    class Cubic(Linear):
        def bind(self, x: Tensor, memory: Any = None) -> Map:
            return lambda z: z + x - 10 * z**3

    x = (sequence().float().abs() + 0.5).requires_grad_()
    NeuralODE(Cubic(), time=8.0, adjoint=False)(x).y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    y = NeuralODE(Cubic(), time=8.0)(x).y
    with pytest.raises(AssertionError, match=r"underflow in dt|non-finite values"):
        y.sum().backward()
