"""The adaptive loop against adaptive computation time written token by token, and what halting must not break."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import AdaptiveLoop, Unrolled
from deq import CELLS, Cell, MLPCell, TransformerCell
from deq.solve import force_device_path

B, T, D = 3, 6, 8
CELL_NAMES = ["mlp", "transformer", "trellis"]


def cell_of(name: str) -> Cell:
    return CELLS[name](width=D, **({"heads": 2} if name == "transformer" else {}))


def loop(name: str = "transformer", *, scale: float = 8.0, **settings: Any) -> AdaptiveLoop:
    """A loop whose halting weights are large, so that positions halt after different numbers of iterations."""
    torch.manual_seed(0)
    core = AdaptiveLoop(cell_of(name), **{"depth": 7, "initial_bias": -1.5, "ponder_cost": 0.3, **settings})
    with torch.no_grad():
        core.halt.weight.mul_(scale)
    return core.double()


def features(time: int = T) -> Tensor:
    return torch.randn(B, time, D, dtype=torch.float64)


def by_token(core: AdaptiveLoop, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """The output (B, T, D), the penalty and the iterations of each position: one sample at a time, one position at a time."""
    outputs, ponder, counts = [], [], []
    for sample in x.unsqueeze(1):  # (1, T, D)
        f = core.cell.bind(sample)
        state = list(core.cell.initial_state(sample)[0])
        halted: list[int | None] = [None] * len(state)
        probabilities: list[list[Tensor]] = [[] for _ in state]
        seen: list[list[Tensor]] = [[] for _ in state]
        for n in range(1, core.depth + 1):
            new = f(torch.stack(state)[None])[0]
            y = core.cell.features(new[None])[0]
            for t, done in enumerate(halted):
                if done is not None:
                    continue
                state[t] = new[t]
                seen[t].append(y[t])
                probabilities[t].append(1 / (1 + torch.exp(-(core.halt.weight[0] @ y[t] + core.halt.bias[0]))))
                if sum(p.item() for p in probabilities[t]) >= 1 - core.epsilon or n == core.depth:
                    halted[t] = n
        for t, N in enumerate(halted):
            assert N is not None
            remainder = 1 - sum(probabilities[t][: N - 1], torch.zeros((), dtype=torch.float64))
            weights = [*probabilities[t][: N - 1], remainder]
            outputs.append(sum((w * y for w, y in zip(weights, seen[t], strict=True)), torch.zeros(D, dtype=torch.float64)))
            ponder.append(N + remainder)
            counts.append(N)
    return torch.stack(outputs).view(*x.shape[:2], D), core.ponder_cost * torch.stack(ponder).mean(), counts


@pytest.mark.parametrize("initial_bias", [-1.5, 0.5])
@pytest.mark.parametrize("name", CELL_NAMES)
def test_value_penalty_and_gradient_are_those_of_the_definition(name: str, initial_bias: float) -> None:
    core, x = loop(name, initial_bias=initial_bias), features().requires_grad_()
    counted: list[float] = []
    core.watch(lambda phase, evaluations: counted.append(float(evaluations.nfe)))
    output = core(x)
    y, penalty, counts = by_token(core, x)
    assert len(set(counts)) > 1  # positions do halt at different times
    assert counted == [pytest.approx(sum(counts) / len(counts))]
    torch.testing.assert_close(output.y, y, rtol=1e-12, atol=1e-12)
    assert output.penalty is not None
    torch.testing.assert_close(output.penalty, penalty, rtol=1e-12, atol=0)
    wanted, v = [x, *core.parameters()], torch.randn_like(y)
    for one, exact in ((output.penalty, penalty), ((output.y * v).sum(), (y * v).sum())):
        found, expected = (torch.autograd.grad(part, wanted, retain_graph=True, allow_unused=True) for part in (one, exact))
        for a, b in zip(found, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_where_all_halt_at_once_it_is_one_application_at_a_cost_of_two(name: str) -> None:
    core, x = loop(name, initial_bias=60.0), features()
    output = core(x)
    assert torch.equal(output.y, Unrolled(core.cell, depth=1)(x).y)
    assert output.penalty is not None
    assert output.penalty.item() == pytest.approx(0.3 * 2)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_where_none_halts_it_is_the_weight_tied_network(name: str) -> None:
    core, x = loop(name, initial_bias=-800.0, scale=0.0), features()
    output = core(x)
    torch.testing.assert_close(output.y, Unrolled(core.cell, depth=7)(x).y)
    assert output.penalty is not None
    assert output.penalty.item() == pytest.approx(0.3 * 8)


def test_in_evaluation_it_may_take_more_iterations() -> None:
    core, x = loop(initial_bias=-800.0, scale=0.0, evaluation_depth=30), features()
    torch.testing.assert_close(core(x).y, Unrolled(core.cell, depth=7)(x).y)
    torch.testing.assert_close(core.eval()(x).y, Unrolled(core.cell, depth=30)(x).y)


@pytest.mark.parametrize(("bias", "iterations"), [(1.0, 2), (0.0, 2), (-2.0, 9)])
def test_the_initial_bias_gives_the_stated_iterations(bias: float, iterations: int) -> None:
    core = AdaptiveLoop(MLPCell(width=D), depth=20, initial_bias=bias)
    with torch.no_grad():
        core.halt.weight.zero_()
    counted: list[float] = []
    core.watch(lambda phase, evaluations: counted.append(float(evaluations.nfe)))
    core(torch.randn(1, 2, D))
    assert counted == [iterations]


def test_a_higher_ponder_cost_learns_to_take_fewer_iterations() -> None:
    taken = {}
    for cost in (0.0, 1.0):
        core, x = loop(scale=1.0, ponder_cost=cost, depth=12, initial_bias=-2.0), features()
        counted: list[float] = []
        core.watch(lambda phase, evaluations, counted=counted: counted.append(float(evaluations.nfe)))  # type: ignore[misc]
        optimiser = torch.optim.Adam(core.parameters(), lr=0.02)
        for _ in range(40):
            output = core(x)
            optimiser.zero_grad()
            ((output.y - x).square().mean() + output.penalty).backward()
            optimiser.step()
        taken[cost] = counted[-1]
    assert taken[1.0] < 0.7 * taken[0.0]


def test_the_loop_that_does_not_stop_early_gives_the_same() -> None:
    core, x = loop(initial_bias=1.0, scale=1.0), features().requires_grad_()
    calls = [0]
    core.halt.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    early = core(x)
    assert calls[0] < core.depth
    with force_device_path():
        whole = core(x)
    assert calls[0] > core.depth
    assert torch.equal(early.y, whole.y)
    assert torch.equal(early.penalty, whole.penalty)  # type: ignore[arg-type]
    for a, b in zip(*(torch.autograd.grad(one.y.sum(), [x, *core.parameters()]) for one in (early, whole)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_penalty_is_for_training_and_the_memory_is_the_halted_states() -> None:
    torch.manual_seed(0)
    core = AdaptiveLoop(TransformerCell(width=D, heads=2, memory_length=2), depth=5).double()
    x = features()
    assert core(x).penalty is not None
    output = core.eval()(x)
    assert output.penalty is None
    assert output.memory.z.shape == (B, 2, D)
    assert not output.memory.z.requires_grad
    assert not torch.allclose(core(x, output.memory).y, output.y)


def test_a_copy_does_not_report_to_the_originals_watchers() -> None:
    core, heard = loop(), []
    remove = core.watch(lambda phase, evaluations: heard.append(phase))
    copy.deepcopy(core)(features())
    assert heard == []
    core(features())
    remove()
    core(features())
    assert heard == ["forward"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0},
        {"evaluation_depth": 0},
        {"ponder_cost": -1.0},
        {"ponder_cost": math.nan},
        {"epsilon": 0.0},
        {"epsilon": 1.0},
        {"epsilon": math.nan},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdaptiveLoop(MLPCell(width=4), **{"depth": 3, **wrong})  # type: ignore[arg-type]
