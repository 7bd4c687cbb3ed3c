"""Time to equal quality is what the curves say: the first validation at the target, the target at the tied network's best depth."""

import math
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.aggregate import Group, groups
from bench.analysis.time_to_quality import quality, quality_table
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.record import CurvePoint, Record, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store
from bench.report.report import write_report

LOSS = {"loss": Metric(unit="nats", better="lower")}


def record(label: str, seed: int, losses: list[float], second: float, *, timed: bool = True, **values: float) -> Record:
    """A run validated at every step, each of `second` seconds."""
    name = "tied" if label.startswith("tied") else "deq"
    settings: dict[str, Any] = {"width": 4} | ({"depth": int(label.split()[1])} if name == "tied" else {})
    spec = RunSpec(
        group="g",
        label=label,
        model=ComponentConfig(name=name, settings=settings),
        task=ComponentConfig(name="copy", settings={}),
        train=TrainConfig(steps=len(losses), batch=1, learning_rate=1e-3, evaluate_every=1),
        seed=seed,
    )
    curve = [
        CurvePoint(step=i + 1, seconds=second * (i + 1), train_loss=loss, valid={"loss": loss}) for i, loss in enumerate(losses)
    ]
    identity = Identity(data="0" * 64, numerics={}, code={}, environment={})
    clock = measured(second * len(losses) if timed else None, "s", "clock", "train phase", None if timed else "contended")
    measures = {"train_s": clock} | {key: measured(value, "1", "m", "s") for key, value in values.items()}
    return Record(
        run_id=identity.run_id(spec.key),
        suite="s",
        status="ok",
        spec=spec,
        identity=identity,
        metrics=LOSS,
        curve=curve,
        measures=measures,
    )


def group(records: list[Record]) -> Group:
    (found,) = groups("s", records)
    return found


def family(timed: bool = True) -> list[Record]:
    shallow = [record("tied 2", seed, [3.0, 2.0, 1.5], 1.0) for seed in range(3)]
    deep = [record("tied 8", seed, [3.0, 2.0, 1.0 + seed / 10], 4.0, timed=timed) for seed in range(3)]  # target 1.1
    solved = {"eval_residual_p99": 2e-3, "train_residual_p50": 0.1, "test_loss": 1.0, "test_loss_as_trained": 1.02}
    quick = [record("fast", seed, [3.0, 1.05, 0.9 + seed], 2.0, **solved) for seed in range(3)]
    late = [record("late", 0, [3.0, 2.0, 1.0], 2.0), *(record("late", seed, [3.0, 2.0, 1.2], 2.0) for seed in (1, 2))]
    return shallow + deep + quick + late


def test_the_target_is_the_median_end_of_the_best_depth_and_times_are_first_arrivals() -> None:
    found = quality(group(family()))
    assert found is not None
    assert found.best == "tied 8"
    assert found.target == pytest.approx(1.1)
    seconds = found.runs.groupby("label")["seconds"].agg(list)
    assert seconds["tied 8"] == [12.0, 12.0, math.inf]
    assert seconds["fast"] == [4.0, 4.0, 4.0]  # that one ends worse again does not matter
    assert seconds["late"] == [6.0, math.inf, math.inf]
    assert list(found.rows.loc["tied 2", ["reached", "seconds"]]) == [0, math.inf]
    assert list(found.rows.loc["fast", ["residual", "unsolved", "shift"]]) == pytest.approx([2e-3, 0.1, 1.02])
    assert math.isnan(found.rows.loc["late", "residual"])


def test_a_tied_network_that_trains_for_longer_may_reach_the_target_but_sets_none() -> None:
    longer = [record("tied 4", seed, [3.0, 2.0, 1.3, 0.5], 2.0) for seed in range(3)]
    found = quality(group(family() + longer))
    assert found is not None
    assert (found.best, found.target) == ("tied 8", pytest.approx(1.1))
    assert found.rows.loc["tied 4", "seconds"] == 8.0


def test_the_table_says_the_same() -> None:
    made = quality_table(group(family()))
    assert made is not None
    lines = {row[0].text: [entry.text for entry in row[1:]] for row in made.rows}
    assert lines["fast"] == ["3", "3/3", "4.00", "0.333", "6.00", "1.900", "0.0020", "1.020"]
    assert lines["tied 8 (the target)"][:4] == ["3", "2/3", "12.0", "1.00"]
    assert lines["tied 2"][:4] == ["3", "0/3", "never", "never"]
    assert "1.100 nats" in made.caption
    assert [line.label for line in made.rows] == ["fast", "late", "tied 2", "tied 8"]


def test_of_an_even_number_of_seeds_the_table_has_the_median_too() -> None:
    ends = (1.0, 1.2)
    rows = [
        record(label, seed, [3.0, 2.0, end], 1.0 + seed) for label in ("tied 2", "tied 8", "fast") for seed, end in enumerate(ends)
    ]
    made = quality_table(group(rows))
    assert made is not None
    assert "Target: 1.100 nats" in made.caption
    assert {(row[5].text, row[6].text) for row in made.rows} == {("4.50", "1.100")}


@pytest.mark.parametrize("left", ["one depth", "no DEQ", "contended"])
def test_where_there_is_nothing_to_compare_there_is_no_table(left: str) -> None:
    records = family(timed=left != "contended")
    if left == "one depth":
        records = [one for one in records if one.spec.label != "tied 2"]
    if left == "no DEQ":
        records = [one for one in records if one.spec.model.name == "tied"]
    assert quality(group(records)) is None
    assert quality_table(group(records)) is None


def test_a_report_writes_it(tmp_path: Path) -> None:
    for one in family():
        Store(tmp_path).write(one)
    names = {path.relative_to(tmp_path).as_posix() for path in write_report(tmp_path)}
    assert {*(f"tables/s/g-quality.{ending}" for ending in ("md", "csv", "tex")), "figures/s/g-quality.png"} <= names
