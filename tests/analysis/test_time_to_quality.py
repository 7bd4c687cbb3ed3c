"""Time to equal quality is what the curves say: first validations at a level, next to the fastest explicit row."""

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


def test_a_level_is_the_rows_median_end_and_its_rival_the_fastest_explicit_row() -> None:
    found = quality(group(family()))
    assert found is not None
    assert found.explicit == ("tied 2", "tied 8")
    fast, late, shallow, deep = (found.ratios[name] for name in ("fast", "late", "tied 2", "tied 8"))
    assert (fast.level, fast.seconds, fast.rival, fast.rival_seconds) == (
        1.9,
        4.0,
        "tied 2",
        3.0,
    )  # that it ends worse is no matter
    assert fast.ratio == pytest.approx(4 / 3)
    assert (late.level, late.seconds, late.rival, late.rival_seconds, late.ratio) == (1.2, 6.0, "tied 8", 12.0, 0.5)
    assert (shallow.level, shallow.rival, shallow.ratio) == (1.5, "tied 8", 3 / 12)
    assert (deep.level, deep.seconds, deep.rival, deep.ratio) == (1.1, 12.0, None, 0.0)
    assert deep.rival_seconds == math.inf


def test_the_interval_is_that_of_resampled_seeds_with_the_rival_chosen_again() -> None:
    """Two rivals, either of which is the faster by seed: an enumeration of all resamples of two seeds."""
    rows = [record("fast", seed, [3.0, 2.0, 1.0], 2.0 + seed) for seed in range(2)]  # 6 s and 9 s
    rows += [record("tied 2", seed, [3.0, 2.0, 1.0], 1.0 + 3 * seed) for seed in range(2)]  # 3 s and 12 s
    rows += [record("tied 8", seed, [3.0, 2.0, 1.0], 3.0) for seed in range(2)]  # 9 s
    found = quality(group(rows))
    assert found is not None
    exact = [6 / 3, 6 / 3, 6 / 3, 9 / 9]  # seeds (0, 0), (0, 1), (1, 0), (1, 1)
    fast = found.ratios["fast"]
    assert (fast.ratio, fast.rival) == (2.0, "tied 2")
    assert (fast.low, fast.high) == (min(exact), max(exact))


def test_of_two_seeds_a_row_reaches_its_own_level() -> None:
    rows = [record(label, seed, [3.0, 2.0, 1.0 + seed], 1.0) for label in ("fast", "tied 2", "tied 8") for seed in range(2)]
    found = quality(group(rows))
    assert found is not None
    assert {(one.level, one.seconds, one.ratio) for one in found.ratios.values()} == {(2.0, 2.0, 1.0)}


def test_a_score_that_is_better_the_higher_is_compared_the_other_way_round() -> None:
    falling, rising = group(family()), group([flipped(one) for one in family()])
    down, up = quality(falling), quality(rising)
    assert down is not None
    assert up is not None
    assert {name: (one.seconds, one.rival, one.ratio, one.low, one.high) for name, one in up.ratios.items()} == {
        name: (one.seconds, one.rival, one.ratio, one.low, one.high) for name, one in down.ratios.items()
    }
    assert up.ratios["fast"].level == -1.9


def flipped(record: Record) -> Record:
    curve = [point.model_copy(update={"valid": {"loss": -point.valid["loss"]}}) for point in record.curve]
    return record.model_copy(update={"curve": curve, "metrics": {"loss": Metric(unit="nats", better="higher")}})


def test_times_of_two_processors_are_said_not_to_compare() -> None:
    for places in (("one", "one"), ("one", "two")):
        records = [one.model_copy(update={"environment": {"cpu": places[one.spec.seed > 0]}}) for one in family()]
        made = quality_table(group(records))
        assert made is not None
        assert ("do not compare: one, two." in made.caption) == (places == ("one", "two"))


def test_the_table_says_the_same() -> None:
    made = quality_table(group(family()))
    assert made is not None
    lines = {row[0].text: [entry.text for entry in row[1:]] for row in made.rows}
    assert lines["fast"][:6] == ["3", "6.00", "1.900", "4.00", "3.00", "tied 2"]
    assert lines["fast"][6].startswith("1.3")
    assert lines["fast"][7:] == ["0.0020", "1.020"]
    assert lines["tied 8"][3:7] == ["12.0", "never", "—", "0"]
    assert [line.label for line in made.rows] == ["fast", "late", "tied 2", "tied 8"]


def test_rows_are_compared_on_the_seeds_that_all_have() -> None:
    losses = [3.0, 2.0, 1.0]
    rows = [record(label, seed, losses, 1.0) for label in ("tied 2", "tied 8") for seed in range(3)]
    late = [record("fast", seed, losses, 1.0 + seed) for seed in (1, 2)]
    found = quality(group([*rows, *late]))
    assert found is not None
    assert sorted(found.runs["seed"]) == [1, 1, 1, 2, 2, 2]
    assert quality_table(group([*rows[:1], *rows[3:], *late])) is None  # of one row only seed 0


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
    assert {*(f"tables/s/g-quality.{ending}" for ending in ("md", "csv", "tex")), "figures/s/g-quality.svg"} <= names
