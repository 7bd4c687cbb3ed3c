"""Studies: against closed forms and independent computations; and the record, which resumes where it was interrupted."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.instruments.machine_lock import MachineLock
from bench.records.errors import UserError
from bench.records.side_file import EXPERIMENTS
from bench.records.spec import ComponentConfig
from bench.report.figures import render
from bench.studies import batches, figures, gradient_error, inference, pathological, recompute, residual, store
from bench.studies.config import AGREEMENT, TEXT, Case, Config, GradientConfig
from bench.studies.exact import Exact, root
from bench.studies.models import Models, NoValues, deq_of, solutions_of
from bench.studies.study import PlannedRow, Study, number
from bench.training.evaluation import evaluate
from bench.training.language_model import LanguageModel
from deq import DEQ, Anderson, Cell, Map, Picard, Status, Stop, Unroll, solve

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "claims"
Made = tuple[dict[str, Any], Path]


def copying(T: int) -> ComponentConfig:
    return ComponentConfig(name="copy", settings={"T": T, "samples": 64, "test_samples": 16})


CASE = Case("copy", copying(2), 1e-2, tuple((f"T={T}", copying(T)) for T in (2, 3, 4)))
GRADIENT = GradientConfig(batch=2, candidates=3, tolerances=(1e-1, 1e-4), phantom_steps=(1, 2), unroll_steps=(3,))
SIZES: dict[str, Any] = {
    **{"heads": 2, "width": 16, "depth": 3, "steps": 6, "batch": 4, "warmup": 2, "points": 3, "cap": 12, "most": 20, "samples": 4},
    **{"tolerances": (1e-6, 1e-2, 4.0), "caps": (1, 4, 12), "alone": 3, "batches": (2, 4), "recompute_depths": (3,)},
    **{"pathological_steps": 2, "dependencies": (2, 3), "dependency_samples": 8},
    **dict.fromkeys(("seeds", "pathological_seeds", "dependency_seeds"), (0,)),
}
TOY = Config(cases=(CASE,), gradient=GRADIENT, **SIZES)
DEQ_SPEC, TIED_SPEC = (TOY.spec(CASE, label, 0) for label in ("DEQ", TOY.tied_label))


def contention(reason: str | None) -> Any:
    return lambda threads: SimpleNamespace(read=lambda: reason)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Both toy models, trained."""
    found = Models(tmp_path_factory.mktemp("models"), {})
    for spec in (DEQ_SPEC, TIED_SPEC):
        found.trained(spec)
    return found


@pytest.fixture(scope="module")
def made(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A whole toy record, with timings that are always the same, and its folder."""
    out = tmp_path_factory.mktemp("record")
    shutil.copytree(models.folder, out / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "seconds", lambda model, inputs: 0.01)
        patch.setattr(inference, "Contention", contention(None))
        return store.measure_studies(out=out, config=TOY), out


def rows_of(made: Made, study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made[0]["experiments"][study]["rows"]
    return found


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
def test_plain_iteration_on_a_line_falls_by_its_slope(a: float) -> None:
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


def test_what_never_arrives_or_overflows_is_null() -> None:
    found = residual.by_solver(lambda z: -z + 1, torch.zeros(2, 3), 10)["picard"]  # 0, 1, 0, 1, ...
    assert found["reach"]["0.0001"] == {"share": 0.0, "median": None}
    curve = residual.by_solver(lambda z: 1e20 * z * z + 1, torch.ones(2, 3), 10)["picard"]["curve"]
    assert [row[0] for row in curve] == list(range(1, 11))
    assert curve[-1][1] is None


def test_as_many_layers_as_trained_have_the_networks_own_loss(models: Models) -> None:
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
def test_no_failure_goes_unnoticed(models: Models, name: str) -> None:
    found = pathological.measure(models, name, 0, 8, Stop(rtol=1e-3, max_steps=100))
    has_root = found.pop("root")
    for counts in found.values():
        assert counts["silent"] == 0
        assert sum(counts[status.name] for status in Status) == 16
        assert has_root or counts["CONVERGED"] == counts["grown"]


def test_a_map_that_is_solved_only_as_z_grows_is_counted() -> None:
    for f, grown in ((pathological.translation, 4), (lambda z: z / 2 + 1, 0)):
        found = pathological.statuses(f, torch.zeros(4, 2), Picard(), Stop(rtol=1e-2, max_steps=300))
        assert (found["CONVERGED"], found["grown"]) == (4, grown)


def test_a_wrong_status_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathological, "solve", lambda *a: replace(found := solve(*a), status=torch.zeros_like(found.status)))
    assert pathological.statuses(pathological.jumping, torch.zeros(4, 2), Picard(), Stop(max_steps=9))["silent"] == 4


def test_the_rotation_repels_from_its_root() -> None:
    z = torch.ones(1, 4)
    assert torch.allclose(pathological.repelling_rotation(z), z)
    assert (pathological.repelling_rotation(z + torch.eye(4)[:1]) - z).norm().item() == pytest.approx(1.1)


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


def test_models_are_as_large_as_the_deq_and_chance_is_the_same_at_every_length(made: Made) -> None:
    rows = rows_of(made, "dependency")
    size = rows[0]["values"]["parameters"]
    assert all(abs(row["values"]["parameters"] - size) <= 0.02 * size for row in rows)
    assert len({(row["values"]["chance"], row["values"]["optimum"]) for row in rows}) == 1
    assert {row["dependency"] for row in rows} == {2, 3}


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


def test_inference_takes_turns_on_one_thread_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a script: three rounds of a DEQ that takes 30, 50 and 40 ms and a network that takes 10."""
    script = iter([t for ours in (0.03, 0.05, 0.04) for t in (ours, 0.01)])
    seen: list[str] = []

    @contextmanager
    def exclusive(self: MachineLock) -> Iterator[None]:
        seen.append("locked")
        yield
        seen.append("released")

    def seconds(model: LanguageModel, inputs: Tensor) -> float:
        seen.append(f"{torch.get_num_threads()} thread")
        return next(script)

    monkeypatch.setattr(inference, "seconds", seconds)
    monkeypatch.setattr(MachineLock, "exclusive", exclusive)
    monkeypatch.setattr(inference, "Contention", contention(None))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = inference.measure(models, DEQ_SPEC, TIED_SPEC, 4, 3)
        assert torch.get_num_threads() == 2  # as it was
    finally:
        torch.set_num_threads(before)
    assert (found["deq_ms"], found["tied_ms"], found["ratio"]) == (40.0, 10.0, 4.0)
    assert 0 < found["nfe"] <= TOY.cap
    assert seen == ["locked", *["1 thread"] * 6, "released"]
    monkeypatch.setattr(inference, "seconds", lambda model, inputs: 0.01)
    monkeypatch.setattr(inference, "Contention", contention("others"))
    with pytest.raises(NoValues, match=r"contended: .*: others"):
        inference.measure(models, DEQ_SPEC, TIED_SPEC, 4, 1)


def test_the_record_has_every_row_with_seeds_settings_and_units(made: Made) -> None:
    assert made[0]["experiments"] == store.read_studies(made[1])["experiments"]
    assert not (made[1] / ".cache").exists()
    for study in store.all_studies(TOY):
        found = made[0]["experiments"][study.name]
        subjects = [{key: row[key] for key in planned.subject} for row, planned in zip(found["rows"], study.rows, strict=True)]
        assert subjects == [planned.subject for planned in study.rows]
        assert found["measured"]
        assert found["units"]
        assert found["settings"]
        assert found["seeds"] == [0]
        assert all((row["values"] is None) == (row["reason"] is not None) and row["made_by"] for row in found["rows"])


@pytest.fixture
def measured(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The studies whose rows are measured, which gives them values of no meaning; a copy of the toy record is in tmp_path."""
    found: list[str] = []

    def values(self: Study, row: PlannedRow, models: Models) -> Any:
        found.append(self.name)
        return {"count": len(found)}, None

    monkeypatch.setattr(Study, "values", values)
    monkeypatch.setattr(store, "code_revision", lambda environment: "another")
    shutil.copy(made[1] / store.NAME, tmp_path)
    return found


def test_only_rows_of_other_settings_are_measured_again(made: Made, measured: list[str], tmp_path: Path) -> None:
    assert store.measure_studies(out=tmp_path, config=TOY)["experiments"] == made[0]["experiments"]
    assert measured == []
    found = store.measure_studies(out=tmp_path, config=replace(TOY, alone=2))["experiments"]
    assert measured == ["batch"]
    (row,) = found["batch"]["rows"]
    assert (row["values"], row["revision"]) == ({"count": 1}, "another")
    assert found["cap"] == made[0]["experiments"]["cap"]  # with the revision that measured it


def test_a_row_depends_on_numerics_arguments_trainings_and_environment(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    study = batches.study(TOY)
    row = study.rows[0]
    other = DEQ_SPEC.model_copy(update={"seed": 1})
    found = [study.made_by(row, models), replace(study, numerics=2).made_by(row, models)]
    found += [study.made_by(replace(row, arguments=()), models), study.made_by(replace(row, specs=(other,)), models)]
    elsewhere = Models(models.folder, {})
    monkeypatch.setattr(elsewhere, "environment", {"torch": "3.0"})
    found.append(study.made_by(row, elsewhere))
    assert len(set(found)) == 5
    assert study.made_by(row, Models(models.folder, {})) == found[0]


def test_an_interrupted_call_resumes(measured: list[str], tmp_path: Path) -> None:
    (tmp_path / store.NAME).unlink()

    def interrupt(text: str) -> None:
        if text.startswith("3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.measure_studies(out=tmp_path, config=TOY, report=interrupt)
    kept = store.read_studies(tmp_path)["experiments"]
    assert sum(len(study["rows"]) for study in kept.values()) == 3
    found = store.measure_studies(out=tmp_path, config=TOY)["experiments"]
    assert len(measured) == sum(len(study.rows) for study in store.all_studies(TOY))
    counts = [row["values"]["count"] for study in found.values() for row in study["rows"]]
    assert sorted(counts) == list(range(1, len(measured) + 1))
    assert measured[-1] == "inference"  # timed rows last


def test_a_contended_row_is_measured_again(made: Made, measured: list[str], tmp_path: Path) -> None:
    record = json.loads(json.dumps(made[0]))
    record["experiments"]["inference"]["rows"][0].update(
        values=None, reason="contended: other work ran on the machine meanwhile: x"
    )
    store._write(record, tmp_path)
    assert store.measure_studies(out=tmp_path, config=TOY)["experiments"]["inference"]["rows"][0]["values"] == {"count": 1}
    assert measured == ["inference"]


def test_a_missing_corpus_is_a_reason(measured: list[str], tmp_path: Path) -> None:
    absent = {"tinyshakespeare": tmp_path / "absent.txt"}
    found = store.measure_studies(data=absent, out=tmp_path, config=replace(TOY, cases=(CASE, TEXT)))["experiments"]
    rows = [row for row in found["cap"]["rows"] if row["task"] == TEXT.label]
    assert [(row["values"], row["made_by"]) for row in rows] == [(None, None)]
    assert "absent.txt" in rows[0]["reason"]
    assert measured == []


@pytest.mark.parametrize("damage", ["", "[]", '{"schema": 1}', '{"schema": 1, "experiments": {"cap": 3}}'])
def test_a_damaged_record_counts_as_none(damage: str, tmp_path: Path) -> None:
    (tmp_path / store.NAME).write_text(damage)
    assert store._old_rows(tmp_path) == {}


def test_a_record_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record of experiments"):
        store.read_studies(tmp_path)
    (tmp_path / store.NAME).write_text(json.dumps(replace(EXPERIMENTS, schema=0).sealed({"experiments": {}})))
    with pytest.raises(UserError, match="schema 0, this version reads 1"):
        store.read_studies(tmp_path)


def test_another_process_measures_the_same(made: Made, tmp_path: Path) -> None:
    study = batches.study(TOY)
    missing = [(study, study.rows[0], "")]
    assert [values for _, values, _ in store._measured(missing, Models(tmp_path, {}), 2)] == [rows_of(made, "batch")[0]["values"]]


def test_every_figure_with_values_is_drawn_in_both_formats(made: Made, tmp_path: Path) -> None:
    store.write_studies(made[0], tmp_path)
    names = {"fig2-steps", "fig2-residual", "fig3-tolerance", "fig3-cap", "work-precision", "fig4-layers", "gradient-fidelity"}
    assert {path.stem for path in tmp_path.glob("*.svg")} == {*names, "dependency-length"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {*names, "dependency-length"}
    bare = json.loads(json.dumps(made[0]))
    for row in (row for study in bare["experiments"].values() for row in study["rows"]):
        row["values"], row["reason"] = None, "untrained"
    assert render("experiments", figures.Rows(bare)) == {}


def test_a_mean_over_seeds_is_that_of_the_tables_and_leaves_out_what_one_lacks() -> None:
    assert figures._mean([[(1, 1.0), (2, 4.0)], [(1, 100.0), (3, 1.0)]]) == [(1, pytest.approx(10.0))]
    assert figures._mean([[(1, -1.0)], [(1, 5.0)]], "linear") == [(1, 2.0)]


def test_a_seed_that_is_not_positive_counts_in_the_mean() -> None:
    axes = Figure().subplots()
    figures._draw(axes, [[(1, -1.0), (2, 1.0)], [(1, 5.0), (2, 100.0)]], "red", scale="linear")
    assert list(axes.lines[-1].get_ydata()) == [2.0, 50.5]
    axes = Figure().subplots()
    figures._draw(axes, [[(1, 0.0), (2, 0.0)], [(1, 5.0), (2, 100.0)]], "red")
    assert len(axes.lines) == 1  # the other seed's own line: no geometric mean of both


def test_the_published_record_is_complete_and_reproduces() -> None:
    """Rows that need no training are measured again."""
    found = store.read_studies(PUBLISHED)["experiments"]
    for study in store.all_studies():
        rows = found[study.name]["rows"]
        assert [planned.subject.items() <= row.items() for planned, row in zip(study.rows, rows, strict=True)] == [True] * len(rows)
        assert found[study.name]["settings"] == json.loads(json.dumps(study.settings))
        assert all(row["revision"] and (row["values"] is not None or row["reason"]) for row in rows)
        assert sum(row["values"] is not None for row in rows) > 0.9 * len(rows), study.name
    assert AGREEMENT.label in {row["task"] for row in found["training"]["rows"]}
    for study in (pathological.studies(Config())[0], recompute.study(Config())):
        values, _ = study.values(study.rows[0], Models(PUBLISHED, {}))
        assert json.loads(json.dumps(values)) == found[study.name]["rows"][0]["values"]
