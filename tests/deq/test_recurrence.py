"""The scan and its gradient against the recurrence written as a loop."""

import pytest
import torch
from problems import recurrence_by_loop
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import jacrev

from deq.recurrence import linear_recurrence


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
        scanned, looped = linear_recurrence(decay, entering, start), recurrence_by_loop(decay, entering, start)
        torch.testing.assert_close(scanned, looped, rtol=1e-12, atol=1e-12)
        v = torch.randn(looped.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for found, exact in zip(torch.autograd.grad(scanned, wanted, v), torch.autograd.grad(looped, wanted, v), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-12)


def test_second_derivatives_are_right() -> None:
    decay, entering, state = inputs(6, batch=1, states=2)
    assert torch.autograd.gradgradcheck(linear_recurrence, (decay, entering, state))


def test_whole_jacobians_are_right() -> None:
    decay, entering, state = inputs(5, batch=2, states=3)
    exact = jacobian(recurrence_by_loop, (decay, entering, state))
    for found, wanted in zip(jacrev(linear_recurrence, (0, 1, 2))(decay, entering, state), exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
