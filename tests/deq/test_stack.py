"""A stack of cores is their composition, and a stack of equilibria is one equilibrium of the parts side by side."""

import pytest
import torch

from baselines import Recurrent
from deq import DEQ, Anderson, Implicit, Jacobian, MLPCell, Stack, Stop, TransformerXLCell, solve
from deq.pack import pack, unpack

TIGHT = Stop(rtol=1e-12, max_steps=300)


def layer(**settings: object) -> DEQ:
    adjoint = Implicit(solver=Anderson(), stop=TIGHT)
    return DEQ(MLPCell(width=4), solver=Anderson(), stop=TIGHT, adjoint=adjoint, **settings).double()  # type: ignore[arg-type]


def test_a_stack_is_the_composition() -> None:
    cores = [Recurrent(kind="gru", inputs=4, width=3), Recurrent(kind="lstm", inputs=3, width=5)]
    stack, x = Stack(cores), torch.randn(2, 6, 4)
    first = cores[0](x)
    assert torch.equal(stack(x).y, cores[1](first.y).y)
    assert stack.width == 5
    assert {id(p) for p in stack.parameters()} == {id(p) for core in cores for p in core.parameters()}


def test_each_core_gets_its_own_memory_back() -> None:
    stack = Stack([TransformerXLCell_layer(), Recurrent(kind="gru", inputs=4, width=4).double()]).eval()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    first = stack(x[:, :3])
    second = stack(x[:, 3:], first.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y), dim=1), stack(x).y)


def TransformerXLCell_layer() -> DEQ:
    cell = TransformerXLCell(width=4, heads=2, memory_length=8)
    return DEQ(cell, solver=Anderson(), stop=TIGHT).double()


def test_without_memories_there_is_none_and_the_penalties_add_up() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    plain = Stack([layer(), layer()])(x)
    assert plain.memory is None
    assert plain.penalty is None
    cores = [layer(jacobian=Jacobian(weight=1.0)), layer(), layer(jacobian=Jacobian(weight=2.0))]
    torch.manual_seed(0)
    total = Stack(cores)(x).penalty
    torch.manual_seed(0)
    penalties = []
    for core in cores:
        output = core(x)
        x = output.y
        penalties.append(output.penalty)
    assert total is not None
    torch.testing.assert_close(total, penalties[0] + penalties[2])


def test_two_equilibria_are_one_of_both_states_side_by_side() -> None:
    """Theorem 2 of Bai et al. (2019): (z1, z2) -> (f1(z1; x), f2(z2; z1)) has the stack's features at its fixed point."""
    first, second = layer(), layer()
    x = torch.randn(2, 3, 4, dtype=torch.float64)

    def f(z: torch.Tensor) -> torch.Tensor:
        z1, z2 = unpack(z, (4, 4))
        return pack(first.cell.bind(x)(z1), second.cell.bind(z1)(z2))

    with torch.no_grad():
        both = solve(f, torch.zeros(2, 3, 8, dtype=torch.float64), Anderson(), TIGHT)
        assert both.converged.all()
        torch.testing.assert_close(unpack(both.z, (4, 4))[1], Stack([first, second])(x).y, rtol=1e-8, atol=1e-9)


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="a stack needs at least one core"):
        Stack([])
