"""Studies against closed forms and independent computations."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from toy import CASE, DEQ_SPEC, TIED_SPEC, TOY, Made, contention, rows_of

from bench.instruments.machine_lock import MachineLock
from bench.studies import batches, gradient_error, inference, pathological, residual
from bench.studies.config import GradientConfig
from bench.studies.exact import Exact, root
from bench.studies.models import Models, NoValues, deq_of, solutions_of
from bench.studies.study import PlannedRow, number
from bench.training.construct import resolve
from bench.training.evaluation import evaluate
from bench.training.language_model import LanguageModel
from deq import CELLS, DEQ, Anderson, Cell, Map, Picard, Status, Stop, Unroll, solve

pytestmark = pytest.mark.end_to_end


class Affine(Cell):
    """f(z) = z A^T + x + mixing * the mean of z over the batch."""

    def __init__(self, A: Tensor, mixing: float) -> None:
        super().__init__()
        self.width, self.mixing, self.A = len(A), mixing, nn.Parameter(A)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return lambda z: z @ self.A.mT + x + self.mixing * z.mean(0, keepdim=True)


def affine_model(scaled_identity: float | None = None, mixing: float = 0.0) -> LanguageModel:
    """A float64 model whose map is linear: a symmetric A of norm one half, or that multiple of I."""
    A = torch.randn(3, 3, dtype=torch.float64)
    A = A + A.mT
    A = A / 2 / torch.linalg.matrix_norm(A, 2) if scaled_identity is None else scaled_identity * torch.eye(3, dtype=torch.float64)
    return LanguageModel(vocabulary=5, inputs=3, core=DEQ(Affine(A, mixing), solver=Picard(), stop=Stop())).double()


def tokens() -> tuple[Tensor, Tensor]:
    inputs, targets = torch.randint(5, (2, 3, 4)).unbind(0)
    return inputs, targets


def test_a_trained_model_is_that_of_its_record_and_the_same_when_trained_again(models: Models, tmp_path: Path) -> None:
    trained, found = models.trained(DEQ_SPEC), models.record(DEQ_SPEC)
    scores = evaluate(trained, models.task(CASE.task), "valid", DEQ_SPEC)
    assert scores["loss"] == pytest.approx(found.value("valid_loss"), rel=1e-12)
    assert not trained.training
    again = Models(tmp_path, {}).trained(DEQ_SPEC)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_the_fresh_model_is_where_training_began(models: Models) -> None:
    train = DEQ_SPEC.train.model_copy(update={"learning_rate": 1e-30, "steps": 1, "warmup": 1})
    still = models.trained(DEQ_SPEC.model_copy(update={"train": train}))
    fresh, trained = models.fresh(DEQ_SPEC), models.trained(DEQ_SPEC)
    pairs = zip(fresh.parameters(), still.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-20) for a, b in pairs)  # a bias of zero moves by 1e-30
    assert any(not torch.equal(a, b) for a, b in zip(fresh.parameters(), trained.parameters(), strict=True))


def test_a_training_that_diverged_has_rows_with_that_reason(models: Models) -> None:
    train = DEQ_SPEC.train.model_copy(update={"learning_rate": 1e38, "clip": None})
    explosive = DEQ_SPEC.model_copy(update={"train": train})
    values, reason = residual.studies(TOY)[0].values(PlannedRow({"seed": 0}, (explosive,), (5, 2)), models)
    assert values is None
    assert "diverged" in (reason or "")


def test_a_solved_copy_leaves_the_model_alone(models: Models) -> None:
    model = models.trained(TIED_SPEC)
    core = model.core
    other = deq_of(model, Anderson(), Stop(max_steps=40))
    assert isinstance(other.core, DEQ)
    assert model.core is core
    with solutions_of(other) as solutions:
        other(torch.zeros(2, 5, dtype=torch.long))
    other(torch.zeros(2, 5, dtype=torch.long))
    assert len(solutions) == 1


def test_a_number_has_seven_digits_or_is_null() -> None:
    assert (number(math.nan), number(-math.inf), number(1 / 3)) == (None, None, 0.3333333)


@pytest.mark.parametrize("a", [0.5, -0.8])
def test_plain_iteration_of_a_linear_map_converges_by_its_slope(a: float) -> None:
    found = residual.by_solver(lambda z: a * z + 1, torch.zeros(3, 4, dtype=torch.float64), 20)
    curve = [value for _, value, _ in found["picard"]["curve"]]
    assert [b / c for b, c in zip(curve[1:], curve, strict=False)] == pytest.approx([abs(a)] * 19, rel=1e-5)
    assert found["radius"]["median"] == pytest.approx(abs(a), rel=1e-5)
    for solver in ("anderson", "broyden"):
        assert found[solver]["reach"]["0.0001"] == {"share": 1.0, "median": pytest.approx(3, abs=1)}


def test_reach_counts_evaluations_until_each_sample_is_below() -> None:
    """a^n |b| against the size of the best iterate, by hand, sample by sample."""
    slopes = torch.tensor([0.1, 0.5, 0.999], dtype=torch.float64)[:, None]
    found = residual.by_solver(lambda z: slopes * z + 1, torch.zeros(3, 1, dtype=torch.float64), 60)["picard"]["reach"]
    counts = []
    for a in slopes.flatten().tolist():
        size = (1 - a**60) / (1 - a)
        counts.append(next((n + 1 for n in range(60) if a**n / size < 1e-4), math.inf))
    assert counts[-1] == math.inf
    assert found["0.0001"] == {"share": pytest.approx(2 / 3), "median": sorted(counts)[1]}


def test_a_residual_that_never_falls_or_overflows_is_null() -> None:
    found = residual.by_solver(lambda z: -z + 1, torch.zeros(2, 3), 10)["picard"]  # 0, 1, 0, 1, ...
    assert found["reach"]["0.0001"] == {"share": 0.0, "median": None}
    curve = residual.by_solver(lambda z: 1e20 * z * z + 1, torch.ones(2, 3), 10)["picard"]["curve"]
    assert [row[0] for row in curve] == list(range(1, 11))
    assert curve[-1][1] is None


def test_the_loss_at_the_trained_depth_is_the_networks_own(models: Models) -> None:
    found = residual.measure_layers(models, TIED_SPEC, CASE.lengths, (1, 3), 20, 4)
    assert list(found["lengths"]) == ["T=2", "T=3", "T=4"]
    own = evaluate(models.trained(TIED_SPEC), models.task(CASE.task), "valid", TIED_SPEC)["loss"]
    assert found["loss"][1] == [3, pytest.approx(own, rel=1e-6)]
    assert found["loss"][0][1] != pytest.approx(own, rel=1e-6)


def test_the_exact_gradient_of_a_linear_map_is_its_closed_form() -> None:
    """z* = (I - A)^-1 x and L = <w, z*>: dL/dx = (I - A)^-T w, dL/dA = that times z*^T."""
    A = (0.2 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    x, w = (torch.randn(1, 4, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    z0 = root(lambda z: z @ A.mT + x, torch.zeros_like(x)).z
    z = Exact()(lambda z: z @ A.mT + x, z0, Picard(), Stop(), lambda phase, solution: None)
    dx, dA = torch.autograd.grad((z * w).sum(), (x, A))
    u = torch.linalg.solve((torch.eye(4, dtype=torch.float64) - A.detach()).mT, w[0])
    assert torch.allclose(dx[0], u, rtol=1e-9)
    assert torch.allclose(dA, torch.outer(u, z.detach()[0]), rtol=1e-9)


def test_exact_agrees_with_a_long_unroll_in_all_parameters() -> None:
    model = affine_model()
    z, batch, count = gradient_error.rooted(model, *tokens(), 3)
    assert (len(z), count) == (3, 3)
    exact, _ = gradient_error.gradient(model, *batch, Exact(), z)
    long, _ = gradient_error.gradient(model, *batch, Unroll(), None, Picard(), Stop(rtol=None, max_steps=80))
    assert (long - exact).norm() < 1e-10 * exact.norm()
    assert len(exact) == sum(p.numel() for p in model.parameters())


def test_a_phantom_gradient_is_off_by_a_power_of_the_jacobian() -> None:
    """A = a I: k steps give (1 - a^k) of the gradient that comes through the solve to x, so its distance there is a^k."""
    a, (inputs, targets) = 0.5, tokens()
    model = affine_model(scaled_identity=a)
    config = GradientConfig(batch=3, candidates=3, tolerances=(1e-1, 1e-6), phantom_steps=(1, 2, 3), unroll_steps=(60,))
    found = gradient_error.gradients(model, inputs, targets, config, Stop(rtol=1e-8, max_steps=100))
    z, batch, _ = gradient_error.rooted(model, inputs, targets, 3)
    exact, _ = gradient_error.gradient(model, *batch, Exact(), z)
    solved = exact[: -(model.head.weight.numel() + model.head.bias.numel())]  # the head's own part is exact
    for point in found["phantom"]:
        assert point["distance"] == pytest.approx((a ** point["steps"] * solved.norm() / exact.norm()).item(), rel=1e-6)
    assert found["unroll"][0]["distance"] < 1e-10
    assert [point["backward"]["converged"] for point in found["backward"]] == [1.0, 1.0]
    assert found["backward"][1]["distance"] < 1e-6


def test_a_batch_without_roots_has_a_reason_instead_of_gradients() -> None:
    found = gradient_error.gradients(affine_model(scaled_identity=1.0), *tokens(), GradientConfig(batch=2), Stop(max_steps=10))
    assert "0 of 3 sequences" in found["reason"]
    assert "backward" not in found


@pytest.mark.parametrize("angle", [1.0, 1e-3, 1e-9])
def test_a_small_angle_is_not_lost_to_rounding(angle: float) -> None:
    exact = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = gradient_error.error(2 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64), exact)
    assert found["one_less_cosine"] == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-6)
    assert found["distance"] == pytest.approx(math.hypot(2 * math.cos(angle) - 1, 2 * math.sin(angle)), rel=1e-6)


@pytest.mark.parametrize("mixing", [0.0, 0.1])
def test_a_sample_that_sees_its_batch_is_detected(mixing: float) -> None:
    model, (inputs, targets) = affine_model(mixing=mixing), tokens()
    alone, together = (batches.answers_in_batches(model, inputs, targets, size, Stop(rtol=1e-10, max_steps=100)) for size in (1, 3))
    difference = (alone[1] - together[1]).abs().max().item()
    assert difference > 1e-3 if mixing else difference < 1e-13


def test_a_trained_models_answers_are_the_same_in_every_batch_in_float64(made: Made) -> None:
    found = rows_of(made, "batch")[0]["values"]["float64"]
    assert [row["batch"] for row in found] == [2, 4]
    assert all(row["logits"] < 1e-10 and row["steps"] == 0 for row in found)


@pytest.mark.parametrize("name", pathological.MAPS)
def test_no_solve_is_called_converged_wrongly(models: Models, name: str) -> None:
    found = pathological.measure(models, name, 0, 8, Stop(rtol=1e-3, max_steps=100))
    has_root = found.pop("root")
    for counts in found.values():
        assert counts["silent"] == 0
        assert sum(counts[status.name] for status in Status) == 16
        assert has_root or counts["CONVERGED"] == counts["grown"]


def test_the_cell_without_a_fixed_point_is_named_by_the_path_that_spec_ids_contain() -> None:
    name = pathological._TRAINED["no fixed point"]["cell"]
    assert name == "bench.studies.pathological:Drifting"
    assert resolve("cell", CELLS, name) is pathological.Drifting


def test_a_map_that_is_solved_only_as_z_grows_is_counted() -> None:
    for f, grown in ((pathological.translation, 4), (lambda z: z / 2 + 1, 0)):
        found = pathological.statuses(f, torch.zeros(4, 2), Picard(), Stop(rtol=1e-2, max_steps=300))
        assert (found["CONVERGED"], found["grown"]) == (4, grown)


def test_a_wrong_status_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathological, "solve", lambda *a: replace(found := solve(*a), status=torch.zeros_like(found.status)))
    assert pathological.statuses(pathological.jumping, torch.zeros(4, 2), Picard(), Stop(max_steps=9))["silent"] == 4


def test_the_rotation_has_an_unstable_root() -> None:
    z = torch.ones(1, 4)
    assert torch.allclose(pathological.unstable_rotation(z), z)
    assert (pathological.unstable_rotation(z + torch.eye(4)[:1]) - z).norm().item() == pytest.approx(1.1)


def test_a_training_without_a_fixed_point_is_flagged(made: Made) -> None:
    (values,) = (row["values"] for row in rows_of(made, "hostile training") if row["model"] == "no fixed point")
    assert max(values["train_converged_fraction"], values["train_backward_converged_fraction"]) < 0.1


def test_checkpointing_costs_one_more_forward_by_torchs_count(models: Models, made: Made) -> None:
    counts = rows_of(made, "recompute")[0]["values"]["core"]
    with FlopCounterMode(display=False) as counter:
        models.fresh(TIED_SPEC).train().core(torch.randn(4, 22, 16, requires_grad=True)).y.sum().backward()
    assert counts["none"]["step"] == counter.get_total_flops()
    assert counts["every"]["ratio"] == counts["sqrt"]["ratio"]
    assert 0.8 < (counts["every"]["step"] - counts["none"]["step"]) / counts["none"]["forward"] <= 1


def test_a_tolerance_of_one_or_more_is_met_at_zero(models: Models, made: Made) -> None:
    by_tolerance = {point["rtol"]: point for point in rows_of(made, "tolerance")[0]["values"]["points"]}
    assert (by_tolerance[4.0]["steps"], by_tolerance[4.0]["residual"]) == (1.0, 1.0)
    assert by_tolerance[1e-6]["residual"] < 1e-5
    assert rows_of(made, "cap")[0]["values"]["points"][0]["loss"] == by_tolerance[4.0]["loss"]  # one evaluation, either way
    model, (inputs, targets) = models.trained(DEQ_SPEC), models.sequences(CASE.task, "valid", 8)
    with torch.no_grad():
        x = model.embed(inputs)
        logits = model.logits(model.core.cell(torch.zeros_like(x), x))  # type: ignore[union-attr,operator]
    assert by_tolerance[4.0]["loss"] == pytest.approx(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-5)


def test_inference_is_timed_in_turn_on_one_thread_with_the_lock(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script for a clock: three rounds of a DEQ that takes 30, 50 and 40 ms, solved loosely 20, and a network that takes 10."""
    script = iter([t for ours in (0.03, 0.05, 0.04) for t in (ours, 0.02, 0.01)])
    seen: list[str] = []

    @contextmanager
    def exclusive(self: MachineLock) -> Iterator[None]:
        seen.append("locked")
        yield
        seen.append("released")

    def seconds(model: LanguageModel, inputs: Tensor) -> float:
        stop = model.core.evaluation_stop if isinstance(model.core, DEQ) else None
        seen.append(f"{torch.get_num_threads()} thread, to {stop.rtol if stop else None}")
        return next(script)

    monkeypatch.setattr(inference, "seconds", seconds)
    monkeypatch.setattr(MachineLock, "exclusive", exclusive)
    monkeypatch.setattr(inference, "Contention", contention(None))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = inference.measure(models, DEQ_SPEC, TIED_SPEC, 0.1, 4, 3)
        assert torch.get_num_threads() == 2  # as it was
    finally:
        torch.set_num_threads(before)
    assert (found["deq_ms"], found["loose_ms"], found["tied_ms"]) == (40.0, 20.0, 10.0)
    assert 0 < found["loose_nfe"] < found["nfe"] <= TOY.cap
    assert seen == ["locked", *[f"1 thread, to {rtol}" for rtol in (TOY.rtol, 0.1, None)] * 3, "released"]
    monkeypatch.setattr(inference, "seconds", lambda model, inputs: 0.01)
    monkeypatch.setattr(inference, "Contention", contention("others"))
    with pytest.raises(NoValues, match=r"contended: .*: others"):
        inference.measure(models, DEQ_SPEC, TIED_SPEC, 0.1, 4, 1)
