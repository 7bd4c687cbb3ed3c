"""A report is a pure function of records, hides no failure, and lets nothing of what users wrote break its formats."""

import csv
import hashlib
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from running import IDENTITY, record_of, save

from bench.analysis.aggregate import ENDINGS, ResultRow, aggregate, best, groups
from bench.analysis.columns import Column, natural, readable
from bench.analysis.selection import inadmissible
from bench.analysis.statistics import interval
from bench.analysis.tables import MEASURE_TABLES, Table, group_tables
from bench.records.errors import LeftOut, UserError
from bench.records.escape import latex_escape, markdown_escape
from bench.records.metric import Metric
from bench.records.record import CurvePoint, Measure, Record, RunStatus, measured
from bench.records.spec import ComponentConfig, Recipe, RunSpec, TrainConfig
from bench.report.figures import FIGURES
from bench.report.report import latex, markdown, summary, write_report

pytestmark = pytest.mark.end_to_end

HOSTILE = "a|b <script>alert(1)</script> `x` $x_1$ & 50% \\frac{}{} ~^# [y](z)\n中 \x07 *bold* ↯"
EXPLICIT = "an explicit model solves nothing"
METRICS = {
    "loss": Metric(unit="nats", better="lower", chance=0.416, optimum=0.0),
    "accuracy_last10": Metric(unit="fraction", better="higher", chance=0.125, optimum=1.0),
    "excess_nats": Metric(unit="nats/token", better="lower", chance=0.3, optimum=0.0),
}
# model, loss, step ms, saved bytes, solves
MODELS: dict[str, tuple[ComponentConfig, float, float, int, bool]] = {
    "DEQ (Anderson)": (ComponentConfig(name="deq", settings={"solver": "anderson"}), 0.11, 41.0, 196_608, True),
    "DEQ (Broyden)": (ComponentConfig(name="deq", settings={"solver": "broyden"}), 0.112, 63.0, 196_608, True),
    "tied 12": (ComponentConfig(name="tied", settings={"depth": 12}), 0.105, 30.0, 2_359_296, False),
    "tied 12, checkpoint sqrt": (
        ComponentConfig(name="tied", settings={"depth": 12, "checkpointing": "sqrt"}),
        0.105,
        39.0,
        786_432,
        False,
    ),
    "LSTM": (ComponentConfig(name="lstm"), 0.21, 11.0, 3_145_728, False),
    "GRU": (ComponentConfig(name="gru"), 0.25, 10.0, 2_621_440, False),
}


def measure(value: float | None, unit: str = "1", reason: str | None = None) -> Measure:
    return measured(value, unit, f"fake {unit}", "a fake run", reason)


def depth_points(name: str) -> list[dict[str, Any]]:
    if name == "deq":
        return [
            {
                "method": f"DEQ, {solver}",
                "depth": d,
                "saved_bytes": 196_608,
                "peak_live_bytes": 500_000 + 10 * d,
                "solver_bytes": s * 49_152,
            }
            for d in (1, 2, 4, 8, 16, 32)
            for solver, s in (("picard", 1), ("anderson", 2 * min(d, 5)), ("broyden", 2 * d))
        ]
    return [
        {"method": "tied", "depth": d, "saved_bytes": 8192 * d + 4096, "peak_live_bytes": 400_000 + 9000 * d, "solver_bytes": None}
        for d in (1, 2, 4, 8, 16, 32)
    ]


def record(
    label: str,
    seed: int,
    *,
    suite: str = "quick",
    group: str = "copy T30",
    status: RunStatus = "ok",
    reason: str | None = None,
    rate: float = 1e-3,
    role: str = "final",
    trials: tuple[str, ...] = (),
    values: dict[str, Measure] | None = None,
) -> Record:
    model, loss, step_ms, saved, solves = MODELS[label]
    train = TrainConfig(steps=400, batch=32, learning_rate=rate, evaluate_every=40)
    task = ComponentConfig(name="copy", settings={"T": 30})
    spec = RunSpec(group=group, label=label, role=role, model=model, task=task, train=train, seed=seed, trials=trials)  # type: ignore[arg-type]
    noise = random.Random(f"{label} {seed} {rate}")
    loss *= math.exp(noise.gauss(0, 0.03) + 0.2 * abs(math.log10(rate / 1e-3)))
    none = None if solves else EXPLICIT

    def solver(value: float, unit: str = "1") -> Measure:
        return measure(value if solves else None, unit, none)

    curve = []
    for step in range(0, 401, 40):
        now = loss + (2.2 - loss) * math.exp(-step / 70) * math.exp(noise.gauss(0, 0.05))
        valid = {"loss": now * 1.02, "accuracy_last10": max(0.0, 1 - now / 2.3), "excess_nats": now - 0.1}
        curve.append(
            CurvePoint(
                step=step,
                seconds=step * step_ms / 1e3 * math.exp(noise.gauss(0, 0.02)),
                train_loss=now if step else None,
                valid=valid,
                forward_nfe=12 + step / 50 + noise.gauss(0, 0.4) if solves else None,
                backward_nfe=9 + step / 60 + noise.gauss(0, 0.4) if solves else None,
                residual=1e-3 * math.exp(noise.gauss(0, 0.3)) if solves else None,
            )
        )
    ms = step_ms * math.exp(noise.gauss(0, 0.02))
    measures = {
        **{f"{split}_loss": measure(loss * f, "nats") for split, f in (("test", 1.0), ("valid", 1.02))},
        **{f"{split}_accuracy_last10": measure(1 - loss / 2.3, "fraction") for split in ("test", "valid")},
        **{f"{split}_excess_nats": measure(loss - 0.1, "nats/token") for split in ("test", "valid")},
        **{"parameters_total": measure(51_234), "parameters_nonembedding": measure(50_594)},
        **{"train_s": measure(ms * 0.4, "s"), "step_ms_median": measure(ms, "ms"), "tokens_per_s": measure(1.6e6 / ms, "tokens/s")},
        **{"saved_bytes": measure(saved, "B"), "peak_live_bytes": measure(saved * 2 + 700_000, "B")},
        **{"held_bytes": measure(614_808, "B"), "solver_bytes": solver(491_520, "B")},
        **{"train_step_flops": measure(123_456_789, "FLOP"), "forward_flops": measure(None, "FLOP", HOSTILE)},
        **{"host_peak_bytes": measure(9e7 * math.exp(noise.gauss(0, 0.05)), "B"), "energy_J": measure(None, "J", "no NVML")},
        **{
            "train_forward_nfe_mean": solver(16.2 + noise.gauss(0, 0.4)),
            "train_backward_nfe_mean": solver(12.1 + noise.gauss(0, 0.4)),
        },
        **{"train_residual_p95": solver(9e-4 * math.exp(noise.gauss(0, 0.2))), "train_converged_fraction": solver(0.998)},
        **{"eval_forward_nfe_mean": solver(19.0), "eval_residual_p95": solver(8.8e-4), "eval_converged_fraction": solver(1.0)},
    }
    probes: dict[str, Any] = {}
    if seed == 0 and role == "final" and label in ("DEQ (Anderson)", "tied 12"):
        probes["depth"] = depth_points(model.name)
        names = {"picard": 0.95, "anderson": 0.7, "broyden": 0.75} if solves else {"tied iteration": 0.97}
        probes["residual_by_nfe"] = {k: [[n, r**n, min(1.0, 3 * r**n)] for n in range(1, 40)] for k, r in names.items()}
    return record_of(
        spec,
        suite=suite,
        status=status,
        reason=reason,
        metrics=METRICS,
        curve=curve,
        measures=measures | (values or {}),
        probes=probes if status == "ok" else {},
        environment={"cpu": "Fake CPU", "usable_cores": 2, "threads": 1, "memory_bytes": 2**34, "torch": "2.13.0", "gpu": None},
    )


def comparison(suite: str = "quick", group: str = "copy T30") -> list[Record]:
    """Six rows, three seeds, trials for two, one run out of memory and one row that has failed altogether."""
    records = []
    for label in MODELS:
        tried = [record(label, 1000, suite=suite, group=group, role="trial", rate=rate) for rate in (3e-4, 1e-3, 3e-3)]
        tried = tried if label in ("DEQ (Anderson)", "LSTM") else []
        records += tried
        ids = tuple(one.spec.key for one in tried)
        for seed in range(3):
            failed = label == "GRU" or (label == "LSTM" and seed == 2)
            status: RunStatus = "oom" if failed else "ok"
            rate = 3e-3 if label == "LSTM" else 1e-3
            reason = HOSTILE if failed else None
            records.append(record(label, seed, suite=suite, group=group, trials=ids, rate=rate, status=status, reason=reason))
    return records


def small() -> list[Record]:
    """Two rows, two seeds."""
    return [record(label, seed) for label in ("DEQ (Broyden)", "LSTM") for seed in (0, 1)]


def tiny_suites() -> list[Record]:
    """Seven comparisons of one run each, in two suites."""
    return [record("LSTM", 0, suite="ab"[place % 2], group=f"g{place}") for place in range(7)]


def only_group(records: list[Record]) -> Any:
    return groups("quick", records)[0]


def table(records: list[Record], ending: str) -> Table:
    return next(one for one in group_tables(only_group(records)) if one.kind == ending)


def texts(one: Table) -> dict[str, list[str]]:
    return {row[0].text: [entry.text for entry in row[1:]] for row in one.rows}


def digests(results: Path) -> dict[str, str]:
    kept = [path for path in results.rglob("*") if path.is_file() and "runs" not in path.relative_to(results).parts]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def test_the_same_records_give_the_same_bytes(
    written: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = written
    save(tmp_path, comparison()[::-1])
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *given, **how: iter(sorted(glob(*given, **how), reverse=True)))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # matplotlib dates its files by it
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):  # a reader's own settings
        write_report(tmp_path)
    assert digests(tmp_path) == digests(results)


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    folders = [save(tmp_path / name, [*small(), *tiny_suites()]) for name in ("alone", "shared")]
    files = [[path.relative_to(at) for path in write_report(at, count)] for at, count in zip(folders, (1, 2), strict=True)]
    assert files[0] == files[1]
    assert digests(folders[0]) == digests(folders[1])


def test_every_kind_of_file_is_written_and_nothing_dates_it(written: tuple[Path, list[Path]]) -> None:
    results, files = written
    assert sorted(str(path.relative_to(results)) for path in files) == sorted(digests(results))
    names = {path.name for path in files}
    endings = ["", "-cost", "-memory", "-solver", "-quality", "-budgets"]
    figures = ["tradeoff", "curves", "memory", "quality"]
    assert names == (
        {f"copy-t30{ending}.{extension}" for ending in endings for extension in ("md", "tex", "csv")}
        | {f"copy-t30-{ending}.{extension}" for ending in ("trials", "depth") for extension in ("md", "csv")}
        | {f"copy-t30-{ending}.svg" for ending in figures}
        | {"copy-t30-memory.pdf", "TABLES.md"}
    )
    for path in files:
        head = path.read_bytes()[: None if path.suffix == ".pdf" else 2000]
        assert not any(date in head for date in (b"<dc:date>", b"CreationDate"))
        assert b"matplotlib v" not in head.lower()  # versions change bytes without changing what is shown
        assert path.suffix == ".csv" or b"bench.report" in head  # the mark by which a later report may remove it
        assert path.suffix != ".svg" or ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a report's time; these are marked as its own and show nothing."""
    images = {"curves.svg": b"<svg/> bench.report.report"}
    monkeypatch.setattr("bench.report.report.render", lambda kind, *of: images if kind == "comparison" and of[0].rows else {})


@pytest.mark.usefixtures("undrawn")
def test_only_what_a_report_wrote_is_removed(tmp_path: Path) -> None:
    results = save(tmp_path, small())
    write_report(results)
    tables, figures = results / "tables" / "quick", results / "figures" / "quick"
    stale = [tables / "gone.md", tables / "gone.csv", tables / "gone.tex", figures / "gone.svg"]
    for path in stale:
        shutil.copy(path.with_name(f"{'copy-t30' if path.parent == tables else 'copy-t30-curves'}{path.suffix}"), path)
    old = results / "tables" / "old-suite" / "x.md"
    old.parent.mkdir()
    shutil.copy(stale[0], old)
    foreign = [tables / "mine.md", tables / "mine.csv", figures / "photo.png", figures / "notes.txt"]
    for path in foreign:
        path.write_text("suite,notes\n")
    write_report(results)
    assert not any(path.exists() for path in [*stale, old, old.parent])
    assert all(path.read_text() == "suite,notes\n" for path in foreign)


def test_failed_runs_are_counted_named_and_explained(written: tuple[Path, list[Path]]) -> None:
    results, _ = written
    scores = table(comparison(), "")
    rows = texts(scores)
    assert rows["LSTM"][0] == "2/3"
    assert rows["GRU"][0] == "0/3 oom"
    assert set(rows["GRU"][1:]) == {"—"}
    failed = [one for one in comparison() if one.status != "ok"]
    tables_md = (results / "TABLES.md").read_text()
    for one in failed:
        assert any(
            note.startswith("oom: a|b <script>") and str(one.spec.seed) in note.rpartition("(seed")[2] for note in scores.notes
        )
        assert any(one.run_id in str(data["reason"]) for data in scores.tidy)  # of the CSV file
        assert one.run_id in tables_md.partition("## Failed runs")[2]
    assert "GRU" in texts(table(comparison(), "memory"))  # a model that does not fit is the result of a memory table


def test_the_mean_is_over_ok_runs_alone() -> None:
    bad = record("GRU", 1, status="timeout", reason="slow", values={"test_loss": measure(99.0, "nats")})
    records = [record("GRU", 0, values={"test_loss": measure(1.0, "nats")}), bad]
    assert texts(table(records, ""))["GRU"][:1] + texts(table(records, ""))["GRU"][3:4] == ["1/2", "1.00"]
    assert any(note.startswith("One run: no interval") for note in table(records, "").notes)


def with_losses(losses: dict[str, list[float]], name: str = "test_loss", unit: str = "nats") -> list[Record]:
    return [record(k, seed, values={name: measure(v, unit)}) for k, values in losses.items() for seed, v in enumerate(values)]


def bold_rows(records: list[Record], ending: str, head: str) -> set[str]:
    one = table(records, ending)
    index = next(i for i, (name, _) in enumerate(one.heads) if name.startswith(head))
    return {row[0].text for row in one.rows if row[index].bold}


def test_bold_only_where_the_best_interval_stands_apart() -> None:
    apart = {"LSTM": [0.10, 0.11, 0.105], "GRU": [0.50, 0.52, 0.51], "tied 12": [0.30, 0.31, 0.305]}
    assert bold_rows(with_losses(apart), "", "loss") == {"LSTM"}
    assert bold_rows(with_losses(apart | {"tied 12": [0.09, 0.12, 0.15]}), "", "loss") == set()
    assert bold_rows(with_losses(apart | {"GRU": [0.5]}), "", "loss") == set()  # one run has no interval to stand apart from
    assert bold_rows(with_losses({"LSTM": [0.1]}), "", "loss") == set()
    failed = record("LSTM", 7, status="diverged", reason="loss is not finite")
    assert bold_rows([*with_losses(apart), failed], "", "loss") == set()  # the mean of survivors


def test_the_higher_accuracy_is_the_better_one() -> None:
    scores = {"LSTM": [0.99, 0.992, 0.991], "GRU": [0.50, 0.52, 0.51]}
    assert bold_rows(with_losses(scores, "test_accuracy_last10", "fraction"), "", "accuracy") == {"LSTM"}


def test_runs_that_solve_are_counted_a_failed_one_as_not_solving() -> None:
    accuracies = {"LSTM": [1.0, 0.999, 0.99], "GRU": [0.125, 0.13, 0.126]}
    records = [
        *with_losses(accuracies, "test_accuracy_last10", "fraction"),
        record("LSTM", 7, status="diverged", reason="not finite"),
    ]
    scores = next(table for table in group_tables(groups("quick", records)[0]) if not table.kind)
    assert scores.heads[2] == ("solved ↑", "runs")
    solved = {line.label: line[2] for line in scores.rows}
    assert solved["LSTM"].text == "2/4 [0.07, 0.93]"  # Clopper and Pearson's table: 0.0676 and 0.9324
    assert solved["GRU"].text == "0/3 [0.00, 0.71]"  # 1 - 0.025^(1/3)
    assert [(one.about, one.value) for one in solved["LSTM"].samples] == [
        *(("seed 0", "yes"), ("seed 1", "yes"), ("seed 2", "no"), ("seed 7", "no"))
    ]
    assert {len(line) for line in scores.rows} == {len(scores.heads)}
    none = group_tables(groups("quick", with_losses({"GRU": accuracies["GRU"]}, "test_accuracy_last10", "fraction"))[0])
    assert not any(head.startswith("solved") for table in none for head, _ in table.heads)


@pytest.mark.parametrize(("n", "bold"), [(2, set()), (4, set()), (5, {"LSTM"})])
def test_a_few_equal_scores_are_not_bold_but_equal_counts_are(n: int, bold: set[str]) -> None:
    losses = {"LSTM": [0.1] * n, "GRU": [0.5 + seed / 100 for seed in range(n)]}
    assert bold_rows(with_losses(losses), "", "loss") == bold
    assert bold_rows(with_losses(losses, "peak_live_bytes", "B"), "memory", "peak live") == {"LSTM"}


def test_exact_counts_are_bold_without_intervals_and_share_it() -> None:
    counts = {"LSTM": [4096.0], "GRU": [1024.0], "tied 12": [1024.0]}
    assert bold_rows(with_losses(counts, "saved_bytes", "B"), "memory", "saved") == {"GRU", "tied 12"}
    assert bold_rows(with_losses({label: [7.0] for label in counts}, "saved_bytes", "B"), "memory", "saved") == set()
    # parameters are matched by design: no score, never bold
    assert best(Column(name="parameters_total", head="", better=None, counted=True), [], []) == set()


@pytest.mark.parametrize(
    ("solved", "leak", "fault"),
    [
        (0.99, 0.1, None),
        (0.95, 0.0, "95.0 % of its test solves converge (asked: 99 %)"),
        (1.0, 0.25, "later tokens change a log-probability by up to 0.250 nats (allowed: 0.1)"),
        (None, None, None),
    ],
)
def test_a_score_of_an_unsolved_or_leaking_model_is_marked_and_never_bold(
    solved: float | None, leak: float | None, fault: str | None
) -> None:
    none = EXPLICIT if solved is None else None
    values = {"eval_converged_fraction": measure(solved, "1", none), "future_leak_nats": measure(leak, "nats", none)}
    losses = [values | {"test_loss": measure(0.1 + 0.001 * seed, "nats")} for seed in range(3)]
    records = [record("DEQ (Anderson)", seed, values=one) for seed, one in enumerate(losses)]
    records += with_losses({"tied 12": [0.30, 0.31, 0.305]})
    one = table(records, "")
    row = next(row for row in one.rows if row.label == "DEQ (Anderson)")
    column = next(index for index, (head, _) in enumerate(one.heads) if head.startswith("loss"))
    notes = [one.notes[number - 1] for number in row[column].notes]
    assert notes == ([] if fault is None else [f"Inadmissible: {fault}."])
    assert not row[2].notes  # parameters are no score
    assert bold_rows(records, "", "loss") == (set() if fault else {"DEQ (Anderson)"})


@pytest.mark.parametrize(("gaps", "marked"), [([9e-4, -9e-4], False), ([9e-4, -2e-3], True), ([9e-4, None], True)])
def test_a_score_that_every_run_repeats_from_prefixes_is_admissible(gaps: list[float | None], marked: bool) -> None:
    values = {"test_loss": measure(0.1, "nats"), "eval_converged_fraction": measure(0.2, "1")}
    records = [
        record("DEQ (Anderson)", seed, values=values | ({} if gap is None else {"prefix_gap": measure(gap, "nats")}))
        for seed, gap in enumerate(gaps)
    ]
    assert (inadmissible(only_group(records).rows[0]) is not None) == marked


def test_loss_is_on_the_log_scale_and_excess_on_the_linear() -> None:
    values = [0.1, 0.2, 0.4]
    records = [
        record("LSTM", seed, values={"test_loss": measure(v, "nats"), "test_excess_nats": measure(v, "nats/token")})
        for seed, v in enumerate(values)
    ]
    data = {line["column"]: line for line in table(records, "").data}
    log, linear = interval(values, "log"), interval(values, "linear")
    assert (data["test_loss"]["mean"], data["test_loss"]["low"], data["test_loss"]["scale"]) == (log.mean, log.low, "log")
    assert data["test_loss"]["mean"] == pytest.approx(0.2)
    assert (data["test_excess_nats"]["mean"], data["test_excess_nats"]["high"]) == (linear.mean, linear.high)
    assert data["test_accuracy_last10"]["scale"] == "fraction"
    caption = table(records, "").caption
    assert "log scale (geometric mean): loss;" in caption
    assert "linear scale: excess nats" in caption


def test_a_zero_on_a_log_column_falls_back_to_linear_and_says_so() -> None:
    one = table(with_losses({"LSTM": [0.0, 0.1, 0.2]}), "")
    assert next(line for line in one.data if line["column"] == "test_loss")["scale"] == "linear"
    assert any("off the log scale" in note for note in one.notes)


def test_a_null_has_a_footnote_with_its_reason_once() -> None:
    memory = table(comparison(), "memory")
    index = [name for name, _ in memory.heads].index("solver storage ↓")
    entries = {row[0].text: row[index] for row in memory.rows}
    assert entries["tied 12"].text == entries["LSTM"].text == "n/a"
    assert entries["tied 12"].notes == entries["LSTM"].notes
    assert [memory.notes[number - 1] for number in entries["LSTM"].notes] == [EXPLICIT]
    assert memory.notes.count(EXPLICIT) == 1


def test_columns_and_rows_left_out_are_named_with_the_reason() -> None:
    assert "Not measured: energy (no NVML)." in table(comparison(), "cost").caption
    solver = table(comparison(), "solver")
    assert "tied 12" not in texts(solver)
    assert f"({EXPLICIT})" in solver.caption


def test_a_value_missing_in_some_runs_says_how_many_it_is_of() -> None:
    records = with_losses({"LSTM": [0.1, 0.2, 0.3]})
    records[0] = record("LSTM", 0, values={"test_loss": measure(None, "nats", "not finite (nan)")})
    assert "2 of 3 ok runs; the others: not finite (nan)" in table(records, "").notes


def test_specs_that_differ_never_share_a_row() -> None:
    records = [record("LSTM", 0), record("LSTM", 1), record("LSTM", 0, rate=3e-3)]
    rows = only_group(records).rows
    assert {row.label: len(row.finals) for row in rows} == {
        "LSTM (train.learning_rate=0.001)": 2,
        "LSTM (train.learning_rate=0.003)": 1,
    }


def test_one_seed_never_counts_twice() -> None:
    one = record("LSTM", 0)
    probed = one.spec.model_copy(update={"depths": (1, 2)})
    with pytest.raises(UserError, match="same seed"):
        groups("quick", [one, one.model_copy(update={"spec": probed, "run_id": IDENTITY.run_id(probed.key)})])


def test_units_that_disagree_are_refused() -> None:
    records = [record("LSTM", 0), record("LSTM", 1, values={"train_s": measure(3.0, "ms")})]
    with pytest.raises(UserError, match="train_s in different units: ms, s"):
        group_tables(only_group(records))


@pytest.mark.usefixtures("undrawn")
def test_rows_on_unequal_terms_are_announced(tmp_path: Path) -> None:
    one = record("LSTM", 0)
    longer = one.spec.model_copy(update={"label": "GRU", "train": one.spec.train.model_copy(update={"steps": 800})})
    results = save(tmp_path, [one, one.model_copy(update={"spec": longer, "run_id": IDENTITY.run_id(longer.key)})])
    write_report(results)
    assert "**Not on equal terms:** the rows differ in train.steps." in (results / "TABLES.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_rows_on_other_data_are_announced(tmp_path: Path) -> None:
    one, other = record("LSTM", 0), record("GRU", 0)
    identity = other.identity.model_copy(update={"data": "1" * 64})
    changed = other.model_copy(update={"identity": identity, "run_id": identity.run_id(other.spec.key)})
    write_report(save(tmp_path, [one, changed]))
    assert "**Not on equal terms:** the rows differ in data." in (tmp_path / "TABLES.md").read_text()


def test_groups_whose_files_would_collide_are_kept_apart() -> None:
    names = ["copy", "copy cost", "copy-cost", "Copy"]
    found = groups("quick", [record("LSTM", 0, group=name) for name in names])
    stems = {f"{group.slug}{ending}" for group in found for ending in ("", "-cost", "-memory", "-solver", "-trials", "-depth")}
    assert len(stems) == 6 * len(names)


def test_trials_show_the_sweep_and_flag_its_ends() -> None:
    rows = texts(table(comparison(), "trials"))
    assert rows["DEQ (Anderson)"][1:] == ["0.001", "inside the sweep"]
    assert rows["DEQ (Anderson)"][0].count(";") == 2
    assert "AT AN END" in rows["LSTM"][2]
    assert "NOT THE BEST" in rows["LSTM"][2]
    assert rows["tied 12"] == ["none", "0.001", "not tuned: the rate was given"]
    lines = [line for line in table(comparison(), "trials").data if line["label"] == "LSTM"]
    assert [(line["learning_rate"], line["chosen"]) for line in lines] == [(3e-4, "no"), (1e-3, "no"), (3e-3, "yes")]


@pytest.mark.parametrize(("rate", "audit"), [(1e-2, "AT AN END"), (1e-3, "NOT THE BEST")])
def test_of_several_trials_at_a_rate_the_mean_is_audited(rate: float, audit: str) -> None:
    """The luckiest trial is one at 0.001, the better mean that of 0.01."""
    scores = {(1e-3, 1000): 0.1, (1e-3, 1001): 9.0, (1e-2, 1000): 3.0, (1e-2, 1001): 3.5}
    trials = [
        record("LSTM", seed, role="trial", rate=tried, values={"valid_loss": measure(score, "nats")})
        for (tried, seed), score in scores.items()
    ]
    keys = tuple(trial.spec.key for trial in trials)
    shown = texts(table([*trials, record("LSTM", 0, rate=rate, trials=keys)], "trials"))["LSTM"]
    first, _, second = shown[0].partition("; ")
    assert (first.count(","), second.count(",")) == (1, 1)
    assert (first.startswith("0.001: "), second.startswith("0.01: ")) == (True, True)
    assert audit in shown[2]
    assert ("NOT THE BEST" in shown[2]) == (rate == 1e-3)


def test_a_failed_trial_is_shown_with_its_reason() -> None:
    trials = [
        record("LSTM", 1000, role="trial"),
        record("LSTM", 1000, role="trial", rate=1e-2, status="diverged", reason="loss is inf"),
    ]
    one = table([*trials, record("LSTM", 0, trials=tuple(trial.spec.key for trial in trials))], "trials")
    assert texts(one)["LSTM"][0].endswith("0.01: diverged")
    assert one.notes == ("diverged: loss is inf (seed 1000)",)
    assert one.rows[0][1].notes == (1,)


def test_depth_tells_the_laws_apart() -> None:
    data = table(comparison(), "depth").data
    laws = {(line["method"], line["column"]): (line["verdict"], line["slope"]) for line in data}
    assert laws["DEQ, picard", "saved_bytes"] == ("constant", 0.0)
    assert laws["DEQ, anderson", "solver_bytes"][0] == "bounded"
    assert laws["DEQ, broyden", "solver_bytes"] == ("linear", pytest.approx(98_304))
    assert laws["tied", "saved_bytes"] == ("linear", pytest.approx(8192))
    assert ("tied", "solver_bytes") not in laws


def test_a_damaged_probe_names_its_run() -> None:
    one = record("DEQ (Anderson)", 0)
    broken = one.model_copy(update={"probes": {"depth": [{"method": "picard"}]}})
    with pytest.raises(UserError, match=one.run_id):
        group_tables(only_group([broken]))


def test_csv_is_plain_and_traces_every_number_to_its_runs(written: tuple[Path, list[Path]]) -> None:
    results, _ = written
    finals = {one.run_id: one for one in comparison() if one.status == "ok"}
    checked = 0
    for ending in ("", "-cost", "-memory", "-solver"):
        with (results / "tables" / "quick" / f"copy-t30{ending}.csv").open(newline="") as file:
            for line in csv.DictReader(file):
                runs = line["run_ids"].split()
                assert len(runs) == int(line["n"])
                values = [finals[run].value(line["column"]) for run in runs]
                assert all(finals[run].spec.label == line["label"] for run in runs)
                if line["scale"] == "log":
                    assert float(line["mean"]) == pytest.approx(math.exp(sum(math.log(v) for v in values if v) / len(values)))
                    checked += 1
                assert bool(line["method"]) == bool(runs)
    assert checked > 60


def test_markdown_names_methods_runs_and_the_trials_behind_them() -> None:
    text = markdown(table(comparison(), ""))
    for one in comparison():
        if one.spec.role == "final":
            assert one.run_id in text
            assert all(trial in text for trial in one.spec.trials)
    assert "Method, loss: fake nats; a fake run." in text
    assert "learning rate 0.001 given, not chosen from trials" in text
    assert "| (chance) |" in text
    assert "loss ↓ (nats)" in text
    assert "accuracy last10 ↑ (fraction)" in text


def test_hostile_text_stays_text_in_markdown(written: tuple[Path, list[Path]]) -> None:
    results, _ = written
    for path in [results / "TABLES.md", *(results / "tables").rglob("*.md")]:
        text = path.read_text()
        assert "<script>" not in text
        assert "\x07" not in text
        width = 0
        for line in text.splitlines():
            cells = line.replace(r"\|", "").count("|")
            assert not line.startswith("|") or cells == (width or cells), line
            width = cells if line.startswith("|") else 0
    assert markdown_escape("a|b\n<i> `c` $x_1$ \\") == r"a\|b &lt;i&gt; \`c\` \$x\_1\$ \\"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [('a "b"', "a ''b''"), ("Schöne, Åç", r"Sch{\"{o}}ne, {\r{A}}{\c{c}}"), ("łø", r"\texttt{U+0142}\texttt{U+00F8}")],
)
def test_quotes_and_accents_need_no_other_font_encoding(text: str, escaped: str) -> None:
    assert latex_escape(text) == escaped


def test_hostile_text_compiles_in_latex(written: tuple[Path, list[Path]]) -> None:
    assert latex_escape("50% & $x_1$ ~^# {a} \\ <b> [c] | 中\n↓") == (
        r"50\% \& \$x\_1\$ \textasciitilde{}\textasciicircum{}\# \{a\} \textbackslash{} "
        r"\textless{}b\textgreater{} {[}c{]} \textbar{} \texttt{U+4E2D} $\downarrow$"
    )
    results, _ = written
    for path in (results / "tables").rglob("*.tex"):
        text = path.read_text()
        assert text.isascii()
        for head, body in re.findall(r"\\toprule\n(.*?)\n\\midrule\n(.*?)\n\\bottomrule", text, re.DOTALL):
            cells = {line.replace(r"\&", "").count("&") for line in [head, *body.splitlines()]}
            assert len(cells) == 1
            assert all(line.endswith(r" \\") for line in body.splitlines())
        unescaped = text.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
        assert unescaped.count("{") == unescaped.count("}")
        assert unescaped.replace(r"\$", "").count("$") % 2 == 0
        assert r"\label{tab:quick-copy-t30" in text
        assert r"\caption{" in text


def test_latex_sets_bold_and_intervals() -> None:
    apart = with_losses({"LSTM": [0.10, 0.11, 0.105], "GRU": [0.50, 0.52, 0.51]})
    text = latex(table(apart, ""), "tab:x")
    assert r"\textbf{0.105} {\scriptsize {[}0.093, 0.118{]}}" in text
    assert r"loss $\downarrow$" in text


def test_the_summary_fits_a_terminal_and_holds_no_control_characters(tmp_path: Path) -> None:
    text = summary(save(tmp_path, comparison()), "quick")
    assert "copy T30: memory" in text
    assert "192*" in text
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    with pytest.raises(UserError, match="did you mean 'quick'"):
        summary(tmp_path, "quack")


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_record_is_named_and_left_out(tmp_path: Path) -> None:
    results = save(tmp_path, small())
    path = results / "runs" / "quick" / "broken.json"
    path.write_text('{"schema_version": 1, "run_id"')
    with pytest.warns(LeftOut, match=r"broken\.json: no record"):
        write_report(results)
    assert (results / "TABLES.md").exists()


def test_no_records_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run a suite first"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_trials_alone_make_a_report(tmp_path: Path) -> None:
    results = save(tmp_path, [record("LSTM", 1000, role="trial")])
    names = {path.name for path in write_report(results)}
    assert names == {"TABLES.md", "copy-t30-trials.md", "copy-t30-trials.csv"}
    assert "Trials only" in (results / "TABLES.md").read_text()


def test_a_report_needs_no_torch() -> None:
    code = "import sys, bench.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=False).returncode == 0


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        *[("B", 3 * 2**20, (2**-20, "MiB")), ("B", 1023, (1, "B")), ("FLOP", 2.5e9, (1e-9, "GFLOP"))],
        *[("count", 51_234, (1e-3, "k")), ("s", 1e5, (1.0, "s"))],
    ],
)
def test_units_read_well(unit: str, value: float, shown: tuple[float, str]) -> None:
    assert readable(unit, [value]) == shown


def test_no_group_can_overwrite_the_files_of_another() -> None:
    """A group "x cost" has other file names than the table of costs of a group "x"."""
    written = {*MEASURE_TABLES, *FIGURES["comparison"]} - {""}
    for source in (Path(__file__).parents[2] / "bench" / "analysis").glob("*.py"):
        written.update(re.findall(r'kind="([\w-]+)"', source.read_text()))
    assert written == set(ENDINGS)
    first, second = groups("quick", [record("LSTM", 0, group=f"copy{more}") for more in ("", " budgets")])
    assert (first.slug, second.slug.startswith("copy-budgets-")) == ("copy", True)


def test_labels_sort_as_people_count() -> None:
    assert sorted(["tied 12", "tied 2", "LSTM"], key=natural) == ["LSTM", "tied 2", "tied 12"]


def test_a_cell_of_a_row_without_ok_runs_is_empty() -> None:
    row = ResultRow(label="x", family="other", finals=(record("GRU", 0, status="crashed", reason="x"),))
    found = aggregate(row, Column(name="test_loss", head="loss"))
    assert (found.estimate, found.reasons, found.measures) == (None, (), ())


@pytest.mark.usefixtures("undrawn")
def test_a_recipe_is_named_with_the_common_terms(tmp_path: Path) -> None:
    records = comparison()
    recipe = Recipe(pretrain_steps=30, jacobian=0.5)
    for n, one in enumerate(records):
        if one.spec.label == "GRU":
            spec = one.spec.model_copy(update={"recipe": recipe})
            records[n] = one.model_copy(update={"spec": spec, "run_id": IDENTITY.run_id(spec.key)})
    write_report(save(tmp_path, records))
    text = (tmp_path / "TABLES.md").read_text()
    assert "Recipe of GRU: pretrain steps 30, jacobian 0.5." in text
    assert text.count("Recipe of") == 1


def test_gradients_by_beta_are_a_table_from_the_probe() -> None:
    points = [
        {"symmetric": symmetric, "beta": beta, "one_less_cosine": beta**3, "distance": beta}
        for symmetric in (False, True)
        for beta in (0.01, 0.1)
    ]
    one = record("DEQ (Anderson)", 0).model_copy(update={"probes": {"gradient_by_beta": points}})
    made = table([one], "gradient")
    assert [[entry.text for entry in row][1:] for row in made.rows] == [
        ["to both sides", "0.10", "0.00100", "0.100"],
        ["to both sides", "0.010", "1.00e-6", "0.0100"],
        ["to one side", "0.10", "0.00100", "0.100"],
        ["to one side", "0.010", "1.00e-6", "0.0100"],
    ]
    assert {(line["column"], line["run_ids"]) for line in made.data} == {(n, one.run_id) for n in ("one_less_cosine", "distance")}
    assert not any(other.kind == "gradient" for other in group_tables(only_group(comparison())))


def test_explicit_models_alone_have_no_solver_table() -> None:
    explicit = [one for one in comparison() if one.spec.label in ("GRU", "LSTM")]
    assert {one.kind for one in group_tables(only_group(explicit))} >= {"", "cost", "memory"}
    assert not any(one.kind == "solver" for one in group_tables(only_group(explicit)))
    assert any(one.kind == "solver" for one in group_tables(only_group(comparison())))
