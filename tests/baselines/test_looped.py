"""The looped network: its iterations, where its gradient stops, and the distribution of its depths."""

import math

import pytest
import torch

from baselines import Looped, Unrolled
from deq import MLPCell


def looped(**settings: float) -> Looped:
    torch.manual_seed(0)
    return Looped(MLPCell(width=6), depth=5, **settings).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_in_evaluation_it_is_the_weight_tied_network_of_that_depth(depth: int) -> None:
    core = looped(evaluation_depth=depth, start_std=1.0).eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(core(x).y, Unrolled(core.cell, depth=depth).eval()(x).y)
    assert torch.equal(core(x).y, core(x).y)


def test_the_gradient_is_that_of_the_last_iterations() -> None:
    core, x = looped(backward_depth=3), torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    for draw in range(20):
        torch.manual_seed(draw)
        depth = core.iterations()
        torch.manual_seed(draw)
        y = core(x).y
        f, z = core.cell.bind(x), core.cell.initial_state(x)
        for step in range(depth):
            z = f(z) if step >= depth - 3 else f(z).detach()
        wanted = [x, *core.parameters()]
        for found, exact in zip(torch.autograd.grad(y.sum(), wanted), torch.autograd.grad(z.sum(), wanted), strict=True):
            torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_depths_have_the_stated_mean(spread: float) -> None:
    core = looped(spread=spread)
    depths = torch.tensor([core.iterations() for _ in range(4000)], dtype=torch.float64)
    deviation = math.sqrt(5 + 25 * (math.exp(spread**2) - 1))  # of a Poisson with a log-normal rate of mean 5
    assert abs(depths.mean() - 6) < 4 * deviation / math.sqrt(4000)
    assert depths.std().item() == pytest.approx(deviation, rel=0.15)
    assert depths.min() >= 1


def test_noise_in_the_start_is_for_training_alone() -> None:
    core, x = looped(start_std=1.0, spread=0.0), torch.randn(1, 3, 6, dtype=torch.float64)
    torch.manual_seed(1)
    one = core(x).y
    torch.manual_seed(2)
    assert not torch.equal(one, core(x).y)


@pytest.mark.parametrize("backward_depth", [1, 5])
def test_segments_go_on_from_the_detached_state_and_are_supervised(backward_depth: int) -> None:
    core = looped(random_depth=False, segments=3, backward_depth=backward_depth)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    output = core(x)
    f, z = core.cell.bind(x), core.cell.initial_state(x)
    for y in (*output.auxiliary, output.y):
        z = z.detach()
        for step in range(5):
            z = f(z) if step >= 5 - backward_depth else f(z).detach()
        torch.testing.assert_close(y, z)
        wanted = list(core.parameters())
        found, exact = (torch.autograd.grad(one.sum(), wanted, retain_graph=True) for one in (y, z))
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other)
    whole = core.eval()(x)
    assert whole.auxiliary == ()
    torch.testing.assert_close(whole.y, Unrolled(core.cell, depth=15).eval()(x).y)


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 0}, {"backward_depth": 0}, {"evaluation_depth": -1}, {"spread": -1.0}, {"start_std": math.nan}, {"segments": 0}],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Looped(MLPCell(width=4), **{"depth": 3, **wrong})  # type: ignore[arg-type]
