"""Two models side by side: ratios paired by seed, what decides, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from running import record_of, save
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

from bench.cli.main import app
from bench.records.errors import UserError
from bench.records.metric import Metric
from bench.records.record import Record, RunStatus, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig

METRICS = {
    "loss": Metric(unit="nats", better="lower"),
    "hits": Metric(unit="fraction", better="higher"),
    "gain": Metric(unit="", better="higher"),
}


def run(label: str, seed: int, loss: float, hits: float = 0.5, status: RunStatus = "ok", **more: float) -> Record:
    """A run with two scores and, of `more`, step_ms and saved_bytes."""
    spec = RunSpec(
        group="copying",
        label=label,
        model=ComponentConfig(name="lstm"),
        task=ComponentConfig(name="copy"),
        train=TrainConfig(steps=9, batch=4, learning_rate=0.1),
        seed=seed,
    )
    units = {"step_ms_median": "ms", "saved_bytes": "B", "test_gain": ""}
    measures = {"test_loss": measured(loss, "nats", "a", "b"), "test_hits": measured(hits, "fraction", "a", "b")}
    measures |= {name: measured(value, units[name], "a", "b") for name, value in more.items()}
    reason = None if status == "ok" else "it broke"
    return record_of(spec, suite="mine", status=status, reason=reason, measures=measures, headline="loss", metrics=METRICS)


def compared(results: Path, row: str = "new", other: str = "old") -> dict[str, Any]:
    made = CliRunner().invoke(app, ["compare", "mine", row, other, "--results", str(results), "--json"])
    assert made.exit_code == 0, made.output
    (found,) = json.loads(made.output)
    return {one["column"]: one for one in found["measures"]} | {"labels": (found["row"], found["other"])}


def test_ratios_are_paired_by_seed(tmp_path: Path) -> None:
    ours, theirs = {0: 1.0, 1: 2.0, 2: 4.4, 3: 9.0}, {1: 2.5, 2: 5.0, 3: 11.0, 4: 100.0}
    new = [run("new", seed, loss, 0.3, test_gain=loss - 2, step_ms_median=3.0) for seed, loss in ours.items()]
    old = [run("old", seed, loss, 0.2 + 0.01 * seed, test_gain=loss) for seed, loss in theirs.items()]
    found = compared(save(tmp_path, [*new, *old]))
    logs = [math.log(ours[seed] / theirs[seed]) for seed in (1, 2, 3)]
    low, high = ttest_1samp(logs, 0.0).confidence_interval(0.95)
    loss = found["test_loss"]
    assert loss["difference"]["n"] == 3
    assert loss["difference"]["mean"] == pytest.approx(math.exp(sum(logs) / 3))
    assert (loss["difference"]["low"], loss["difference"]["high"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert loss["outcome"] == "ahead"
    assert loss["ours"]["n"] == 4  # each row's own mean is over all its seeds
    gain = found["test_gain"]  # no positive ratio: a difference
    assert gain["difference"]["scale"] == "linear"
    assert gain["difference"]["mean"] == pytest.approx(sum(ours[seed] - 2 - theirs[seed] for seed in (1, 2, 3)) / 3)
    hits = found["test_hits"]
    assert hits["difference"]["mean"] == pytest.approx(0.3 - 0.22)
    assert hits["outcome"] == "ahead"
    step = found["step_ms_median"]  # only one of them has it
    assert (step["theirs"], step["difference"], step["outcome"]) == (None, None, None)


@pytest.mark.parametrize(
    ("new", "old", "outcome"),
    [
        ([2.0, 2.0, 2.0], [1.0, 1.1, 0.9], "behind"),
        ([1.0, 1.1, 0.9], [1.0, 0.9, 1.1], "undecided"),
        ([1.0], [2.0], "undecided"),  # one seed
        ([1.0] * 3, [2.0] * 3, "undecided"),  # three equal ratios: an exact sign test has p = 1/8
        ([1.0] * 5, [2.0] * 5, "ahead"),
    ],
)
def test_an_interval_decides(tmp_path: Path, new: list[float], old: list[float], outcome: str) -> None:
    sides = {"new": new, "old": old}
    results = save(tmp_path, [run(label, seed, loss) for label, losses in sides.items() for seed, loss in enumerate(losses)])
    assert compared(results)["test_loss"]["outcome"] == outcome


def test_a_count_needs_no_interval(tmp_path: Path) -> None:
    bytes_of = {"new": 100.0, "old": 1000.0, "same": 100.0}
    results = save(tmp_path, [run(label, 0, 1.0, saved_bytes=size) for label, size in bytes_of.items()])
    assert compared(results)["saved_bytes"]["outcome"] == "ahead"
    assert compared(results, "old", "new")["saved_bytes"]["outcome"] == "behind"
    assert compared(results, "same", "new")["saved_bytes"]["outcome"] == "undecided"


def test_scores_of_two_that_solve_the_task_are_undecided_their_times_are_not(tmp_path: Path) -> None:
    runs = [
        run(label, seed, loss + seed / 100, 1.0, step_ms_median=10 * loss + seed)
        for label, loss in (("new", 1.0), ("old", 2.0))
        for seed in range(3)
    ]
    found = compared(save(tmp_path, runs))
    assert found["test_loss"]["outcome"] == "undecided"
    assert found["step_ms_median"]["outcome"] == "ahead"


@pytest.mark.parametrize(
    ("new", "old", "outcome"),
    [
        ("yyyyyyn", "nnnnnny", "undecided"),  # 6 of 7: two-sided p = 0.125
        ("yyyyyyyn", "nnnnnnnn", "ahead"),  # 7 of 7: 0.016
        ("nnnnnnyy", "yyyyyyyy", "behind"),  # 6 of 6: 0.031; equal seeds do not count
        ("yyyyyf", "nnnnnn", "undecided"),  # 5 of 5: 0.0625; a failed run does not solve
    ],
)
def test_more_solved_runs_are_ahead_by_an_exact_test_over_seeds(tmp_path: Path, new: str, old: str, outcome: str) -> None:
    sides, hits, statuses = {"new": new, "old": old}, {"y": 1.0, "n": 0.5, "f": 1.0}, {"f": "diverged"}
    runs = [
        run(label, seed, 1.0 + seed / 100, hits[one], statuses.get(one, "ok"))  # type: ignore[arg-type]
        for label, side in sides.items()
        for seed, one in enumerate(side)
    ]
    found = compared(save(tmp_path, runs))["solved"]
    assert found["outcome"] == outcome
    assert (found["ours"]["mean"], found["theirs"]["mean"]) == tuple(side.count("y") / len(side) for side in (new, old))


def test_failed_runs_are_told_and_keep_a_row_from_being_ahead(tmp_path: Path) -> None:
    runs = [run(label, seed, loss + seed / 100) for label, loss in (("new", 1.0), ("old", 2.0)) for seed in range(3)]
    results = save(tmp_path, [*runs, run("new", 3, 9.0, status="diverged")])
    assert compared(results)["test_loss"]["outcome"] == "undecided"
    assert compared(results, "old", "new")["test_loss"]["outcome"] == "undecided"
    save(tmp_path, [run("worst", seed, 3.0 + seed / 100) for seed in range(3)] + [run("worst", 3, 9.0, status="oom")])
    assert compared(results, "worst", "old")["test_loss"]["outcome"] == "behind"
    output = CliRunner().invoke(app, ["compare", "mine.py", "NEW", "o", "--results", str(results)]).output
    assert "new: 1 of 4 runs failed" in output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("nine", "new", "old"), ["unknown suite 'nine'", "mine"]),
        (("mine", "now", "old"), ["unknown row 'now'", "'new'"]),
        (("mine", "new", "elsewhere"), ["no comparison of suite mine", "'new'", "'elsewhere'"]),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, arguments: tuple[str, ...], parts: list[str]) -> None:
    other = run("elsewhere", 0, 1.0)
    other = record_of(other.spec.model_copy(update={"group": "another"}), suite="mine", measures=other.measures, metrics=METRICS)
    results = save(tmp_path, [run("new", 0, 1.0), run("old", 0, 1.0), other])
    error = CliRunner().invoke(app, ["compare", *arguments, "--results", str(results)]).exception
    assert isinstance(error, UserError)
    assert all(part in str(error) for part in parts), error


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    error = CliRunner().invoke(app, ["compare", "mine", "new", "old", "--results", str(tmp_path)]).exception
    assert isinstance(error, UserError)
    assert f"no records below {tmp_path}" in str(error)
