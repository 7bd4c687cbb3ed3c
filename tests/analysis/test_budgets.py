"""The best explicit network within a DEQ's time and memory: the best by validation of those that cost no more."""

import csv
import io
from typing import Any

import pytest
from running import IDENTITY

from bench.analysis.aggregate import groups
from bench.analysis.budgets import budget_table
from bench.analysis.grid import Table
from bench.analysis.tables import measure_tables
from bench.claims.cases import times_as_long
from bench.records.metric import Metric
from bench.records.record import Record, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.report.report import csv_text


def records(
    label: str, model: str, step_ms: float | None, peak: float, valid: float, test: list[float], **more: Any
) -> list[Record]:
    found = []
    for seed, loss in enumerate(test):
        train = TrainConfig(steps=more.get("steps", 10), batch=2, learning_rate=1e-3)
        task, named = ComponentConfig(name="copy"), ComponentConfig(name=model)
        spec = RunSpec(group="g", label=label, model=named, task=task, train=train, seed=seed)
        values = {"step_ms_median": step_ms, "peak_live_bytes": peak, "valid_loss": valid, "test_loss": loss}
        values |= {"eval_converged_fraction": more.get("converged")} if "converged" in more else {}
        values |= {"train_s": more["clock"] - 0.1, "warmup_s": 0.1} if "clock" in more else {}
        measures = {
            name: measured(value, "nats", "m", "s", None if value is not None else "contended") for name, value in values.items()
        }
        metrics = {"loss": Metric(unit="nats", better="lower")}
        fields: dict[str, Any] = {"spec": spec, "identity": IDENTITY, "measures": measures, "metrics": metrics}
        found.append(Record(run_id=IDENTITY.run_id(spec.key), suite="s", status="ok", **fields))
    return found


EXPLICIT = [
    *records("small", "gru", 10.0, 100.0, 3.0, [3.0, 3.1, 3.2]),
    *records("quick", "lstm", 20.0, 500.0, 2.0, [2.0, 2.1, 2.2]),
    *records("best", "tcn", 90.0, 400.0, 1.0, [1.0, 1.1, 1.2]),
    *records("longer", "tcn", 20.0, 400.0, 0.5, [0.5, 0.6, 0.7], steps=60),
]


def table(*found: Record) -> Table:
    (group,) = groups("s", [*found, *EXPLICIT])
    made = budget_table(group)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("step_ms", "peak", "expected"),
    [
        (20.0, 100.0, ("quick", "behind", "small", "ahead")),  # what costs as much is within
        (90.0, 400.0, ("best", "behind", "longer", "behind")),
        (120.0, 99.0, ("longer", "behind", "none", "—")),
        (None, 1e9, ("n/a", "—", "longer", "behind")),
    ],
)
def test_the_rival_is_the_best_by_validation_of_those_that_cost_no_more(
    step_ms: float | None, peak: float, expected: tuple[str, ...]
) -> None:
    ((_, _, fast, _, ahead, lean, _, leaner),) = table(*records("DEQ", "deq", step_ms, peak, 9.0, [2.5, 2.6, 2.7])).rows
    assert (fast.text, ahead.text, lean.text, leaner.text) == expected


def test_the_clock_of_the_training_counts_where_all_ran_alone() -> None:
    """A recipe's steps are shorter than the step that is timed after it."""
    quick = records("quick", "gru", 10.0, 100.0, 3.0, [3.0, 3.1], clock=2.0)
    better = records("slow", "gru", 10.0, 100.0, 2.0, [3.0, 3.1], clock=4.0)
    for clock, rival in ((3.0, "quick"), (4.0, "slow"), (1.9, "none")):
        (group,) = groups("s", [*records("DEQ", "deq", 1.0, 1.0, 9.0, [2.5, 2.6], clock=clock), *quick, *better])
        made = budget_table(group)
        assert made is not None
        assert made.rows[0][2].text == rival


def test_an_inadmissible_score_is_marked_and_the_csv_has_every_cell() -> None:
    made = table(*records("DEQ", "deq", 20.0, 100.0, 1.0, [2.5, 2.6, 2.7], converged=0.5))
    assert made.rows[0][1].notes == (1,)
    assert made.notes == ("Inadmissible: 50.0 % of its test solves converge (asked: 99 %).",)
    rows = list(csv.DictReader(io.StringIO(csv_text(made))))
    assert [row["column"] for row in rows] == [name for name, _ in made.heads[1:]]
    assert rows[1]["value"] == "quick"
    assert float(rows[2]["value"]) == pytest.approx((2.0 * 2.1 * 2.2) ** (1 / 3))
    assert len(rows[2]["run_ids"].split()) == 3


def test_there_is_no_table_without_both_kinds() -> None:
    (group,) = groups("s", EXPLICIT)
    assert budget_table(group) is None


def test_times_of_two_processors_are_said_not_to_compare() -> None:
    deqs, said = records("deq", "deq", 20.0, 100.0, 3.0, [3.0, 3.1, 3.2]), "Times of different processors do not compare: one, two."
    for record, place in zip(deqs, ("one", "one", "two"), strict=True):
        record.environment["cpu"] = place
    rivals = [record.model_copy(update={"environment": {"cpu": "one"}}) for record in EXPLICIT]
    for chosen, mixed in ((deqs, True), (deqs[:2], False)):
        (group,) = groups("s", [*chosen, *rivals])
        tables = (*measure_tables(group), budget_table(group))
        assert [said in one.caption for one in tables if one and one.kind in ("cost", "budgets")] == [mixed, mixed]
        by_label = {row.label: row for row in group.rows}
        assert bool(times_as_long(by_label["deq"], by_label["small"])) != mixed
