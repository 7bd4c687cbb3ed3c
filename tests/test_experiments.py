"""Experiments behind the claims: against closed forms and independent recomputation, and a record that goes on where it was."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.contention import Contention
from bench.errors import UserError
from bench.experiments import batches, fidelity, figures, hostile, inference, record, residual
from bench.experiments.exact import Exact, dense_jacobian, root
from bench.experiments.experiment import Part
from bench.experiments.models import Models, Untrained, number, solved
from bench.experiments.quality import heard
from bench.experiments.scale import AGREEMENT, FULL, TEXT, Case, Scale
from bench.figures import render
from bench.loop import evaluate
from bench.machine import Machine
from bench.model import LanguageModel
from bench.side_file import EXPERIMENTS
from bench.spec import Named
from deq import DEQ, Anderson, Cell, Implicit, Map, Picard, Status, Stop, Unroll, solve

PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "claims"


def copying(T: int) -> Named:
    return Named(name="copy", settings={"T": T, "samples": 64, "test_samples": 16})


CASE = Case(label="copy", task=copying(2), rate=1e-2, lengths=(("T=2", copying(2)), ("T=3", copying(3)), ("T=4", copying(4))))
TOY = Scale(
    cases=(CASE,),
    seeds=(0, 1),
    heads=2,
    width=16,
    depth=3,
    steps=6,
    batch=4,
    warmup=2,
    points=3,
    cap=12,
    most=20,
    samples=4,
    tolerances=(1e-6, 1e-2, 4.0),
    caps=(1, 4, 12),
    few=2,
    candidates=3,
    gradient_tolerances=(1e-1, 1e-4),
    phantom_steps=(1, 2),
    unroll_steps=(3,),
    alone=3,
    batches=(2, 4),
    hostile_steps=2,
    hostile_seeds=(0,),
    recompute_depths=(3,),
    dependencies=(2, 3),
    dependency_seeds=(0,),
    dependency_samples=8,
)
DEQ_SPEC = TOY.spec(CASE, "DEQ", 0)


@pytest.fixture(scope="module", autouse=True)
def steady() -> Iterator[None]:
    """Timings that are the same in every record, on a machine that is never busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "clock", lambda model, inputs: 0.01)
        patch.setattr(inference, "Contention", Quiet)
        yield


class Quiet(Contention):
    def read(self, alone: bool = False) -> str | None:
        return None


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A whole toy record and its folder."""
    out = tmp_path_factory.mktemp("record")
    return record.make(out=out, scale=TOY), out


class Affine(Cell):
    """f(z) = z A^T + x, one sample apart from the other."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.width, self.A = len(A), nn.Parameter(A)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return lambda z: z @ self.A.mT + x


class Mixing(Affine):
    """The same, but each sample sees the mean of the batch."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return lambda z: z @ self.A.mT + x + 0.1 * z.mean(0, keepdim=True)


def affine_model(make: type[Affine] = Affine, radius: float = 0.5, width: int = 3) -> LanguageModel:
    """A float64 model whose map is linear with a symmetric A of that norm."""
    A = torch.randn(width, width, dtype=torch.float64)
    A = radius * (A + A.mT) / torch.linalg.matrix_norm(A + A.mT, 2)
    core = DEQ(make(A), solver=Picard(), stop=Stop())
    return LanguageModel(vocabulary=5, inputs=width, core=core).double()


# Models


def test_a_trained_model_is_the_one_its_record_tells_of(models: Models) -> None:
    trained, found = models.trained(DEQ_SPEC), models.record(DEQ_SPEC)
    scores = evaluate(trained, models.task(CASE.task), "valid", DEQ_SPEC)
    assert scores["loss"] == pytest.approx(found.value("valid_loss"), rel=1e-12)
    assert not trained.training


def test_a_model_is_trained_once_and_the_same_when_trained_again(models: Models, tmp_path: Path) -> None:
    models.trained(DEQ_SPEC)
    before = {path: path.stat().st_mtime_ns for path in models.folder.iterdir()}
    one = models.trained(DEQ_SPEC)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in models.folder.iterdir()}.items()
    other = Models(tmp_path, {}).trained(DEQ_SPEC)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_start_is_where_training_began(models: Models) -> None:
    still = DEQ_SPEC.model_copy(update={"train": DEQ_SPEC.train.model_copy(update={"learning_rate": 1e-30})})
    pairs = zip(models.fresh(still).parameters(), models.trained(still).parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-20) for a, b in pairs)  # a bias of zero moves by 1e-30 a step
    assert any(
        not torch.equal(a, b)
        for a, b in zip(models.fresh(DEQ_SPEC).parameters(), models.trained(DEQ_SPEC).parameters(), strict=True)
    )


def test_a_training_that_diverged_has_no_model_and_its_rows_say_so(models: Models) -> None:
    explosive = DEQ_SPEC.model_copy(update={"train": DEQ_SPEC.train.model_copy(update={"learning_rate": 1e38, "clip": None})})
    with pytest.raises(Untrained, match="diverged"):
        models.trained(explosive)
    part = Part(subject={"seed": 0}, follow=residual.follow, arguments=(explosive, 5, 2), specs=(explosive,))
    values, why = part.values(models)
    assert values is None
    assert why is not None
    assert "diverged" in why


def test_a_copy_that_is_solved_otherwise_leaves_the_model_alone(models: Models) -> None:
    model = models.trained(TOY.spec(CASE, TOY.tied_label, 0))
    core = model.core
    other = solved(model, solver=Anderson(), stop=Stop(max_steps=40), dtype=torch.float64)
    assert model.core is core
    assert isinstance(other.core, DEQ)
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_is_not_finite_is_null() -> None:
    assert number(math.nan) is None
    assert number(-math.inf) is None
    assert number(1 / 3) == 0.3333333


# Residuals


@pytest.mark.parametrize("a", [0.5, -0.8])
def test_plain_iteration_on_a_line_falls_by_its_slope(a: float) -> None:
    found = residual.by_solver(lambda z: a * z + 1, torch.zeros(3, 4, dtype=torch.float64), 20)
    curve = [value for _, value, _ in found["picard"]["curve"]]
    assert [b / c for b, c in zip(curve[1:], curve, strict=False)] == pytest.approx([abs(a)] * 19, rel=1e-5)
    assert found["radius"]["median"] == pytest.approx(abs(a), rel=1e-5)
    for solver in ("anderson", "broyden"):
        assert found[solver]["reach"]["0.0001"] == {"share": 1.0, "median": pytest.approx(3, abs=1)}


def test_a_curve_counts_evaluations_until_each_sample_is_below() -> None:
    """a^n |b| against the size of the best iterate, by hand, sample by sample."""
    slopes = torch.tensor([0.1, 0.5, 0.999], dtype=torch.float64)[:, None]
    found = residual.by_solver(lambda z: slopes * z + 1, torch.zeros(3, 1, dtype=torch.float64), 60)["picard"]["reach"]
    counts = []
    for a in slopes.flatten().tolist():
        gaps = [a**n for n in range(60)]
        size = (1 - a**60) / (1 - a)
        counts.append(next((n + 1 for n, gap in enumerate(gaps) if gap / size < 1e-4), math.inf))
    assert counts[-1] == math.inf
    assert found["0.0001"] == {"share": pytest.approx(2 / 3), "median": sorted(counts)[1]}


def test_a_median_of_what_mostly_never_arrives_is_null() -> None:
    found = residual.by_solver(lambda z: -z + 1, torch.zeros(2, 3), 10)["picard"]  # 0, 1, 0, 1, ...
    assert found["reach"]["0.0001"] == {"share": 0.0, "median": None}


def test_a_map_that_overflows_has_null_residuals_not_none_at_all() -> None:
    found = residual.by_solver(lambda z: 1e20 * z * z + 1, torch.ones(2, 3), 10)["picard"]["curve"]
    assert [row[0] for row in found] == list(range(1, 11))
    assert found[-1][1] is None


def test_layers_that_repeat_are_still_and_those_that_alternate_are_not(models: Models) -> None:
    spec = TOY.spec(CASE, TOY.tied_label, 0)
    found = residual.follow_layers(models, spec, CASE.lengths, (1, 3), 20, 4)
    task = models.task(CASE.task)
    assert list(found["lengths"]) == ["T=2", "T=3", "T=4"]
    own = evaluate(models.trained(spec), task, "valid", spec)["loss"]  # three layers are the network itself
    assert found["loss"][1] == [3, pytest.approx(own, rel=1e-6)]
    assert found["loss"][0][1] != pytest.approx(own, rel=1e-6)


# Exact gradients


def test_a_dense_jacobian_is_the_matrix_of_a_linear_map() -> None:
    A = torch.randn(2, 5, 5, dtype=torch.float64)
    J = dense_jacobian(lambda z: (A @ z[..., None])[..., 0] + 1, torch.randn(2, 5, dtype=torch.float64))
    assert torch.allclose(J, A, atol=1e-14)


def test_the_exact_gradient_of_a_linear_map_is_its_closed_form() -> None:
    """z* = (I - A)^-1 x and L = <w, z*>: dL/dx = (I - A)^-T w, dL/dA = that times z*^T."""
    size = 4
    A = (0.2 * torch.randn(size, size, dtype=torch.float64)).requires_grad_()
    x, w = (torch.randn(1, size, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    z0 = root(lambda z: z @ A.mT + x, torch.zeros_like(x)).z
    z = Exact()(lambda z: z @ A.mT + x, z0, Picard(), Stop(), lambda phase, solution: None)
    (z * w).sum().backward()
    u = torch.linalg.solve((torch.eye(size, dtype=torch.float64) - A.detach()).mT, w[0])
    assert x.grad is not None
    assert A.grad is not None
    assert torch.allclose(x.grad[0], u, rtol=1e-9)
    assert torch.allclose(A.grad, torch.outer(u, z.detach()[0]), rtol=1e-9)


def test_exact_agrees_with_a_long_unroll_in_all_parameters() -> None:
    model = affine_model(radius=0.5)
    inputs, targets = torch.randint(5, (2, 3, 4)).unbind(0)
    z, chosen, count = fidelity.rooted(model, inputs, 3)
    assert (len(chosen), count) == (3, 3)
    exact, _ = fidelity.gradient(model, inputs, targets, Exact(), z)
    long, _ = fidelity.gradient(model, inputs, targets, Unroll(), None, Picard(), Stop(rtol=None, max_steps=80))
    assert (long - exact).norm() < 1e-10 * exact.norm()
    assert len(exact) == sum(p.numel() for p in model.parameters())


def test_a_phantom_gradient_is_off_by_a_power_of_the_jacobian() -> None:
    """A = a I: k steps give (1 - a^k) of the gradient that comes through the solve to x, so its distance there is a^k."""
    a, model = 0.5, affine_model()
    assert isinstance(model.core, DEQ)
    model.core.cell.A.data.copy_(a * torch.eye(3))  # type: ignore[union-attr,operator]
    inputs, targets = torch.randint(5, (2, 3, 4)).unbind(0)
    sizes = fidelity.Sizes(
        few=3, candidates=3, tolerances=(1e-1, 1e-6), phantom_steps=(1, 2, 3), unroll_steps=(60,), most=100, rtol=1e-8
    )
    found = fidelity.gradients(model, inputs, targets, sizes)
    z, _, _ = fidelity.rooted(model, inputs, 3)
    exact, _ = fidelity.gradient(model, inputs, targets, Exact(), z)
    own = model.embedding.weight.numel()  # first of the parameters: what comes through x
    through = exact[own : -(model.head.weight.numel() + model.head.bias.numel())]
    for point in found["phantom"]:
        share = a ** point["steps"]
        expected = share * torch.cat((exact[:own], through)).norm() / exact.norm()  # the head's own part is exact
        assert point["distance"] == pytest.approx(expected.item(), rel=1e-6)
    assert found["unroll"][0]["distance"] < 1e-10
    assert [point["backward"]["converged"] for point in found["backward"]] == [1.0, 1.0]
    assert found["backward"][1]["distance"] < 1e-6 < found["backward"][0]["distance"] + 1e-6


def test_a_batch_without_roots_has_a_reason_instead_of_gradients() -> None:
    model = affine_model()
    assert isinstance(model.core, DEQ)
    model.core.cell.A.data.copy_(torch.eye(3))  # type: ignore[union-attr,operator]
    inputs, targets = torch.randint(5, (2, 3, 4)).unbind(0)
    sizes = fidelity.Sizes(few=2, candidates=3, tolerances=(1e-1,), phantom_steps=(), unroll_steps=(), most=10, rtol=1e-3)
    found = fidelity.gradients(model, inputs, targets, sizes)
    assert "0 of 3 sequences" in found["why"]
    assert "backward" not in found


@pytest.mark.parametrize("angle", [1.0, 1e-3, 1e-9])
def test_a_small_angle_is_not_lost_to_rounding(angle: float) -> None:
    exact = torch.tensor([1.0, 0.0], dtype=torch.float64)
    got = 2 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    found = fidelity.error(got, exact)
    assert found["one_less_cosine"] == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-6)
    assert found["distance"] == pytest.approx(math.hypot(2 * math.cos(angle) - 1, 2 * math.sin(angle)), rel=1e-6)


# Batches


def test_a_sample_does_not_see_its_batch_and_one_that_does_is_found_out() -> None:
    inputs, targets = torch.randint(5, (2, 4, 6)).unbind(0)
    stop = Stop(rtol=1e-10, max_steps=100)
    differences = {}
    for make in (Affine, Mixing):
        torch.manual_seed(0)
        model = affine_model(make)
        alone = [batches.answers(model, inputs[i : i + 1], targets[i : i + 1], stop) for i in range(4)]
        together = batches.answers(model, inputs, targets, stop)
        differences[make] = max((one[1][0] - together[1][i]).abs().max().item() for i, one in enumerate(alone))
    assert differences[Affine] < 1e-13
    assert differences[Mixing] > 1e-3


def test_a_trained_models_answers_are_the_same_in_every_batch_in_float64(models: Models) -> None:
    found = batches.follow(models, DEQ_SPEC, 3, (2, 4), Stop(rtol=1e-3, max_steps=20))
    assert [row["batch"] for row in found["float64"]] == [2, 4]
    assert all(row["logits"] < 1e-10 and row["steps"] == 0 for row in found["float64"])


# Hostile maps


@pytest.mark.parametrize("name", hostile.MAPS)
@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
def test_nothing_passes_silently(models: Models, name: str, solver: str) -> None:
    said = hostile.follow(models, name, 0, 8, Stop(rtol=1e-3, max_steps=100))[solver]
    assert said["silent"] == 0
    assert sum(said[status.name] for status in Status) == 16
    if not hostile.MAPS[name][1]:
        assert said["CONVERGED"] == said["grown"]


def test_a_translation_is_relatively_solved_once_z_is_long_and_that_is_told() -> None:
    said = hostile.said(hostile.translation, torch.zeros(4, 2), Picard(), Stop(rtol=1e-2, max_steps=300))
    assert said["CONVERGED"] == said["grown"] == 4
    said = hostile.said(lambda z: z / 2 + 1, torch.zeros(4, 2), Picard(), Stop(rtol=1e-2, max_steps=300))
    assert (said["CONVERGED"], said["grown"]) == (4, 0)


def test_a_status_that_lies_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(*arguments: Any) -> Any:
        solution = solve(*arguments)
        return replace(solution, status=torch.zeros_like(solution.status))

    monkeypatch.setattr(hostile, "solve", lying)
    assert hostile.said(hostile.jumping, torch.zeros(4, 2), Picard(), Stop(max_steps=9))["silent"] == 4


def test_the_rotation_repels_from_a_root_that_is_one() -> None:
    z = torch.ones(1, 4)
    assert torch.allclose(hostile.repelling_rotation(z), z)
    step = hostile.repelling_rotation(z + torch.tensor([[1.0, 0.0, 0.0, 0.0]])) - z
    assert step.norm().item() == pytest.approx(1.1)


def test_a_training_without_a_fixed_point_is_flagged(made: tuple[dict[str, Any], Path]) -> None:
    rows = made[0]["experiments"]["hostile training"]["rows"]
    (values,) = (row["values"] for row in rows if row["model"] == "no fixed point")
    assert values["train_converged_fraction"] < 0.1
    assert values["train_backward_converged_fraction"] < 0.1


# FLOPs


def test_checkpointing_costs_one_more_forward_by_anothers_count(models: Models, made: tuple[dict[str, Any], Path]) -> None:
    counts = made[0]["experiments"]["recompute"]["rows"][0]["values"]["core"]
    model = models.fresh(TOY.spec(CASE, TOY.tied_label, 0)).train()
    x = torch.randn(4, 22, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.core(x).y.sum().backward()
    assert counts["none"]["step"] == counter.get_total_flops()
    assert counts["every"]["ratio"] == counts["sqrt"]["ratio"]
    extra = counts["every"]["step"] - counts["none"]["step"]
    assert 0.8 * counts["none"]["forward"] < extra <= counts["none"]["forward"]


# Dependence


def test_models_are_as_large_as_the_deq_and_chance_is_the_same_at_every_length(made: tuple[dict[str, Any], Path]) -> None:
    rows = made[0]["experiments"]["dependency"]["rows"]
    size = rows[0]["values"]["parameters"]
    assert all(abs(row["values"]["parameters"] - size) <= 0.02 * size for row in rows)
    assert len({(row["values"]["chance"], row["values"]["floor"]) for row in rows}) == 1
    assert {row["dependency"] for row in rows} == {2, 3}


# Quality


def test_a_tolerance_of_one_or_more_is_met_at_zero(models: Models, made: tuple[dict[str, Any], Path]) -> None:
    points = made[0]["experiments"]["tolerance"]["rows"][0]["values"]["points"]
    by_tolerance = {point["rtol"]: point for point in points}
    assert (by_tolerance[4.0]["steps"], by_tolerance[4.0]["residual"]) == (1.0, 1.0)
    assert by_tolerance[1e-6]["residual"] < 1e-5
    capped = made[0]["experiments"]["cap"]["rows"][0]["values"]["points"]
    assert capped[0]["loss"] == by_tolerance[4.0]["loss"]  # one evaluation, either way
    task, (inputs, targets) = models.task(CASE.task), models.sequences(CASE.task, "valid", 8)
    model = models.trained(DEQ_SPEC)
    with torch.no_grad():
        x, cell = model.embed(inputs), model.core.cell  # type: ignore[union-attr]
        logits = model.logits(cell(torch.zeros_like(x), x))  # type: ignore[operator]
    assert task.headline == "loss"
    assert by_tolerance[4.0]["loss"] == pytest.approx(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-5)


def test_listening_ends() -> None:
    layer = DEQ(Affine(torch.eye(3) / 2), solver=Picard(), stop=Stop(), adjoint=Implicit())
    with heard(layer) as listener:
        layer(torch.ones(2, 1, 3))
    layer(torch.ones(2, 1, 3))
    assert len(listener.solutions) == 1
    assert listener.of_samples("steps").shape == (2,)


# The record


def test_the_record_has_every_row_its_seeds_settings_and_units(made: tuple[dict[str, Any], Path]) -> None:
    found = made[0]
    assert found == record.read(made[1])
    for experiment in record.experiments(TOY):
        one = found["experiments"][experiment.name]
        assert [{key: row[key] for key in part.subject} for row, part in zip(one["rows"], experiment.parts, strict=True)] == [
            dict(part.subject) for part in experiment.parts
        ]
        assert one["measured"]
        assert one["units"]
        assert one["settings"]
        assert one["seeds"] == sorted({row["seed"] for row in one["rows"]})
        assert all((row["values"] is None) == (row["why"] is not None) for row in one["rows"])
        assert all(row["made_by"] for row in one["rows"])


def test_nothing_is_made_twice(made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Part, models: Models) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(Part, "values", never)
    assert record.make(out=made[1], scale=TOY) == made[0]
    assert not (made[1] / ".cache").exists()


def test_an_interrupted_make_goes_on_where_it_was(
    made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, calls = Part.values, []

    def counted(self: Part, models: Models) -> Any:
        calls.append(self.subject)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, models)

    monkeypatch.setattr(Part, "values", counted)
    with pytest.raises(KeyboardInterrupt):
        record.make(out=tmp_path, scale=TOY)
    kept = record.read(tmp_path)["experiments"]
    assert sum(len(experiment["rows"]) for experiment in kept.values()) == 3
    assert (tmp_path / ".cache").is_dir()
    calls.clear()
    calls += [{}] * 4  # past the one that interrupts
    again = record.make(out=tmp_path, scale=TOY)
    assert len(calls) - 4 == sum(len(experiment.parts) for experiment in record.experiments(TOY)) - 3
    assert again == made[0]  # as if it had never been interrupted


def test_only_rows_of_other_settings_are_made_anew(
    made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / record.NAME).write_text((made[1] / record.NAME).read_text())
    followed = []

    def noted(self: Part, models: Models) -> Any:
        followed.append(self.follow)
        return {"noted": True}, None

    monkeypatch.setattr(Part, "values", noted)
    found = record.make(out=tmp_path, scale=replace(TOY, alone=2))
    assert followed == [batches.follow] * 2
    assert [row["values"] for row in found["experiments"]["batch"]["rows"]] == [{"noted": True}] * 2
    assert found["experiments"]["cap"] == made[0]["experiments"]["cap"]


def test_a_kept_row_keeps_the_revision_that_made_it(
    made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / record.NAME).write_text((made[1] / record.NAME).read_text())
    monkeypatch.setattr(record, "revision_told", lambda environment: "another")
    found = record.make(out=tmp_path, scale=replace(TOY, caps=(2, 4)))["experiments"]
    assert {row["revision"] for row in found["cap"]["rows"]} == {"another"}
    assert {row["revision"] for row in found["tolerance"]["rows"]} == {made[0]["experiments"]["tolerance"]["rows"][0]["revision"]}


def test_other_code_makes_another_row(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.experiments import experiment

    part = batches.experiment(TOY).parts[0]
    before, digests = part.made_by(models), experiment._code("bench.experiments.batches")
    assert set(digests) == {"bench.experiments.batches", "bench.experiments.models"}
    monkeypatch.setattr(experiment, "_digest", lambda path: "another")
    assert part.made_by(models) != before


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"schema": 1}', '{"schema": 0, "experiments": {}}', '{"schema": 1, "experiments": {"cap": 3}}']
)
def test_a_damaged_record_counts_as_none(damage: str, tmp_path: Path) -> None:
    (tmp_path / record.NAME).write_text(damage)
    assert record._rows(tmp_path) == {}


def test_reading_what_is_not_there_or_of_another_schema_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record of experiments"):
        record.read(tmp_path)
    other = replace(EXPERIMENTS, schema=0).sealed({"experiments": {}})
    (tmp_path / record.NAME).write_text(json.dumps(other))
    with pytest.raises(UserError, match="schema 0, this version reads 1"):
        record.read(tmp_path)


def test_a_corpus_that_cannot_be_had_is_null_with_that_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "values", lambda self, models: ({}, None))
    absent = {"tinyshakespeare": tmp_path / "absent.txt"}
    found = record.make(data=absent, out=tmp_path, scale=replace(TOY, cases=(CASE, TEXT), seeds=(0,)))
    rows = [row for row in found["experiments"]["cap"]["rows"] if row["task"] == TEXT.label]
    assert [(row["values"], row["made_by"]) for row in rows] == [(None, None)]
    assert "absent.txt" in rows[0]["why"]
    assert found["experiments"]["cap"]["rows"][0]["values"] == {}


def test_two_processes_make_the_same_record(made: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    few = replace(TOY, seeds=(0,), hostile_seeds=(), dependencies=(), recompute_depths=())
    found = record.make(jobs=2, out=tmp_path, scale=few)
    for name in ("training", "residual", "gradient"):
        rows = [row for row in made[0]["experiments"][name]["rows"] if row["seed"] == 0]
        assert found["experiments"][name]["rows"] == rows


def test_inference_is_timed_beside_the_tied_network_in_turn(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a script: three rounds of a DEQ that takes 30, 50 and 40 ms and a network that takes 10."""
    script = iter([t for mine in (0.03, 0.05, 0.04) for t in (mine, 0.01)])
    seen: list[tuple[int, bool]] = []

    class Alone(Machine):
        inside = False

        @contextmanager
        def exclusive(self) -> Iterator[None]:
            Alone.inside = True
            yield
            Alone.inside = False

    def clock(model: LanguageModel, inputs: Tensor) -> float:
        seen.append((torch.get_num_threads(), Alone.inside))
        return next(script)

    monkeypatch.setattr(inference, "clock", clock)
    monkeypatch.setattr(inference, "Machine", Alone)
    tied = TOY.spec(CASE, TOY.tied_label, 0)
    models.trained(DEQ_SPEC), models.trained(tied)  # a training sets the threads itself
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = inference.follow(models, DEQ_SPEC, tied, 4, 3)
        assert torch.get_num_threads() == 2  # as it was
    finally:
        torch.set_num_threads(before)
    assert (found["deq_ms"], found["tied_ms"], found["ratio"]) == (40.0, 10.0, 4.0)
    assert seen == [(1, True)] * 6
    model, (inputs, _) = models.trained(DEQ_SPEC), models.sequences(CASE.task, "valid", 4)
    with heard(model.core) as said, torch.no_grad():  # type: ignore[arg-type]
        model(inputs)
    assert found["nfe"] == said.solutions[0].nfe <= TOY.cap


def test_a_contended_timing_is_no_value_and_is_made_again(
    made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made[1].with_name("contended")
    tries: list[int] = []

    class Busy(Quiet):
        def read(self, alone: bool = False) -> str | None:
            tries.append(1)
            return "others"

    few = replace(TOY, seeds=(7,), hostile_seeds=(), dependencies=(), recompute_depths=())
    monkeypatch.setattr(inference, "Contention", Busy)
    row = record.make(out=out, scale=few)["experiments"]["inference"]["rows"][0]
    assert row["values"] is None
    assert "contended" in row["why"]
    assert "others" in row["why"]
    assert len(tries) == 4
    monkeypatch.setattr(inference, "Contention", Quiet)
    said: list[str] = []
    row = record.make(out=out, scale=few, said=said.append)["experiments"]["inference"]["rows"][0]
    assert row["values"]["ratio"] > 0
    assert [text.partition(" ")[2].partition(":")[0] for text in said] == ["inference"]


def test_what_is_timed_is_made_last_and_by_this_process(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def part(name: str, alone: bool) -> tuple[record.Key, Part]:
        def follow(models: Models) -> dict[str, Any]:
            order.append(name)
            return {}

        return ("e", name), Part(subject={"name": name, "seed": 0}, follow=follow, arguments=(), specs=(), alone=alone)

    waiting = [part("timed", True), part("first", False), part("second", False)]
    assert [key[1] for key, *_ in record._followed(waiting, models, 1)] == order == ["first", "second", "timed"]
    order.clear()
    assert [key[1] for key, *_ in record._followed(waiting[:1], models, 2)] == order == ["timed"]


# Figures and readings


def test_every_figure_is_drawn_in_both_formats_and_the_same_twice(made: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    record.write(made[0], tmp_path)
    names = {
        "fig2-steps",
        "fig2-residual",
        "fig3-tolerance",
        "fig3-cap",
        "work-precision",
        "fig4-layers",
        "gradient-fidelity",
        "dependency-length",
    }
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.svg")} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    again = render("experiments", figures.Rows(record.read(tmp_path)))
    assert again["fig2-steps"]["svg"] == (tmp_path / "fig2-steps.svg").read_bytes()


def test_a_record_without_values_draws_nothing(made: tuple[dict[str, Any], Path]) -> None:
    bare = json.loads(json.dumps(made[0]))
    for experiment in bare["experiments"].values():
        for row in experiment["rows"]:
            row["values"], row["why"] = None, "untrained"
    assert render("experiments", figures.Rows(bare)) == {}


def test_a_mean_over_seeds_is_that_of_the_tables_and_leaves_out_what_one_lacks() -> None:
    assert figures._mean([[(1, 1.0), (2, 4.0)], [(1, 100.0), (3, 1.0)]]) == [(1, pytest.approx(10.0))]
    assert figures._mean([[(1, -1.0)], [(1, 5.0)]], "linear") == [(1, 2.0)]


def test_a_seed_that_is_not_positive_is_not_left_out_of_a_mean() -> None:
    axes = Figure().subplots()
    figures._draw(axes, [[(1, -1.0), (2, 1.0)], [(1, 5.0), (2, 100.0)]], "red", scale="linear")
    assert list(axes.lines[-1].get_ydata()) == [2.0, 50.5]
    axes = Figure().subplots()
    figures._draw(axes, [[(1, 0.0), (2, 0.0)], [(1, 5.0), (2, 100.0)]], "red")
    assert len(axes.lines) == 1  # the other seed's own line: no geometric mean of both


def test_the_published_record_is_whole_and_of_the_scale_it_claims() -> None:
    if not (PUBLISHED / record.NAME).is_file():
        pytest.skip("no record was published")
    found = record.read(PUBLISHED)["experiments"]
    for experiment in record.experiments(FULL):
        rows = found[experiment.name]["rows"]
        assert len(rows) == len(experiment.parts), experiment.name
        assert found[experiment.name]["settings"] == json.loads(json.dumps(dict(experiment.settings)))
        assert all(row["values"] is not None or row["why"] for row in rows)
        assert sum(row["values"] is not None for row in rows) > 0.9 * len(rows), experiment.name
        assert all(row["revision"] for row in rows)
    assert AGREEMENT.label in {row["task"] for row in found["training"]["rows"]}
