"""Solver statistics agree with counts by hand and with closed forms."""

import gc
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines import AdaptiveLoop, NeuralODE, Recurrent
from bench.instruments.solver_stats import SolverStats
from deq import DEQ, Anderson, Cell, Implicit, Map, MLPCell, Phantom, Picard, Stop

EXPLICIT = "an explicit model solves nothing"


class Counted(Cell):
    """z -> gain z + x, every evaluation counted; converges linearly at a known rate."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.width = 3
        self.gain = nn.Parameter(torch.tensor(gain))
        self.evaluations = 0

    def bind(self, x: Tensor, memory: None = None) -> Map:
        def f(z: Tensor) -> Tensor:
            self.evaluations += 1
            return self.gain * z + x

        return f


def deq(cell: Cell, *, steps: int = 7, rtol: float | None = None, backward: int = 5) -> DEQ:
    adjoint = Implicit(solver=Picard(), stop=Stop(rtol=None, max_steps=backward))
    evaluation = Stop(rtol=None, max_steps=11)
    return DEQ(cell, solver=Picard(), stop=Stop(rtol=rtol, max_steps=steps), adjoint=adjoint, evaluation_stop=evaluation)


def test_evaluations_agree_with_a_count_by_hand() -> None:
    cell = Counted(0.5)
    model = deq(cell)
    stats = SolverStats(model)
    for _ in range(3):
        model(torch.ones(2, 4, 3)).y.sum().backward()
    assert cell.evaluations == 3 * 7  # the attached one is the seventh
    stats.mode = "evaluation"
    model.eval()
    with torch.no_grad():
        model(torch.ones(2, 4, 3))
    read = stats.read()
    assert read["train_forward_nfe_mean"].value == read["train_forward_nfe_p95"].value == 7
    assert read["train_backward_nfe_mean"].value == read["train_backward_nfe_p95"].value == 5
    assert read["eval_forward_nfe_mean"].value == 11
    assert stats.recent("forward")[0] == 7
    assert stats.recent("backward")[0] == 5


def test_residuals_agree_with_the_closed_form() -> None:
    """z_k = 2 (1 - 2^-k) x, so that after n evaluations the best gap is 2^-(n-1) |x| and |f(z)| = 2 (1 - 2^-n) |x|."""
    model = deq(Counted(0.5), steps=7)
    stats = SolverStats(model)
    model(torch.ones(2, 4, 3)).y.sum().backward()
    read = stats.read()
    expected = 2**-6 / (2 * (1 - 2**-7))
    for name in ("p50", "p95", "max"):
        assert read[f"train_residual_{name}"].value == pytest.approx(expected, rel=1e-5)
        # u_k = v + J^T u: the same recursion from u = v, one step ahead
        assert read[f"train_backward_residual_{name}"].value == pytest.approx(2**-5 / (2 * (1 - 2**-6)), rel=1e-5)
    assert stats.recent("forward")[1] == pytest.approx(expected, rel=1e-5)


def test_shares_and_quantiles_are_over_samples_and_solves() -> None:
    cell = MLPCell(width=3)
    model = DEQ(cell, solver=Picard(), stop=Stop(rtol=1e-3, max_steps=4), adjoint=Phantom())
    seen: list[tuple[Tensor, Tensor, int]] = []
    model.watch(lambda phase, solution: seen.append((solution.residual, solution.converged, solution.nfe)))
    stats = SolverStats(model)
    for scale in (0.0, 0.1, 1.0, 5.0):
        model(scale * torch.randn(5, 4, 3)).y.sum().backward()
    read = stats.read()
    residual = torch.cat([one for one, _, _ in seen]).double().numpy()
    assert read["train_residual_max"].value == residual.max()
    for name, q in (("p50", 0.5), ("p95", 0.95)):
        assert np.quantile(residual, q, method="lower") <= read[f"train_residual_{name}"].value
        assert read[f"train_residual_{name}"].value <= np.quantile(residual, q, method="higher")
    assert read["train_converged_fraction"].value == pytest.approx(torch.cat([c for _, c, _ in seen]).double().mean().item())
    assert read["train_forward_nfe_mean"].value == pytest.approx(np.mean([nfe for *_, nfe in seen]))
    for name in ("backward_nfe_mean", "backward_converged_fraction", "backward_residual_p95"):
        assert read[f"train_{name}"].value is None
        assert "no backward solve" in str(read[f"train_{name}"].reason)


def test_all_layers_of_a_model_are_recorded_until_close() -> None:
    model = nn.ModuleList([deq(Counted(0.5), steps=3), deq(Counted(0.5), steps=9)])
    stats = SolverStats(model)
    for layer in model:
        layer(torch.ones(1, 2, 3))
    assert stats.read()["train_forward_nfe_mean"].value == 6
    stats.close()
    stats.close()
    model[0](torch.ones(1, 2, 3))
    assert stats.read()["train_forward_nfe_mean"].value == 6


def test_forget_drops_one_split() -> None:
    model = deq(Counted(0.5))
    stats = SolverStats(model)
    model(torch.ones(1, 2, 3))
    stats.mode = "evaluation"
    model(torch.ones(1, 2, 3))
    stats.forget("evaluation")
    read = stats.read()
    assert read["train_forward_nfe_mean"].value == 7
    assert read["eval_forward_nfe_mean"].value is None
    assert "test split" in str(read["eval_forward_nfe_mean"].reason)


def test_solver_bytes_are_those_of_its_storage() -> None:
    cell, window, batch, time = MLPCell(width=3), 4, 5, 6
    model = DEQ(cell, solver=Anderson(window=window), stop=Stop(rtol=None, max_steps=9), adjoint=Phantom())
    stats = SolverStats(model)
    model(torch.randn(batch, time, 3)).y.sum().backward()
    value = stats.read()["solver_bytes"].value
    assert value is not None
    assert value >= 2 * window * batch * time * 3 * 4  # two histories of float32
    assert value <= 3 * window * batch * time * 3 * 4


def test_a_solve_that_is_not_finite_is_null_with_that_as_its_reason() -> None:
    model = deq(Counted(0.5))
    stats = SolverStats(model)
    model(torch.full((2, 2, 3), math.nan))
    read = stats.read()
    assert read["train_converged_fraction"].value == 0
    assert read["train_residual_max"].value is None
    assert "not finite" in str(read["train_residual_max"].reason)
    assert stats.recent("forward") == (7, None)


def test_an_explicit_model_is_null_with_that_as_its_reason() -> None:
    model = Recurrent(kind="gru", inputs=3, width=3)
    stats = SolverStats(model)
    model(torch.ones(1, 2, 3))
    read = stats.read()
    assert len(read) >= 15
    assert {(one.value, one.reason) for one in read.values()} == {(None, EXPLICIT)}
    assert stats.recent("forward") == (None, None)
    with_layer = deq(Counted(0.5))
    assert set(SolverStats(with_layer).read()) == set(read)


def test_of_a_neural_ode_only_the_evaluations_are_measured() -> None:
    model = NeuralODE(MLPCell(width=3), time=1.0, method="rk4", step_size=0.5)
    stats = SolverStats(model)
    model(torch.randn(2, 4, 3)).y.sum().backward()
    stats.mode = "evaluation"
    model(torch.randn(2, 4, 3))
    read = stats.read()
    counts = ("train_forward_nfe_mean", "train_backward_nfe_mean", "eval_forward_nfe_mean")
    assert [read[name].value for name in counts] == [8, 8, 8]
    others = [one for name, one in read.items() if "_nfe_" not in name]
    assert len(others) >= 10
    assert all(one.value is None and "no fixed point" in str(one.reason) for one in others)
    assert stats.recent("forward") == (8, None)


def test_of_an_adaptive_loop_the_mean_iterations_of_a_position_are_measured() -> None:
    model = AdaptiveLoop(MLPCell(width=3), depth=9, initial_bias=-0.5)
    stats, expected = SolverStats(model), list[float]()
    model.watch(lambda phase, evaluations: expected.append(float(evaluations.nfe)))
    for scale in (0.1, 30.0):
        with torch.no_grad():
            model.halt.weight.mul_(scale)
        model(torch.randn(2, 4, 3))
    assert expected[0] != expected[1]
    read = stats.read()
    assert read["train_forward_nfe_mean"].value == pytest.approx(sum(expected) / 2)
    assert stats.recent("forward")[0] == pytest.approx(sum(expected) / 2)
    assert stats.recent("forward") == (None, None)
    assert read["train_residual_max"].value is None
    assert "learned decision" in str(read["train_residual_max"].reason)
    saved = stats.state()["phases"]["forward"]["nfe"]
    assert saved == pytest.approx(expected)
    assert all(isinstance(one, float) for one in saved)


def test_a_long_training_keeps_no_tensor_of_a_solve() -> None:
    """Thousands of small tensors between large ones made the heap grow by half a megabyte a step."""
    model = DEQ(MLPCell(width=3), solver=Picard(), stop=Stop(max_steps=5))
    stats = SolverStats(model)

    def kept(steps: int) -> int:
        for _ in range(steps):
            model(torch.randn(2, 4, 3)).y.sum().backward()
            stats.recent("forward")
            stats.recent("backward")
        gc.collect()
        return sum(type(one) is torch.Tensor for one in gc.get_objects())

    assert kept(2) == kept(20)
    assert len(stats.state()["phases"]["backward"]["residuals"]) == 2 * 22
