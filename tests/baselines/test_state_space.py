"""The state-space model against its recurrence written as a loop, and the scan's gradient against the loop's."""

import pytest
import torch
from torch import Tensor

from baselines import StateSpace
from baselines.state_space import linear_recurrence


def by_loop(decay: Tensor, entering: Tensor, state: Tensor | None = None) -> Tensor:
    h = torch.zeros_like(entering[:, 0]) if state is None else state
    found = []
    for t in range(decay.shape[1]):
        h = decay[:, t] * h + entering[:, t]
        found.append(h)
    return torch.stack(found, dim=1)


def inputs(times: int, batch: int = 3, states: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(times)
    decay = 2 * torch.rand(batch, times, states, generator=generator, dtype=torch.float64) - 1
    entering = torch.randn(batch, times, states, generator=generator, dtype=torch.float64)
    state = torch.randn(batch, states, generator=generator, dtype=torch.float64)
    return decay.requires_grad_(), entering.requires_grad_(), state.requires_grad_()


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 8, 17, 64, 100])
def test_the_scan_is_the_recurrence(times: int) -> None:
    decay, entering, state = inputs(times)
    for start in (None, state):
        wanted = [one for one in (decay, entering, start) if one is not None]
        scanned, looped = linear_recurrence(decay, entering, start), by_loop(decay, entering, start)
        torch.testing.assert_close(scanned, looped, rtol=1e-12, atol=1e-12)
        v = torch.randn(looped.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for found, exact in zip(torch.autograd.grad(scanned, wanted, v), torch.autograd.grad(looped, wanted, v), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-12)


def test_second_derivatives_are_right() -> None:
    decay, entering, state = inputs(6, batch=1, states=2)
    assert torch.autograd.gradgradcheck(linear_recurrence, (decay, entering, state))


@pytest.mark.parametrize("negative", [False, True])
def test_a_block_is_its_formula(negative: bool) -> None:
    torch.manual_seed(0)
    core = StateSpace(inputs=6, width=6, layers=1, states=5, negative=negative).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    (block,) = core.blocks
    u = block.norms[0](x)
    a, b, g = (u @ block.project.weight.T + block.project.bias).split(5, dim=-1)
    a = torch.tanh(a) if negative else torch.sigmoid(a)
    h = by_loop(a, (1 - a.abs()) * b)
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
