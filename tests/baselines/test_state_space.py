"""The state-space model against its recurrence written as a loop."""

import pytest
import torch
from problems import recurrence_by_loop

from baselines import StateSpace


@pytest.mark.parametrize("negative", [False, True])
def test_a_block_is_its_formula(negative: bool) -> None:
    torch.manual_seed(0)
    core = StateSpace(inputs=6, width=6, layers=1, states=5, negative=negative).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    (block,) = core.blocks
    u = block.norms[0](x)
    a, b, g = (u @ block.project.weight.T + block.project.bias).split(5, dim=-1)
    a = torch.tanh(a) if negative else torch.sigmoid(a)
    h = recurrence_by_loop(a, (1 - a.abs()) * b)
    y = x + block.mix(h * g * torch.sigmoid(g))
    z = y + block.contract(torch.relu(block.expand(block.norms[1](y))))
    torch.testing.assert_close(core(x).y, core.norm(z), rtol=1e-12, atol=1e-12)
    decays = block.project.bias[:5]
    decays = torch.tanh(decays) if negative else torch.sigmoid(decays)
    torch.testing.assert_close((decays.min(), decays.max()), (torch.tensor(0.5).double(), torch.tensor(0.999).double()))


def test_it_is_causal_and_its_memory_continues_it() -> None:
    torch.manual_seed(0)
    core = StateSpace(inputs=4, width=6, layers=3).double()
    x = torch.randn(2, 12, 4, dtype=torch.float64)
    whole, first = core(x).y, core(x[:, :5])
    torch.testing.assert_close(first.y, whole[:, :5], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(core(x[:, 5:], first.memory).y, whole[:, 5:], rtol=1e-11, atol=1e-12)
    assert all(not state.requires_grad for state in first.memory)


@pytest.mark.parametrize(("states", "feedforward"), [(None, None), (5, 7)])
def test_the_number_of_parameters(states: int | None, feedforward: int | None) -> None:
    core = StateSpace(inputs=8, width=8, layers=2, states=states, feedforward=feedforward)
    D, S, F = 8, states or 8, feedforward or 32
    block = 4 * S * D + 3 * S + F * (2 * D + 1) + 6 * D
    assert sum(p.numel() for p in core.parameters()) == 2 * block + 2 * D
