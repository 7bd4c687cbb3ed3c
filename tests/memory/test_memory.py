"""Memory of a step by kind: equal on fake and real tensors, equal in sum to the probe, and equal to closed forms."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import cover, exhaustive, few
from torch import nn
from typer.testing import CliRunner

from bench.analysis.statistics import growth
from bench.cli.develop import parse_model
from bench.cli.main import app
from bench.instruments import environment
from bench.instruments.contention import CONTENDED
from bench.instruments.flops import flops
from bench.instruments.machine_lock import MachineLock
from bench.instruments.probes import peak_live_bytes
from bench.memory import cost, device, paper, record, scaling, step, tables
from bench.memory.step import Shape, measured, predicted
from bench.memory.storage_tracker import KINDS, PHASES, Waterfall
from bench.records.errors import UserError
from bench.records.side_file import MEMORY
from bench.records.spec import ComponentConfig, Settings, TrainConfig
from bench.report.report import csv_text, latex, markdown
from bench.training.language_model import build_model
from bench.training.trainer import make_optimiser, training_step
from deq import DEQ, SolvingAdjoint, Stop
from deq.solve import force_device_path

pytestmark = pytest.mark.end_to_end

FOLDER = Path(__file__).resolve().parents[2] / "results" / "memory"
SHAPE = Shape(batch=4, length=10, vocabulary=100)
SOUND = "deq width=8 cell=mlp solver=picard steps=3 backward_steps=3"


def named(name: str, **settings: Any) -> ComponentConfig:
    found: Settings = {"width": 16, **{key.replace("__", "."): value for key, value in settings.items()}}
    return ComponentConfig(name=name, settings=found)


HEADS: dict[str, Any] = {"cell__heads": 2}
XL: dict[str, Any] = {"cell": "transformer-xl", "cell__heads": 2, "steps": 4, "backward_steps": 3}
MODELS = {
    "gru": named("gru", layers=2),
    "lstm": named("lstm", layers=2),
    "lstm, AWD": named("lstm", layers=2, weight_dropout=0.3, embedding_dropout=0.1, input_dropout=0.1, tied_embedding=True),
    "tcn": named("tcn", levels=2),
    "transformer-xl": named("transformer-xl", heads=2, layers=2, memory_length=6),
    "trellisnet": named("trellisnet", cell__hidden=20, depth=4, auxiliary_every=2),
    "trellisnet, sqrt": named("trellisnet", cell__hidden=20, depth=4, checkpointing="sqrt"),
    "tied": named("tied", depth=4, **HEADS),
    "tied, every": named("tied", depth=4, checkpointing="every", **HEADS),
    "tied, sqrt": named("tied", depth=5, checkpointing="sqrt", **HEADS),
    "deq, picard": named("deq", solver="picard", **XL),
    "deq, anderson": named("deq", **XL),
    "deq, broyden": named("deq", solver="broyden", **XL),
    "deq, memory": named("deq", cell__memory_length=6, **XL),
    "deq, trellis": named("deq", cell="trellis", cell__hidden=20, solver="broyden", steps=5, backward_steps=4),
    "deq, state space": named("deq", cell="state-space", solver="broyden", steps=5, backward_steps=4),
    "adaptive loop": named("adaptive-loop", depth=4, **HEADS),
    "deq, adaptive": named("deq", cutoffs="20,50", div_value=2.0, tied_embedding=True, **XL),
    "deq, stack": named("deq", layers=2, **XL),
    "deq, mlp": named("deq", cell="mlp", steps=5),
    "deq, phantom": named("deq", cell="mlp", adjoint="phantom", steps=5),
    "deq, shine": named("deq", cell="mlp", adjoint="shine", solver="broyden", steps=5),
    "deq, shine refined": named("deq", cell="mlp", adjoint="shine", adjoint__refine=3, solver="broyden", steps=5),
    "deq, unroll": named("deq", cell="mlp", adjoint="unroll", solver="picard", steps=5),
    "deq, propagation": named("deq", cell="energy", adjoint="propagation", steps=5, backward_steps=4),
    "ode, adjoint": named("ode", method="euler", step_size=1.0, **HEADS),
    "ode, plain": named("ode", method="rk4", step_size=1.0, adjoint=False, **HEADS),
    "a user's": named("user_models:Averages"),
}
# One model for each case of the tracker.
DISTINCT = [
    *("gru", "lstm, AWD", "tcn", "transformer-xl", "trellisnet", "tied, sqrt", "deq, anderson", "deq, broyden"),
    *("deq, adaptive", "deq, phantom", "deq, shine", "deq, unroll", "deq, propagation", "ode, adjoint", "a user's"),
]


@cache
def traced(name: str) -> Waterfall:
    """A model's step on fake tensors; not to be changed."""
    return predicted(MODELS[name], SHAPE)


@pytest.mark.parametrize(("name", "ends"), few(itertools.product(MODELS, [True, False]), cover(DISTINCT, [True, False])))
def test_fake_and_real_agree_to_the_byte(name: str, ends: bool) -> None:
    shape = dataclasses.replace(SHAPE, ends=ends, auxiliary=0.1 if "trellisnet" in name and ends else 0.0)
    real, fake = measured(MODELS[name], shape), traced(name) if shape == SHAPE else predicted(MODELS[name], shape)
    assert fake == real
    assert fake.operators & paper.FUSED.keys() == real.operators & paper.FUSED.keys()
    assert fake.total > sum(fake.peak[kind] for kind in ("embeddings", "weights", "optimiser")) > 0
    assert set(fake.peak) == set(KINDS)
    assert set(fake.phases) <= set(PHASES)


@pytest.mark.parametrize("name", few(["transformer-xl", "deq, memory"], ["deq, memory"]))
def test_a_carried_memory_counts_as_batch(name: str) -> None:
    carried = dataclasses.replace(SHAPE, carry=True)
    real, fake = measured(MODELS[name], carried), predicted(MODELS[name], carried)
    assert fake == real
    plain = traced(name)
    assert fake.peak["batch"] >= plain.peak["batch"] + 4 * 6 * 16 * 4  # six positions of sixteen numbers of four sequences
    assert fake.total > plain.total


@pytest.mark.parametrize("name", ["gru", "tied, sqrt", "deq, anderson", "deq, adaptive"])
def test_the_peak_is_that_of_the_probe(name: str) -> None:
    """The probe of runs, over the same training step."""
    torch.manual_seed(0)
    with force_device_path():
        model = build_model(MODELS[name], SHAPE.vocabulary).train()
        for layer in model.modules():
            if isinstance(layer, DEQ):
                layer.stop = dataclasses.replace(layer.stop, rtol=None)
                assert isinstance(layer.adjoint, SolvingAdjoint)
                layer.adjoint = dataclasses.replace(layer.adjoint, stop=Stop(rtol=None, max_steps=layer.adjoint.stop.max_steps))
        optimiser, _ = make_optimiser(model, TrainConfig(steps=1, batch=4, learning_rate=1e-3))
        random = torch.Generator().manual_seed(1)
        tokens = torch.multinomial(1 / torch.arange(1, 101.0), 4 * 11, replacement=True, generator=random).view(4, 11)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        training_step(model, optimiser, 0.25, inputs, targets)
        optimiser.zero_grad(set_to_none=True)
        held = [*model.parameters(), *model.buffers(), inputs, targets]
        held += [value for state in optimiser.state.values() for value in state.values()]
        peak = peak_live_bytes(lambda: training_step(model, optimiser, 0.25, inputs, targets), held)
    tolerance = 0.05 if name == "deq, adaptive" else 0  # other tokens fall into other clusters
    assert measured(MODELS[name], SHAPE).total == pytest.approx(peak.peak, rel=tolerance)


def test_every_kind_has_its_closed_form() -> None:
    model = named("deq", cell="mlp", solver="anderson", solver__window=3, steps=5, backward_steps=4)
    found = predicted(model, SHAPE)
    built = build_model(model, 100)
    own = sum(parameter.numel() for parameter in built.core.parameters())
    tables = sum(parameter.numel() for part in (built.embedding, built.head) for parameter in part.parameters())
    tensors = len([*built.core.parameters()])
    table_tensors = len([*built.embedding.parameters(), *built.head.parameters()])
    held = found.phases["embedding"]
    assert held["weights"] == 4 * own
    assert held["optimiser"] == 2 * 4 * own + 4 * tensors  # two moments, and a count of steps for each tensor
    assert held["embeddings"] == 3 * 4 * tables + 4 * table_tensors
    assert held["batch"] == 2 * 8 * 4 * 10
    assert found.phases["optimiser"]["gradients"] == 4 * own
    state, window = 4 * 10 * 16, 3
    history = found.phases["forward solve"]["solver history"]
    small = 4 * (4 * window * window + 2 * window * window + 4 * window)  # Gram matrix, ridge, weights of a Picard step, ones
    assert history == 2 * window * 4 * state + small
    assert found.phases["attached evaluation"]["solver history"] == 0


def test_phases_of_models() -> None:
    deq, gru = traced("deq, anderson"), traced("gru")
    assert list(deq.phases) == list(PHASES)
    assert set(gru.phases) == {"embedding", "forward", "head", "backward", "optimiser"}
    phantom = traced("deq, phantom")
    assert "backward solve" not in phantom.phases
    assert "attached evaluation" in phantom.phases


def test_the_peak_with_kinds_counted_more_or_less_often() -> None:
    found = predicted(MODELS["deq, broyden"], dataclasses.replace(SHAPE, ends=False))
    assert found.counted({}) == found.total
    once, none, twice = (found.counted({"solver history": times}) for times in (1, 0, 2))
    assert none < once < twice
    assert twice - once >= found.peak["solver history"]
    changes = [("weights", 10), ("temporaries", 100), ("temporaries", -100), ("solver history", 30)]
    waterfall = Waterfall(peak={}, phase="head", phases={}, changes=changes)
    assert [waterfall.counted({"temporaries": n}) for n in (0, 1, 2)] == [40, 110, 210]


def test_more_solver_steps_cost_nothing_but_history() -> None:
    few, many = (
        predicted(
            named("deq", cell="mlp", solver="picard", backward_solver="picard"),
            dataclasses.replace(SHAPE, steps=n, backward_steps=3),
        )
        for n in (3, 12)
    )
    assert few.total == many.total


def test_a_model_that_needs_values_is_an_error() -> None:
    for model in ("DataDependent", "DataDependentBuffer"):
        with pytest.raises(UserError, match=f"user_models:{model}' cannot run without values"):
            predicted(named(f"user_models:{model}"), SHAPE)
    with pytest.raises(UserError, match="dopri5"):
        predicted(named("ode", **HEADS), SHAPE)


# The scaling


def test_a_layer_that_keeps_activations_fails_the_constant_check() -> None:
    leaky = scaling.Family(label="leaky", model=named("user_models:Leaky"), depth=("steps",), flat=True, own=True, depths=(2, 4, 8))
    sound = dataclasses.replace(leaky, model=named("deq", cell="mlp", solver="picard", backward_steps=3))
    found = [scaling.measure_axis(family) for family in (leaky, sound)]
    assert [scaling.judged(row) for row in found] == ["FAIL", "pass"]
    per_step = growth([p["depth"] for p in found[0]["points"]], [p["bytes"] for p in found[0]["points"]])
    assert per_step.verdict == "linear"
    assert per_step.slope == pytest.approx(8 * 64 * 16 * 4)  # one activation


def test_only_the_named_setting_of_a_users_model_changes() -> None:
    settings = {"cell": "mlp", "solver": "broyden", "solver__window": 4, "backward_solver": "picard", "backward_steps": 3}
    own = scaling.Family(label="own", model=named("deq", **settings), depth=("steps",), flat=True, own=True, depths=(4, 6, 8))
    assert own.at(8).settings == {**own.model.settings, "steps": 8}
    ((measure, arguments),) = scaling.calls([own])
    assert scaling.judged(measure(*arguments)) == "pass"


@pytest.mark.exhaustive
def test_checkpointing_by_segments_costs_the_square_root_of_the_depth() -> None:
    (family,) = (family for family in scaling.FAMILIES if family.label == "tied, checkpoint sqrt")
    row = scaling.measure_axis(dataclasses.replace(family, depths=(9, 36)))
    assert scaling.judged(row) == "pass"
    plain = scaling.measure_axis(dataclasses.replace(family, depths=(9, 36), model=named("tied", cell="mlp")))
    assert scaling.judged(plain) == "FAIL"


def test_an_axis_begins_with_the_point_of_the_depth_axis() -> None:
    family = dataclasses.replace(next(one for one in scaling.FAMILIES if one.label == "TCN"), depths=(4,))
    found = [scaling.measure_axis(family, axis) for axis in ("depth", "length")]
    values, amounts = scaling.along(found, "TCN", "length")
    assert values == [64, 256, 512]
    least = predicted(family.at(4), Shape(batch=8, length=64, vocabulary=100, ends=False))
    assert amounts[0] == least.counted(dict.fromkeys(("embeddings", "weights", "gradients", "optimiser"), 0))
    assert amounts == sorted(amounts)


def test_the_exponent_of_a_power_law() -> None:
    assert scaling.power([2, 8, 32], [5, 7 * 8**2, 7 * 32**2]) == pytest.approx(2)


# The paper's figures


def row(readings: dict[str, float], printed: float | None = 2.0, label: str = "a", published: bool = True) -> dict[str, Any]:
    return {
        "label": label,
        "printed_gb": printed,
        "published": published,
        "readings": {name: value * paper.GB for name, value in readings.items()},
    }


def test_consistent_needs_the_protocol_as_written() -> None:
    assert paper.verdict(row({"model": 2.3, "core": 2.0})) == ("consistent", "core")
    assert paper.verdict(row({"model": 5.0, "core": 1.7, "core, U and V": 2.1})) == ("cannot tell", "core, U and V")
    assert paper.verdict(row({"model": 5.0, "core": 1.0})) == ("not consistent", "core")
    assert paper.verdict(row({"model": 2.0}, published=False)) == ("cannot tell", "model")
    assert paper.verdict(row({"model": 2.0, "model, clusters": 5.0})) == ("cannot tell", "model")
    assert paper.verdict(row({"model": 5.0, "model, clusters": 2.0})) == ("consistent", "model, clusters")
    assert paper.verdict(row({})) == ("not built", None)
    assert paper.verdict(row({"model": 1.0}, printed=None)) == ("cannot tell", None)


def test_reductions_compare_a_deqs_own_reading_with_the_core() -> None:
    rows = [row({"core": 1.0, "core, no history": 0.5}, 1.1, "d"), row({"core": 4.0}, 6.8, "e")]
    pair = ("d", "e", "tied")
    assert paper.reduction(rows, pair, "core") == pytest.approx(0.75)
    assert paper.reduction(rows, pair, "core, no history") == pytest.approx(0.875)
    assert paper.reduction(rows, pair, "model") is None
    assert paper.reduction(rows, pair, "paper") == pytest.approx(1 - 1.1 / 6.8)


def test_a_claim_of_up_to_needs_one_and_a_claim_of_over_needs_all() -> None:
    up_to, over = paper.CLAIMS[0], paper.CLAIMS[1]
    assert paper.holds(up_to, [0.1, 0.88])
    assert not paper.holds(up_to, [0.87, 0.874])
    assert paper.holds(over, [0.81, 0.9])
    assert not paper.holds(over, [0.79, 0.9])


@pytest.mark.parametrize(("table", "label"), [("Table 2", "DEQ-TrellisNet"), ("Table 3", "DEQ-Transformer small")])
def test_the_history_has_room_for_every_step_as_in_the_released_solver(table: str, label: str) -> None:
    (printed,) = (one for one in paper.PRINTED if one.label == label and one.table.startswith(table))
    assert printed.model is not None
    found = {name: (model, at) for name, model, at in paper.configurations(printed.model, SHAPE)}
    for name, most in (("core", 40), ("caps", 50 if "Transformer" in label else 70)):
        model, at = found[name]
        assert (model.settings["solver.window"], at.backward_steps or model.settings["backward_steps"]) == (most, most)


def test_the_history_of_a_solve_has_its_closed_form() -> None:
    steps, most = 4, 6
    model = paper.whole_history(named("deq", cell="mlp", solver="broyden", steps=steps, backward_steps=most), steps, most)
    state, samples = 4 * 10 * 16, 4
    small = samples * (2 * most * most + 2)  # matrices of a sample
    assert predicted(model, SHAPE).phases["backward solve"]["solver history"] == 4 * (most * state + small)


def test_every_printed_figure_has_a_row_and_every_pair_its_models() -> None:
    printed = {paper.label_of(one): one.memory for one in paper.PRINTED if one.memory is not None}
    assert len(printed) == 14
    assert {label for pair in paper.PAIRS for label in pair[:2]} <= printed.keys()
    shares = [1 - printed[pair[0]] / printed[pair[1]] for pair in paper.PAIRS]  # type: ignore[operator]
    assert [round(100 * share, 1) for share in shares] == [85.9, 86.6, 83.8, 77.1, 68.2, 58.9, 36.5]


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found = MEMORY.read(FOLDER / record.NAME)
    assert found is not None
    assert found["numerics"] == record.NUMERICS, "make the record with `python -m bench memory`"
    return found


def test_the_published_tables_are_those_of_the_published_record(published: dict[str, Any]) -> None:
    found = tables.paper_tables(published)
    assert len({table.kind for table in found}) == len(found) == 12
    for table in found:
        assert (FOLDER / f"{table.kind}.md").read_text() == markdown(table)
        assert (FOLDER / f"{table.kind}.tex").read_text() == latex(table, f"tab:memory-{table.kind}")
        assert (FOLDER / f"{table.kind}.csv").read_text() == csv_text(table)


@pytest.fixture
def reproducible(published: dict[str, Any]) -> dict[str, Any]:
    if published["environment"]["torch"].split("+")[0] != torch.__version__.split("+")[0]:
        pytest.skip("the record is of another version of torch")
    return published


@pytest.mark.parametrize("label", ["Transformer-XL small, 4 layers", *exhaustive("DEQ-Transformer small")])
def test_the_published_record_is_reproduced(reproducible: dict[str, Any], label: str) -> None:
    (was,) = (one for one in reproducible["rows"] if one["label"] == label)
    shape = Shape(**was["steps"]["core"]["shape"])
    found = predicted(ComponentConfig(name=was["model"]["name"], settings=was["steps"]["core"]["settings"]), shape)
    assert was["steps"]["core"]["phases"] == found.phases
    assert was["readings"]["core"] == found.total
    if "solver" in was["model"]["settings"]:
        assert was["readings"]["core, U and V"] == found.counted({"solver history": 2})


@pytest.mark.parametrize("label", ["DEQ, Broyden", *exhaustive("Neural ODE, adjoint")])
def test_a_published_law_is_reproduced(reproducible: dict[str, Any], label: str) -> None:
    family = dataclasses.replace(next(one for one in scaling.FAMILIES if one.label == label), depths=(4,))
    (was,) = (one for one in reproducible["laws"] if (one["label"], one["axis"]) == (label, "depth"))
    assert scaling.measure_axis(family)["points"][0] in was["points"]


# On a device


def test_a_cpu_gives_times_and_null_peaks_with_a_reason() -> None:
    found = device.measure_step(MODELS["deq, broyden"], SHAPE, "cpu")
    assert set(found) == {*device.PEAKS, "training_s", "inference_s"}
    for name in device.PEAKS:
        assert found[name].value is None
        assert found[name].reason is not None
        assert "CPU" in found[name].reason
    assert all((found[name].value or 0) > 0 for name in ("training_s", "inference_s"))


def test_training_and_inference_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []
    real = step.training_step

    def counted(*given: Any, loss: Any) -> Any:
        steps.append(1.0)
        return real(*given, loss=loss)

    def timed(work: Callable[[], None], *_: Any) -> list[float]:
        steps.clear()
        work()
        return [sum(steps)]

    monkeypatch.setattr(step, "training_step", counted)
    monkeypatch.setattr(device, "step_times", timed)
    found = device.measure_step(MODELS["deq, broyden"], SHAPE, "cpu")
    assert (found["training_s"].value, found["inference_s"].value) == (1.0, 0.0)


def test_running_out_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(step, "training_step", full)
    found = device.measure_step(MODELS["gru"], SHAPE, "cpu")
    assert {(measure.value, measure.reason) for measure in found.values()} == {
        (None, "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.")
    }


def test_any_failure_is_a_reason_and_costs_no_other_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls, saved = [], []

    def second_fails(*given: Any, **named: Any) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("CUDA error: misaligned address")
        return real(*given, **named)

    real = step.training_step
    monkeypatch.setattr(step, "training_step", second_fails)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(device, "MachineLock", lambda: MachineLock(tmp_path))
    measure_step = device.measure_step
    monkeypatch.setattr(device, "measure_step", lambda model, shape, on: measure_step(model, shape, "cpu"))
    shape = dataclasses.asdict(SHAPE)
    rows = [
        {"label": label, "model": {"name": "gru"}, "steps": {"model": {"settings": MODELS["gru"].settings, "shape": shape}}}
        for label in "ab"
    ]
    found = device.measure_rows(rows, "cuda", lambda part: saved.append(list(part["rows"])))
    assert saved == [["a"], ["a", "b"]]
    assert {one["reason"] for one in found["rows"]["a"].values()} == {"RuntimeError: CUDA error: misaligned address"}
    assert found["rows"]["b"]["training_s"]["value"] > 0


@pytest.mark.parametrize("busy", [None, "another process used 40 % of the GPU"])
def test_times_beside_another_process_are_null(busy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.Nvml, "busy_others", lambda nvml, since_us: busy)
    found = device.measure_step(MODELS["gru"], SHAPE, "cpu")["training_s"]
    assert (found.value is None) == (busy is not None)
    assert found.reason == (CONTENDED if busy else None)
    assert (busy or "median") in found.method


def test_the_device_tables_compare_prediction_and_allocation() -> None:
    step = {"model": {"peak": {"weights": 100, "temporaries": 900}}}
    labels = [label for pair in cost.TABLE_4 for label in pair[:2]]
    sizes = dict(zip(labels, (1020, 1040, None, 1000), strict=True))
    on = {
        label: {
            "cuda_allocated_peak_bytes": {"value": size},
            "cublas_workspace_bytes": {"value": size and 2**26},
            "training_s": {"value": size and 0.001 * size},
        }
        for label, size in sizes.items()
    }
    made = {
        "rows": [{"label": label, "steps": step} for label in labels],
        "device": {"device": "a GPU", "reason": None, "rows": on},
    }
    lines = {row[0].text: [entry.text for entry in row] for row in tables.on_device(made).rows}
    assert [lines[label][-2:] for label in labels] == [["1.020", "yes"], ["1.040", "NO"], ["n/a", "n/a"], ["1.000", "yes"]]
    assert [lines[label][4] for label in labels] == ["0.0625", "0.0625", "n/a", "0.0625"]
    assert [[entry.text for entry in row][-1] for row in tables.times(made).rows] == ["0.98", "n/a", "n/a", "n/a"]
    nothing = {**made, "device": {"device": None, "reason": "no GPU", "rows": {}}}
    assert "n/a: no GPU." in tables.on_device(nothing).caption


def test_on_a_device_only_the_rows_are_made_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paper, "calls", lambda also: [(dict.copy, ({"label": "a row"},))])
    float32, written = [], []

    def measure_rows(rows: Any, on: str, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        assert float32  # before a step runs
        found = {"device": on, "reason": None, "rows": {}}
        save(found)
        written.append(MEMORY.read(tmp_path / record.NAME))
        return found

    monkeypatch.setattr(environment, "use_float32", lambda: float32.append(True))
    monkeypatch.setattr(device, "measure_rows", measure_rows)
    made = record.make({}, on="cuda", out=tmp_path)
    assert written == [json.loads(json.dumps(made))]
    assert (made["rows"], made["cost"], made["laws"]) == ([{"label": "a row"}], [], [])
    assert made["device"]["device"] == "cuda"


def test_tables_and_figures_without_a_row_are_not_written(tmp_path: Path) -> None:
    published = json.loads((Path("results/memory") / record.NAME).read_text(encoding="utf-8"))
    record.write({**published, "cost": [], "laws": []}, tmp_path)
    assert not {"cost", "depth", "shape"} & {path.stem for path in tmp_path.iterdir()}
    assert {"paper.md", "phases.md", "waterfall.svg"} <= {path.name for path in tmp_path.iterdir()}


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "small"], "suite 'small'"),
        (["--also", "gru"], "give a model and a width"),
        (["--also", "gru width"], "settings are NAME=VALUE, got 'width'"),
        (["--also", "grue width=8"], "unknown model 'grue'"),
        (["--also", ""], "give a model and a width"),
        (["--also", "gru width=nan"], "give a model and a width"),
        (["--also", "gru width=8 width.of=it=x"], "gru"),
        (["--also", "gru width=8", "--constant-in", "depht"], "depht"),
        (["--constant-in", "steps"], "for models named by --also"),
        (["--also", "gru width=8", "--constant-in", "width", "--only", "gru*"], "without --only"),
        (["--only", "DEQ*", "--out", "results/memory"], "--only makes a partial record: name another folder with --out"),
        (["--also", "gru width=8", "--constant-in", "layers", "--out", "results/memory"], "--constant-in makes a partial record"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "calls", None)  # nothing is measured before the arguments are checked
    result = CliRunner().invoke(app, ["memory", "--jobs", "1", "--out", str(tmp_path), *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_a_users_model_is_a_row_of_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "PRINTED", [one for one in paper.PRINTED if one.label == "Transformer-XL small, 4 layers"])
    monkeypatch.setattr(paper, "PAIRS", ())
    monkeypatch.setattr(paper, "CLAIMS", ())
    monkeypatch.setattr(scaling, "FAMILIES", ())
    monkeypatch.setattr(cost, "TABLE_4", ())
    own = "user_models:Averages width=250"
    result = CliRunner().invoke(app, ["memory", "--jobs", "1", "--out", str(tmp_path), "--also", own])
    assert result.exit_code == 0, result.output
    assert own in result.output
    found = json.loads((tmp_path / "paper.json").read_text())
    assert [one["label"] for one in found["rows"]] == ["Transformer-XL small, 4 layers", own]
    assert found["rows"][1]["readings"]["core"] > 4 * 250 * 501
    assert own.replace("_", "\\_") in (tmp_path / "paper.md").read_text()
    assert b"<svg" in (tmp_path / "waterfall.svg").read_bytes()


@pytest.mark.parametrize(("model", "status"), [("user_models:Leaky width=8", 1), *exhaustive((SOUND, 0))])
def test_a_users_model_is_checked_for_constant_memory(
    model: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "calls", None)  # nothing else is traced
    monkeypatch.setattr(scaling, "Family", partial(scaling.Family, depths=(2, 4, 8)))
    call = ["memory", "--jobs", "1", "--out", str(tmp_path), "--also", model, "--constant-in", "steps"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == status, result.output
    assert ("memory is not constant in steps" in result.output) == bool(status)
    assert "against depth or solver steps" in result.output
    assert "DEQ-Transformer" not in result.output  # no empty lines of what was not traced


def test_settings_are_parsed_by_their_form() -> None:
    model = parse_model("mine:Core width=8 gain=0.5 cell=mlp tied=true memory=none steps=-1")
    assert model.settings == {"width": 8, "gain": 0.5, "cell": "mlp", "tied": True, "memory": None, "steps": -1}


# The cost model


@pytest.mark.parametrize("name", ["deq, anderson", *exhaustive("deq, trellis")])
def test_cost_is_linear_in_steps(name: str) -> None:
    model = named("deq", cell="mlp", solver="picard", steps=4, backward_steps=3) if name == "deq, anderson" else MODELS[name]
    law = cost.law(model, SHAPE, training=True, caps=(7, 5))
    for steps, backward_steps in ((2, 2), (7, 5), (4, 3)):
        found = cost.counted(model, dataclasses.replace(SHAPE, steps=steps, backward_steps=backward_steps), training=True)
        between = name == "deq, trellis" and steps == 4  # each of Broyden's steps costs more than the last, and the map is cheap
        for count in ("flops", "bytes"):
            expected = cost.spent({"law": law}, count, steps, backward_steps)
            assert found[count] == pytest.approx(expected, rel=0.2 if between else 1e-12)


def test_flops_of_fake_tensors_are_those_of_real_ones() -> None:
    torch.manual_seed(0)
    model = build_model(MODELS["tied"], 100).train()
    optimiser, _ = make_optimiser(model, TrainConfig(steps=1, batch=4, learning_rate=1e-3))
    inputs, targets = (torch.zeros(4, 10, dtype=torch.long) for _ in range(2))
    real = flops(lambda: training_step(model, optimiser, 0.25, inputs, targets))
    assert cost.counted(MODELS["tied"], SHAPE, training=True)["flops"] == real.total
    assert cost.counted(MODELS["tied"], SHAPE, training=False)["flops"] * 3 == pytest.approx(real.total, rel=0.1)


def test_bytes_moved_are_those_of_operands_and_results_without_views() -> None:
    a, b, ids = torch.zeros(8, 4), torch.zeros(4, 2), torch.tensor([1, 2])
    with cost.BytesMoved() as moved:
        (a.t().t() @ b).relu_()
    assert moved.bytes == 4 * (32 + 8 + 16) + 4 * (16 + 16)  # the product, and what is read and written in place
    for call, numbers in (
        (lambda: torch.zeros(2, 8, 4) @ b, 64 + 64 + 8 + 32),  # zeros are written; the product is one of matrices
        (lambda: torch.empty(1000), 0),
        (lambda: a.copy_(torch.ones(8, 4)), 32 + 32 + 32),
        (lambda: torch.add(a, a, out=torch.empty(8, 4)), 32 + 32 + 32),
        (lambda: nn.functional.embedding(ids, a), 2 * 2 + 8 + 8),  # reads two ids of eight bytes and two rows, writes two rows
    ):
        with cost.BytesMoved() as moved:
            call()
        assert moved.bytes == 4 * numbers


def test_steps_at_equal_cost() -> None:
    row = {"law": {"flops": {"base": 10, "forward": 3, "backward": 2}}, "cost": {"flops": 100}}
    steps = cost.afforded(row, "flops")
    assert cost.spent(row, "flops", steps, steps) == pytest.approx(100)
    assert cost.afforded(row, "flops", 2.0) == pytest.approx(38)
