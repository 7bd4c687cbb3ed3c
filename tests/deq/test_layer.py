"""DEQ: the right stop in each mode, watchers that hear every solve, and a module that copies, pickles and loads."""

import copy
import io
import pickle

import pytest
import torch
from cases import product

from deq import CELLS, DEQ, SOLVERS, Anderson, Core, Implicit, MLPCell, Phantom, Picard, Solution, Stop, Unroll, solve

NAMES = sorted(SOLVERS)


def layer(name: str = "anderson", **settings: object) -> DEQ:
    return DEQ(MLPCell(width=6), **{"solver": SOLVERS[name](), "stop": Stop(rtol=1e-5), **settings})  # type: ignore[arg-type]


def test_a_layer_is_a_core_of_its_cells_width() -> None:
    assert isinstance(layer(), Core)
    assert layer().width == 6


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_map_at_the_solution(name: str) -> None:
    core, x = layer(name), torch.randn(3, 4, 6)
    with torch.no_grad():
        f = core.cell.bind(x)
        expected = f(solve(f, torch.zeros(3, 4, 6), core.solver, core.stop).z)
    output = core(x)
    torch.testing.assert_close(output.y, expected)
    assert output.memory is None
    assert output.penalty is None
    assert output.auxiliary == ()


@pytest.mark.parametrize("adjoint", [Implicit(), Phantom(steps=3), Unroll()])
def test_watchers_are_told_of_every_solve_until_they_leave(adjoint: Implicit | Phantom | Unroll) -> None:
    core, x = layer("picard", adjoint=adjoint), torch.randn(2, 4, 6)
    first: list[str] = []
    second: list[str] = []
    end = core.watch(lambda phase, solution: first.append(phase))
    core.watch(lambda phase, solution: second.append(phase))
    core(x).y.sum().backward()
    end()
    with torch.no_grad():
        core(x)
    solves = ["forward", "backward"] if isinstance(adjoint, Implicit) else ["forward"]
    assert first == solves
    assert second == [*solves, "forward"]


def test_a_watcher_may_leave_while_it_is_told() -> None:
    core = layer()
    heard: list[str] = []

    def once(phase: str, solution: Solution) -> None:
        heard.append("once")
        end()

    end = core.watch(once)
    core.watch(lambda phase, solution: heard.append("always"))
    with torch.no_grad():
        core(torch.randn(1, 2, 6))
        core(torch.randn(1, 2, 6))
    assert heard == ["once", "always", "always"]


def test_a_solution_that_a_watcher_keeps_holds_no_graph() -> None:
    core, kept = layer(), []
    core.watch(lambda phase, solution: kept.append(solution))
    core(torch.randn(1, 2, 6)).y.sum().backward()
    assert len(kept) == 2
    for solution in kept:
        assert not solution.z.requires_grad
        assert not solution.gaps.requires_grad


def test_each_mode_has_its_stop() -> None:
    core = layer(stop=Stop(rtol=None, max_steps=7), evaluation_stop=Stop(rtol=None, max_steps=13))
    nfe: list[int] = []
    core.watch(lambda phase, solution: nfe.append(solution.nfe))
    x = torch.randn(1, 2, 6)
    core.train()(x)
    core.eval()(x)
    core.train()(x)
    assert nfe == [7, 13, 7]
    assert layer().evaluation_stop == layer().stop


@pytest.mark.parametrize(("name", "cell"), product(NAMES, sorted(CELLS)))
def test_it_copies_pickles_and_loads(name: str, cell: str) -> None:
    core = DEQ(CELLS[cell](width=8), solver=SOLVERS[name](), stop=Stop(rtol=1e-4), adjoint=Implicit(solver=SOLVERS[name]()))
    x = torch.randn(2, 3, 8)
    core(x).y.sum().backward()
    expected = core(x).y
    other = DEQ(CELLS[cell](width=8), solver=SOLVERS[name](), stop=Stop(rtol=1e-4))
    saved = io.BytesIO()
    torch.save(core.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for twin in (copy.deepcopy(core), pickle.loads(pickle.dumps(core)), other):
        assert torch.equal(twin(x).y, expected)
        assert twin.solver == core.solver
        assert twin.stop == core.stop
        twin(x).y.sum().backward()
        torch.testing.assert_close([p.grad for p in twin.parameters()][-1].shape, [p.shape for p in core.parameters()][-1])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(core(x).y, expected)


def test_a_copy_does_not_report_to_the_originals_watchers() -> None:
    """An averaged copy of a model, made while it is metered, would count its solves twice."""
    core, heard = layer(), []
    core.watch(lambda phase, solution: heard.append(phase))
    copy.deepcopy(core)(torch.randn(1, 2, 6))
    assert heard == []
    pickle.loads(pickle.dumps(core))(torch.randn(1, 2, 6))
    assert heard == []


def test_misspelled_and_misplaced_settings_are_errors() -> None:
    with pytest.raises(TypeError, match="sovler"):
        DEQ(MLPCell(width=2), sovler=Anderson(), solver=Anderson(), stop=Stop())  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        DEQ(MLPCell(width=2), Anderson(), Stop())  # type: ignore[misc]
    with pytest.raises(TypeError, match="tolerance"):
        Implicit(tolerance=1e-3)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", ["anderson", Anderson])
def test_a_solver_that_is_none_is_refused_at_construction(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match="solver"):
        DEQ(MLPCell(width=2), solver=wrong, stop=Stop())  # type: ignore[arg-type]


def test_training_lowers_the_loss() -> None:
    core = layer(stop=Stop(rtol=1e-4))
    x, target = torch.randn(8, 3, 6), 0.5 * torch.randn(8, 3, 6).tanh()
    optimizer = torch.optim.Adam(core.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (core(x).y - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_picard_with_one_step_is_one_application() -> None:
    core, x = layer("picard", stop=Stop(rtol=None, max_steps=1)), torch.randn(2, 3, 6)
    torch.testing.assert_close(core(x).y, core.cell.bind(x)(torch.zeros(2, 3, 6)))


def test_a_frozen_layer_asks_for_no_gradient() -> None:
    """Where neither a parameter nor the input needs one, a backward solve would be for nothing."""
    core = layer().requires_grad_(False)
    assert not core(torch.randn(1, 2, 6)).y.requires_grad
    assert not DEQ(MLPCell(width=6).requires_grad_(False), solver=Picard(), stop=Stop())(torch.randn(1, 2, 6)).y.requires_grad
