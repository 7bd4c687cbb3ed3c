"""The decision guide follows the records: who is ahead, which rows exist, and numbers that stand in the records."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import record_of
from scipy.stats import ttest_1samp

from bench.analysis.aggregate import groups
from bench.analysis.selection import broadest
from bench.analysis.statistics import Interval
from bench.claims.cases import Contest, clearly_less, contest_of, contests, decided_after_holm, memory_case
from bench.claims.claim import Claim, Finding, Part, judge_claims
from bench.claims.evidence import Evidence
from bench.claims.guide import guide
from bench.claims.quotes import quotes
from bench.records.metric import Metric
from bench.records.record import CurvePoint, Record, measured, write_record
from bench.records.side_file import EXPERIMENTS
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.report.html.answer import answer

TRAIN = TrainConfig(steps=10, batch=4, learning_rate=1e-3)
DEQ, LSTM = ComponentConfig(name="deq"), ComponentConfig(name="lstm")
TIED = ComponentConfig(name="tied", settings={"depth": 12})
CHECKPOINTED = ComponentConfig(name="tied", settings={"depth": 12, "checkpointing": "sqrt"})


def run(label: str, model: ComponentConfig, seed: int, better: str = "lower", steps: int = 10, **values: float) -> Record:
    train, group = TRAIN.model_copy(update={"steps": steps}), "a task" if steps == 10 else "longer"
    spec = RunSpec(group=group, label=label, model=model, task=ComponentConfig(name="copy"), train=train, seed=seed)
    unit = "nats" if better == "lower" else "fraction"
    values = {"parameters_total": 1000, **values}
    values |= {name.replace("test_", "valid_"): value for name, value in values.items()} | values
    return record_of(
        spec,
        suite="mine",
        headline="loss" if better == "lower" else "accuracy",
        metrics={"loss" if better == "lower" else "accuracy": Metric(unit=unit, better=better)},  # type: ignore[arg-type]
        measures={name: measured(value, "1", "a", "b") for name, value in values.items()},
    )


def with_spec(one: Record, spec: RunSpec) -> Record:
    return one.model_copy(update={"spec": spec, "run_id": one.identity.run_id(spec.key)})


def pair(deq: Sequence[float], rival: Sequence[float], better: str = "lower") -> Contest:
    name = "test_loss" if better == "lower" else "test_accuracy"
    records = [run("DEQ", DEQ, seed, better, **{name: value}) for seed, value in enumerate(deq)]
    records += [run("LSTM", LSTM, seed, better, **{name: value}) for seed, value in enumerate(rival)]
    (group,) = groups("mine", records)
    found = contest_of(group)
    assert found is not None
    return found


def test_the_best_of_each_side_is_picked_by_validation_and_judged_by_the_test() -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.5, valid_loss=1.0) for seed in range(3)]
    records += [run("DEQ, lucky", DEQ, seed, test_loss=0.5, valid_loss=1.1) for seed in range(3)]
    records += [run("LSTM", LSTM, seed, test_loss=1.2, valid_loss=1.2) for seed in range(3)]
    (group,) = groups("mine", records)
    found = contest_of(group)
    assert found is not None
    assert (found.deq.label, found.scores[0].mean) == ("DEQ", 1.5)


@pytest.mark.parametrize(("deq", "rival", "better", "outcome"), [
    ((1.00, 1.02, 1.01), (1.10, 1.12, 1.11), "lower", "ahead"),
    ((1.10, 1.12, 1.11), (1.00, 1.02, 1.01), "lower", "behind"),
    ((1.0, 1.5, 0.7), (1.1, 1.0, 1.2), "lower", "undecided"),
    ((1.0, 2.0, 4.0), (1.1, 2.2, 4.4), "lower", "undecided"),  # equal ratios of three seeds decide nothing
    ((1.0, 2.0, 4.0, 8.0, 3.0), (1.1, 2.21, 4.4, 8.81, 3.3), "lower", "ahead"),  # paired: seeds differ more than models
    ((0.9, 0.91, 0.92), (0.8, 0.81, 0.83), "higher", "ahead"),
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "lower", "undecided"),
    ((1.0,), (2.0,), "lower", "undecided"),
])  # fmt: skip
def test_an_outcome_is_what_pairs_of_seeds_decide(deq: Sequence[float], rival: Sequence[float], better: str, outcome: str) -> None:
    assert pair(deq, rival, better).outcome == outcome


def test_outcomes_are_corrected_for_the_number_of_contests() -> None:
    """p = 0.00003 and 0.027 by a t test of the log ratios: alone both count; of three Holm asks 0.05 / 2 of the second."""
    ours, theirs = (1.00, 1.02, 1.01), ((1.10, 1.121, 1.112), (1.10, 1.08, 1.12))
    strong, weak = (pair(ours, one) for one in theirs)
    for contest, one in zip((strong, weak), theirs, strict=True):
        logs = [math.log(a / b) for a, b in zip(ours, one, strict=True)]
        assert contest.p == pytest.approx(ttest_1samp(logs, 0.0).pvalue)
    level = pair((1.0, 1.5, 0.7), (1.1, 1.0, 1.2))
    assert strong.p < 0.05 / 3 < 0.05 / 2 < weak.p < 0.05 < level.p
    assert (decided_after_holm([strong]), decided_after_holm([strong, weak]), decided_after_holm([strong, weak, level])) == (
        1,
        2,
        1,
    )
    both = pair((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "higher")
    assert both.solved
    assert decided_after_holm([strong, weak, both]) == 2  # what both solve tests nothing and takes no share of the 5 %
    assert decided_after_holm([]) == decided_after_holm([level]) == 0
    assert pair((1.0, 1.0), (2.0, 2.1)).p == 1.0  # of two seeds nothing is tested


@pytest.mark.parametrize(
    ("change", "size", "rival"),
    [({}, 1000, "tied 12"), ({"task": ComponentConfig(name="copy", settings={"T": 9})}, 1000, "LSTM"), ({}, 1001, "LSTM")],
)
def test_an_explicit_network_of_another_comparison_on_the_same_terms_is_a_rival(
    change: dict[str, Any], size: int, rival: str, tmp_path: Path
) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 1e3) for seed in range(3)]
    records += [run("LSTM", LSTM, seed, test_loss=1.5 + seed / 1e3) for seed in range(3)]
    controls = [run("tied 12", TIED, seed, test_loss=1.0 + seed / 1e3, parameters_total=size) for seed in range(3)]
    train = TRAIN.model_copy(update={"learning_rate": 0.5})
    records += [with_spec(one, one.spec.model_copy(update={"group": "controls", "train": train, **change})) for one in controls]
    (found,) = contests(save(tmp_path, records))
    assert (found.rival.label, found.outcome) == (rival, "undecided" if rival == "tied 12" else "ahead")


def test_so_is_a_deq_of_another_comparison_but_not_a_row_that_this_one_has(tmp_path: Path) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 1e3) for seed in range(3)]
    records += [run("LSTM", LSTM, seed, test_loss=1.5 + seed / 1e3) for seed in range(3)]
    others = [run("DEQ, lower rate", DEQ, seed, test_loss=0.9 + seed / 1e3) for seed in range(3)]
    others += [
        run("DEQ", DEQ, seed, test_loss=0.1) for seed in range(3)
    ]  # picked again with other seeds, it would be the best by luck
    records += [with_spec(one, one.spec.model_copy(update={"group": "by rate"})) for one in others]
    (found,) = contests(save(tmp_path, records))
    assert (found.group.name, found.deq.label, found.rival.label) == ("a task", "DEQ, lower rate", "LSTM")
    assert found.address(found.deq) == "mine/by rate/DEQ, lower rate/loss"


def test_of_two_models_that_solve_a_task_none_is_ahead() -> None:
    """Below 1e-3 a loss ranks the scale of logits."""
    records = [run("DEQ", DEQ, seed, test_loss=1e-4, test_accuracy=0.9995) for seed in range(5)]
    for rival, expected in ((1.0, "undecided"), (0.99, "ahead")):
        found = [*records, *(run("LSTM", LSTM, seed, test_loss=1e-2 + seed / 1e4, test_accuracy=rival) for seed in range(5))]
        metrics = {"loss": Metric(unit="nats", better="lower"), "accuracy": Metric(unit="fraction", better="higher")}
        (group,) = groups("mine", [record.model_copy(update={"metrics": metrics}) for record in found])
        contest = contest_of(group)
        assert contest is not None
        assert contest.outcome == expected


def test_of_a_task_with_several_lengths_the_score_is_that_at_the_longest() -> None:
    """Where all are right at the length of training, a loss there ranks the scale of logits."""
    records = [with_seed(lengths("DEQ", DEQ, 0.3 + seed / 100, 9.0), seed) for seed in range(5)]
    records += [with_seed(lengths("LSTM", LSTM, 0.5 + seed / 100, 3.0), seed) for seed in range(5)]
    (group,) = groups("mine", records)
    found = contest_of(group)
    assert found is not None
    assert (found.outcome, found.column.name) == ("behind", "test_accuracy_last_T128")
    assert found.scores[0].mean == pytest.approx(0.32)


def with_seed(one: Record, seed: int) -> Record:
    return with_spec(one, one.spec.model_copy(update={"seed": seed}))


def save(folder: Path, records: Sequence[Record]) -> Evidence:
    for record in records:
        write_record(folder / "runs" / record.suite / f"{record.run_id}.json", record)
    return Evidence(folder)


def test_the_guide_says_what_the_records_hold(tmp_path: Path) -> None:
    def mib(count: float) -> float:
        return count * 2**20

    rows = (
        ("DEQ", DEQ, 1.3, 3.4, 10.0),
        ("tied 12", TIED, 13.5, 14.0, 20.0),
        ("tied 12, checkpoint", CHECKPOINTED, 1.1, 3.3, 30.0),
    )
    records = [
        run(label, model, seed, test_loss=1.0 + seed, saved_bytes=mib(saved), peak_live_bytes=mib(peak), step_ms_median=ms)
        for label, model, saved, peak, ms in rows
        for seed in range(2)
    ]
    evidence = save(tmp_path, records)
    case = memory_case(evidence)
    assert case is not None
    assert case.ratio == pytest.approx(13.5 / 1.3)
    limit, checkpoint, task = guide(evidence, ())
    assert (limit.n, limit.evidence) == (2, "mine/a task/DEQ/saved for backward")
    assert "1.30 MiB" in limit.reason
    assert "13.50 MiB" in limit.reason
    assert limit.cost == "0.50 times the step time of tied 12"
    assert checkpoint.use == "either: peaks are alike"
    assert checkpoint.cost == "3.0 times the step time of the DEQ"
    assert task.use.startswith("either")


def test_where_the_tied_network_solves_the_task_so_does_the_deq_that_the_memory_is_of(tmp_path: Path) -> None:
    rows = (("DEQ, lean", DEQ, 0.9, 1.0), ("DEQ", DEQ, 1.0, 2.0), ("tied 12", TIED, 1.0, 9.0))
    records = [
        run(label, model, 0, "higher", test_accuracy=score, saved_bytes=peak, peak_live_bytes=peak)
        for label, model, score, peak in rows
    ]
    case = memory_case(save(tmp_path, records))
    assert case is not None
    assert case.deq.label == "DEQ"


def test_the_guide_says_where_a_score_is_inadmissible(tmp_path: Path) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0, future_leak_nats=2.0, step_ms_median=30.0) for seed in range(2)]
    records += [run("LSTM", LSTM, seed, test_loss=1.2, step_ms_median=10.0) for seed in range(2)]
    advice = guide(save(tmp_path, records), ())
    costs = {row.situation: row.cost for row in advice}
    assert next(row.use for row in advice if row.situation == "The task is like a task") == "LSTM"
    assert costs["The task is like a task"] == (
        "the DEQ's step takes 3.0 times the rival's; the DEQ's score is inadmissible: "
        "later tokens change a log-probability by up to 2.00 nats (allowed: 0.1)"
    )


def worded(label: str, model: ComponentConfig, loss: float, step_ms: float, peak: float) -> Record:
    return run(label, model, 0, test_loss=loss, test_perplexity=9.0, step_ms_median=step_ms, peak_live_bytes=peak * 2**20)


def test_a_language_model_is_advised_by_time_and_by_memory(tmp_path: Path) -> None:
    deqs = [worded("DEQ", DEQ, 2.0, 9.0, 50.0), worded("DEQ, lean", DEQ, 3.0, 9.0, 40.0)]
    explicit = [worded("LSTM", LSTM, 2.5, 8.0, 45.0), worded("tied 12", TIED, 1.0, 10.0, 60.0)]
    time, memory = (one for one in guide(save(tmp_path, [*deqs, *explicit]), ()) if one.situation.startswith("A small language"))
    assert time.reason == "DEQ 2.00, the best explicit network in its time, LSTM, 2.50 (undecided)"
    assert memory.use == "DEQ, lean"
    assert (
        memory.reason
        == "DEQ, lean peaks at 40.0 MiB (3.00), the leanest explicit network, LSTM, at 45.0 (2.50); none of these is checkpointed"
    )
    assert memory.evidence == "mine/a task/DEQ, lean/loss"


def lengths(label: str, model: ComponentConfig, last: float, step_ms: float, short: float = 1.0, steps: int = 10) -> Record:
    """A run tested at the trained length of 16 and at 128."""
    values = {"test_accuracy_last_T16": 1.0, "test_accuracy_last_T128": last, "step_ms_median": step_ms}
    one = run(label, model, 0, "higher", steps, test_accuracy=short, **values)
    metrics = {name[5:]: Metric(unit="fraction", better="higher") for name in values if name.startswith("test_")}
    return one.model_copy(update={"metrics": {**one.metrics, **metrics}})


def test_longer_sequences_name_the_range_of_both_sides_and_the_cheapest_of_the_best(tmp_path: Path) -> None:
    deqs = (("DEQ", DEQ, 0.5, 9.0), ("DEQ, slow", DEQ, 1.0, 8.0), ("DEQ, fast", DEQ, 0.999, 6.0))
    rows = (*deqs, ("LSTM", LSTM, 1.0, 2.0), ("tied 12", TIED, 0.25, 3.0))
    evidence = save(tmp_path, [lengths(*row) for row in rows])
    found = next(one for one in guide(evidence, ()) if one.situation.startswith("Sequences"))
    assert (found.use, found.n) == ("DEQ, fast or LSTM", 1)
    assert found.situation == "Sequences are longer than in training (a task: 128 after 16)"
    assert found.reason == "right at the last token: DEQ, fast 1.00 (DEQs down to DEQ 0.50), LSTM 1.00 (down to tied 12 0.25)"
    assert found.cost == "the DEQ's step takes 3.0 times the rival's"
    assert found.evidence == "mine/a task/DEQ, fast/accuracy last T128"


def test_on_longer_sequences_a_rival_may_train_for_as_long_too(tmp_path: Path) -> None:
    records = [
        lengths("DEQ", DEQ, 1.0, 30.0),
        lengths("LSTM", LSTM, 0.5, 3.0, short=0.9),
        lengths("LSTM", LSTM, 0.75, 3.0, steps=99),
    ]
    found = next(one for one in guide(save(tmp_path, records), ()) if one.situation.startswith("Sequences"))
    assert found.use == "DEQ, or LSTM for as long a time"
    assert found.reason.endswith("LSTM 0.50; given the DEQ's time LSTM 0.75 (the DEQ is undecided)")


@pytest.mark.parametrize(("steps", "loss", "size", "use", "count"), [
    (99, 0.5, 1000, "DEQ, or LSTM for as long a time", 0),
    (99, 1.2, 1000, "DEQ", 1),
    (99, 0.5, 2000, "DEQ", 1),  # is larger than the DEQ
    (200, 0.5, 1000, "DEQ", 1),  # takes longer than the DEQ
])  # fmt: skip
def test_a_rival_may_train_for_as_long_as_the_deq(steps: int, loss: float, size: int, use: str, count: int, tmp_path: Path) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 1e3, step_ms_median=30.0) for seed in range(3)]
    records += [run("LSTM", LSTM, seed, test_loss=1.5 + seed / 1e3, step_ms_median=3.0) for seed in range(3)]
    records += [run("tied 12", TIED, seed, test_loss=1.6 + seed / 1e3, step_ms_median=40.0) for seed in range(3)]
    longer = {"step_ms_median": 3.0, "parameters_total": size}
    records += [run("LSTM", LSTM, seed, steps=steps, test_loss=loss + seed / 1e3, **longer) for seed in range(3)]
    evidence = save(tmp_path, records)
    advice = next(one for one in guide(evidence, ()) if one.situation == "The task is like a task")
    assert advice.use == use
    assert ("given the DEQ's time LSTM has" in advice.reason) == (steps == 99 and size == 1000)
    assert f"({count} if that may train for the DEQ's time)" in quotes(evidence, ())[0].text
    assert [card.unit for card in answer(evidence, ()).cards][-1].endswith(f"; {count} if that may train for as long")


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"threads": 4}, {"task": ComponentConfig(name="copy", settings={"T": 9})}])
def test_a_rival_of_other_terms_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 1e3, step_ms_median=30.0) for seed in range(3)]
    records += [run("LSTM", LSTM, seed, test_loss=1.5 + seed / 1e3, step_ms_median=3.0) for seed in range(3)]
    longer = [run("LSTM", LSTM, seed, steps=99, test_loss=0.5 + seed / 1e3, step_ms_median=3.0) for seed in range(3)]
    records += [with_spec(one, one.spec.model_copy(update=change)) for one in longer]
    evidence = save(tmp_path, records)
    assert [one.use for one in guide(evidence, ()) if one.situation == "The task is like a task"] == ["DEQ"]


@pytest.mark.parametrize(("failed", "outcome"), [("DEQ", "undecided"), ("LSTM", "ahead")])
def test_nothing_whose_runs_fail_is_ahead(failed: str, outcome: str) -> None:
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 1e3) for seed in range(4)]
    records += [run("LSTM", LSTM, seed, test_loss=1.1 + seed / 1e3) for seed in range(4)]
    lost = next(one for one in records if one.spec.label == failed and one.spec.seed == 3)
    records[records.index(lost)] = lost.model_copy(update={"status": "diverged", "reason": "at step 3"})
    (group,) = groups("mine", records)
    found = contest_of(group)
    assert found is not None
    assert found.outcome == outcome


def test_accuracies_at_a_length_have_the_arithmetic_mean(tmp_path: Path) -> None:
    records = []
    for label, model, lasts in (("DEQ", DEQ, (1.0, 1.0, 1.0, 0.2)), ("LSTM", LSTM, (0.5, 0.5, 0.5, 0.5))):
        for seed, last in enumerate(lasts):
            one = lengths(label, model, last, 3.0)
            records.append(with_spec(one, one.spec.model_copy(update={"seed": seed})))
    found = next(one for one in guide(save(tmp_path, records), ()) if one.situation.startswith("Sequences"))
    assert found.reason == "right at the last token: DEQ 0.80, LSTM 0.50"


def test_of_two_suites_on_a_task_the_one_with_more_families_counts(tmp_path: Path) -> None:
    deep = [run(label, model, seed, test_loss=1.0) for label, model in (("DEQ", DEQ), ("tied", TIED)) for seed in range(3)]
    broad = [run("DEQ", DEQ, 7, test_loss=1.0), run("tied", TIED, 7, test_loss=1.1), run("LSTM", LSTM, 7, test_loss=0.9)]
    (one,) = contests(save(tmp_path, [*deep, *(record.model_copy(update={"suite": "broad"}) for record in broad)]))
    assert one.rival.label == "LSTM"


def test_of_two_comparisons_on_the_same_data_the_broader_counts(tmp_path: Path) -> None:
    """A corpus with two names is one task."""
    records = [run("DEQ", DEQ, 0, test_loss=1.0), run("tied", TIED, 0, test_loss=1.1)]
    named = [one.model_copy(update={"spec": one.spec.model_copy(update={"group": "again"})}) for one in records]
    other = [one.model_copy(update={"identity": one.identity.model_copy(update={"data": "1" * 64})}) for one in named]
    for more, expected in ((named, 1), (other, 2)):
        assert len(broadest(groups("a", records) + groups("b", more))) == expected


def found(id_: str, *parts: Part, folder: Path) -> Finding:
    text = {name: name for name in ("says", "where", "measured", "statistic", "threshold", "needs")}
    return judge_claims([Claim(id=id_, judge=lambda _: parts, **text)], Evidence(folder))[0]


def span(low: float, high: float) -> Part:
    """A part with five seeds whose ratio lies between."""
    estimate = Interval(mean=(low + high) / 2, low=low, high=high, n=5, scale="linear")
    return Part(about="a", value="v", asked="a", verdict="inconclusive", estimate=estimate, samples=(low, high))


@pytest.mark.parametrize(
    ("spans", "use", "reason"),
    [
        (
            ((2.0, 4.0), (0.8, 1.4)),
            "an explicit network",
            "1.1 to 3.0 times as long in 2 pairs, beyond chance longer in 1, shorter in 0",
        ),
        (((0.4, 0.6), (0.8, 1.4)), "a DEQ", "0.50 to 1.1 times as long in 2 pairs, beyond chance longer in 0, shorter in 1"),
        (((0.8, 1.4),), "undecided", "1.1 to 1.1 times as long in 1 pairs, beyond chance longer in 0, shorter in 0"),
    ],
)
def test_times_are_advised_by_all_pairs(spans: tuple[tuple[float, float], ...], use: str, reason: str, tmp_path: Path) -> None:
    (row,) = guide(Evidence(tmp_path), [found("training-time", *(span(*one) for one in spans), folder=tmp_path)])
    assert (row.use, row.reason, row.n, row.evidence) == (use, f"a DEQ takes {reason}", 2, "training-time")


def test_a_claim_fills_its_row_with_the_counts_of_its_parts(tmp_path: Path) -> None:
    parts = (replace(span(1.0, 2.0), verdict="holds"), replace(span(1.0, 2.0), verdict="does not hold"))
    (row,) = guide(Evidence(tmp_path), [found("more-steps", *parts, folder=tmp_path)])
    assert (row.use, row.reason) == ("either: it gains little or nothing", "says: 1 of 2 hold, 1 of 2 do not hold")


def test_a_looser_tolerance_is_advised_with_what_it_saves(tmp_path: Path) -> None:
    rows = [
        {"task": task, "seed": seed, "values": {"deq_ms": 10.0 * (1 + seed), "loose_ms": part * (1 + seed)}}
        for task, part in (("a", 8.0), ("b", 2.5))
        for seed in range(2)
    ]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "experiments.json").write_text(
        json.dumps(EXPERIMENTS.sealed({"experiments": {"inference": {"rows": rows}}}))
    )
    (row,) = guide(Evidence(tmp_path), [found("tolerance", replace(span(1.0, 2.0), verdict="holds"), folder=tmp_path)])
    assert row.reason == "says: 1 of 1 hold; inference then takes 0.25 to 0.80 of the time"


def test_an_exact_gradient_is_advised_by_its_largest_error(tmp_path: Path) -> None:
    parts = [
        Part(about=f"{moment}: relative error", value="v", asked="a", verdict="holds", fact=True, samples=samples)
        for moment, samples in (("start", (1e-9, 2e-9)), ("end", (3e-7, 1e-8)))
    ]
    (row,) = guide(Evidence(tmp_path), [found("gradient", *parts, folder=tmp_path)])
    assert (row.use, row.n) == ("an explicit network, or a DEQ with the implicit gradient", 2)
    assert row.reason.endswith("relative error 3.0e-7 at most")


def test_without_records_there_is_no_advice(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    assert (guide(evidence, ()), contests(evidence), memory_case(evidence), quotes(evidence, ())) == ([], [], None, [])


# Sentences to quote


def test_sentences_hold_the_numbers_of_the_records(tmp_path: Path) -> None:
    counts = {"saved_bytes": 1.3 * 2**20, "peak_live_bytes": 2.0**20}
    records = [run("DEQ", DEQ, seed, test_loss=1.0 + seed / 100, eval_converged_fraction=0.5, **counts) for seed in range(3)]
    records += [run("DEQ, solved", DEQ, seed, test_loss=2.0, eval_converged_fraction=1.0, **counts) for seed in range(3)]
    records += [run("tied 12", TIED, seed, test_loss=1.5 + seed / 100, saved_bytes=13.5 * 2**20) for seed in range(3)]
    quality, cost, solved = (one.text for one in quotes(save(tmp_path, records), ()))
    assert (
        "on 1 of 1 tasks, each on the terms of its broadest comparison, the best DEQ scores better than the best explicit network "
        "of its size (1 if that may train for the DEQ's time), on 0 worse" in quality
    )
    assert cost == "For memory, yes: a training step of DEQ saves 1.30 MiB for backward whatever the depth (tied 12 13.50)."
    assert solved.startswith("Of 2 rows of DEQs, in the broadest comparison of each task, 1 have a score that does not count")


def timed(label: str, model: ComponentConfig, seed: int, second: float, losses: Sequence[float], **values: float) -> Record:
    """A run of suite `speed`, validated at every step."""
    one = run(label, model, seed, test_loss=losses[-1], train_s=second * len(losses), **values)
    points = [
        CurvePoint(step=step, seconds=second * step, train_loss=loss, valid={"loss": loss}) for step, loss in enumerate(losses, 1)
    ]
    return one.model_copy(update={"suite": "speed", "curve": points})


def test_a_sentence_on_time_counts_the_deqs_that_no_rival_equals(tmp_path: Path) -> None:
    records = [timed("DEQ", DEQ, seed, 2.0, [4.0, 2.0, 2.0]) for seed in range(3)]
    records += [timed("DEQ, fast", DEQ, seed, 1.0, [4.0, 0.5, 0.5]) for seed in range(3)]
    records += [timed("tied 12", TIED, seed, 3.0, [4.0, 1.9, 1.0]) for seed in range(3)]
    records += [
        timed("tied 2", ComponentConfig(name="tied", settings={"depth": 2}), seed, 3.0, [4.0, 3.0, 2.5]) for seed in range(3)
    ]
    (found,) = (one.text for one in quotes(save(tmp_path, records), ()) if one.text.startswith("Training"))
    assert found.endswith("0.667 times the time on a task (DEQ, none gets to the loss of 1 of 2 DEQs).")


@pytest.mark.parametrize(
    ("solved", "last", "text"),
    [
        (1.0, 2.0, "0.667 times the time on a task (DEQ)"),
        (1.0, 0.5, "no explicit network gets there on a task"),
        (0.5, 2.0, "no DEQ's score counts on a task"),
    ],
)
def test_a_sentence_on_time_says_where_no_rival_gets_there(solved: float, last: float, text: str, tmp_path: Path) -> None:
    deeper = ComponentConfig(name="tied", settings={"depth": 2})
    records = [timed("DEQ", DEQ, seed, 2.0, [4.0, last, last], eval_converged_fraction=solved) for seed in range(3)]
    records += [timed("tied 12", TIED, seed, 3.0, [4.0, 1.9, 1.0]) for seed in range(3)]
    records += [timed("tied 2", deeper, seed, 3.0, [4.0, 3.0, 2.5]) for seed in range(3)]
    (found,) = (one.text for one in quotes(save(tmp_path, records), ()) if one.text.startswith("Training"))
    assert found.endswith(f"explicit network that gets there: {text}.")


def test_a_sentence_on_length_names_both_sides_and_the_worst(tmp_path: Path) -> None:
    rows = (("DEQ", DEQ, 0.97, 9.0), ("LSTM", LSTM, 1.0, 2.0), ("tied 12", TIED, 0.25, 3.0))
    texts = [one.text for one in quotes(save(tmp_path, [lengths(*row) for row in rows]), ())]
    assert (
        "On a task, at 128 tokens after training at 16, the best DEQ (DEQ) is right in 0.97 of sequences; "
        "the best explicit network (LSTM) in 1.00, the worst in 0.25 (means over 1 and 1 seeds)." in texts
    )


def test_a_peak_is_a_reason_to_choose_from_ten_percent_on() -> None:
    assert [clearly_less(one, 3.3) for one in (2.9, 3.1, 3.3, 4.0)] == [True, False, False, False]
