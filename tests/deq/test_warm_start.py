"""A solve may start where another ended: the same solution for fewer evaluations."""

from typing import Any

import pytest
import torch

from deq import CELLS, DEQ, SOLVERS, MLPCell, Solution, Stop


def solved(layer: DEQ, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, Solution]:
    """The features and the state of an output, and how the solve ended."""
    seen: list[Solution] = []
    unwatch = layer.watch(lambda _, solution: seen.append(solution))
    output = layer(x, z0=z0)
    unwatch()
    assert output.state is not None
    return output.y, output.state, seen[0]


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_start_at_the_solution_takes_one_evaluation(cell: str, solver: str) -> None:
    layer = DEQ(CELLS[cell](width=8), solver=SOLVERS[solver](), stop=Stop(rtol=1e-4, max_steps=200)).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        cold, state, first = solved(layer, x)
        warm, _, again = solved(layer, x, state)
    assert first.converged.all()
    assert again.nfe == 1 < first.nfe
    torch.testing.assert_close(warm, cold, rtol=1e-3, atol=1e-3)


def test_a_start_nearby_takes_fewer_evaluations_and_changes_no_gradient() -> None:
    layer = DEQ(MLPCell(width=8), solver=SOLVERS["anderson"](), stop=Stop(rtol=1e-9, max_steps=200)).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    _, state, cold = solved(layer, x + 1e-6)
    state.requires_grad_()
    gradients = []
    for z0 in (None, state):
        y, _, solution = solved(layer, x, z0)
        gradients.append(torch.autograd.grad(y.square().sum(), list(layer.parameters())))
    assert solution.nfe < cold.nfe
    assert state.grad is None
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-6)  # the backward solve's tolerance


def test_a_start_of_another_shape_is_refused() -> None:
    layer = DEQ(CELLS["trellis"](width=4, hidden=6), solver=SOLVERS["picard"](), stop=Stop())
    with pytest.raises(ValueError, match=r"the shape of the cell's state, \(2, 3, \d+\), got \(2, 3, 4\)"):
        layer(torch.randn(2, 3, 4), z0=torch.zeros(2, 3, 4))


@pytest.mark.parametrize(("z0", "named"), [([0.0], "list"), (torch.zeros(2, 3, 4, dtype=torch.int64), "torch.int64")])
def test_a_start_that_is_no_floating_point_tensor_is_refused(z0: Any, named: str) -> None:
    layer = DEQ(MLPCell(width=4), solver=SOLVERS["picard"](), stop=Stop())
    with pytest.raises(TypeError, match=f"z0 must be a floating-point tensor, got {named}"):
        layer(torch.randn(2, 3, 4), z0=z0)


def test_a_start_in_another_dtype_is_converted() -> None:
    layer = DEQ(MLPCell(width=4), solver=SOLVERS["picard"](), stop=Stop(max_steps=3))
    assert layer(torch.randn(2, 3, 4), z0=torch.zeros(2, 3, 4, dtype=torch.float64)).y.dtype == torch.float32
