"""Which comparison of a task counts, and which of its rows is the best: picked by validation, never by the test."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from bench.analysis.aggregate import ORDER, Group, ResultRow, aggregate
from bench.analysis.columns import LEAK, PARAMETERS, PREFIX_GAP, TEST_CONVERGED, Column, metric_columns, metrics
from bench.analysis.statistics import MIN_EQUAL_SEEDS, Interval, Scale, interval, proportion, significant
from bench.records.record import Record
from bench.records.spec import ComponentConfig, TrainConfig

Outcome = Literal["ahead", "undecided", "behind"]
LEAST_CONVERGED, MOST_LEAK = 0.99, 0.1  # of an admissible score: share of test solves that converge, nats
MOST_GAP, LEAST_GAP = 0.01, 0.001  # of the score, and in its unit: how far that from prefixes may lie
SOLVES = 0.999
OUTCOMES: tuple[Outcome, ...] = ("ahead", "undecided", "behind")


def broadest(groups: Iterable[Group]) -> list[Group]:
    """The comparisons, but of several on one task, or on the same data, only that with the most families, then final runs.

    None that has trials alone.
    """
    found = [group for group in groups if group.rows]
    for key in (lambda group: group.name, data_of):
        best: dict[Hashable, Group] = {}
        for group in found:
            best[key(group)] = max(best.get(key(group), group), group, key=breadth)
        found = list(best.values())
    return found


def data_of(group: Group) -> Hashable:
    """The digests of what a comparison's runs were trained on."""
    return frozenset(record.identity.data for record in group.records)


def on_same_data(group: Group, groups: Iterable[Group]) -> list[Group]:
    """The comparisons, itself among them, whose runs were trained on a comparison's data."""
    return [one for one in groups if data_of(one) == data_of(group)]


def terms_of(row: ResultRow) -> tuple[ComponentConfig, str, int]:
    """What two scores and times must share to compare, whatever comparison they are of: task, device and threads."""
    spec = row.finals[0].spec
    return spec.task, spec.device, spec.threads


def mixed_processors(rows: Iterable[ResultRow]) -> str:
    """What to say where the final runs of rows are of several processors or cards: times do not compare. Else empty."""
    places = [record.environment for row in rows for record in row.ok]
    names = sorted({str((one.get("gpu") or {}).get("name") or one.get("cpu") or "unknown") for one in places})
    return f" Times of different processors do not compare: {', '.join(names)}." if len(names) > 1 else ""


def rows_elsewhere(group: Group, groups: Iterable[Group]) -> list[ResultRow]:
    """The rows of other comparisons, that this one has not, that train on its data, on its terms, and are of its size."""
    first, labels = group.rows[0], {row.label for row in group.rows}
    largest = max((size for row in group.rows if (size := value(row, PARAMETERS[0])) is not None), default=0.0)
    return [
        row
        for other in on_same_data(group, groups)
        for row in other.rows
        if row.label not in labels and on_same_terms(row, first) and (value(row, PARAMETERS[0]) or math.inf) <= largest
    ]


def on_same_terms(row: ResultRow, other: ResultRow) -> bool:
    """Whether two rows have the same task and place, and train as long in the same way but for the learning rate."""
    return (terms_of(row), _training(row)) == (terms_of(other), _training(other))


def _training(row: ResultRow) -> TrainConfig:
    """How a row trains, at whatever rate and with whatever evaluations."""
    common = {"learning_rate": 1.0, "evaluate_every": 0, "evaluation_batch": 1}
    return row.finals[0].spec.train.model_copy(update=common)


def breadth(group: Group) -> tuple[int, int]:
    """How many families of models a comparison has, and how many final runs."""
    return len({row.family for row in group.rows}), sum(len(row.finals) for row in group.rows)


def headline_column(group: Group) -> Column | None:
    """The column of the headline's test score; None where no run has one."""
    headline, _ = metrics(group.records)
    return next((column for column in metric_columns(group.records) if column.name == f"test_{headline}"), None)


def best_row(rows: Sequence[ResultRow], score: Column) -> ResultRow | None:
    """The row with the best mean validation score; `score` is the column of the test. None where no row has one."""
    chosen = replace(score, name=score.name.replace("test_", "valid_", 1))
    scored = [(row, mean) for row in rows if (mean := value(row, chosen)) is not None]
    return min(scored, key=lambda pair: (-1 if score.better == "higher" else 1) * pair[1])[0] if scored else None


def best_by_family(group: Group) -> list[ResultRow]:
    """The best row of each family, in the order of the families."""
    score = headline_column(group)
    if score is None:
        return []
    found = (best_row([row for row in group.rows if row.family == family], score) for family in ORDER)
    return [row for row in found if row is not None]


def value(row: ResultRow, column: Column) -> float | None:
    """A row's mean of a measure."""
    one = aggregate(row, column).estimate
    return None if one is None else one.mean


def inadmissible(row: ResultRow) -> str | None:
    """Why a row's scores are not those of a causal model that is solved, in words; None where they are, or nothing was measured.

    The share of solves that converge is the mean over its runs, the leak the largest. Neither counts where each run was also scored
    from prefixes, which cannot see the future, with hardly another result.
    """
    if row.ok and all(scored_from_prefixes(record) for record in row.ok):
        return None
    return faults_of(value(row, TEST_CONVERGED), largest_leak(row))


def scored_from_prefixes(record: Record) -> bool:
    """Whether predicting every position from its own prefix changes a run's score by `MOST_GAP` of it, or `LEAST_GAP`, at most."""
    gap, score = record.value(PREFIX_GAP.name), record.value(f"test_{record.headline}")
    return gap is not None and score is not None and abs(gap) <= max(MOST_GAP * abs(score), LEAST_GAP)


def largest_leak(row: ResultRow) -> float | None:
    """The largest leak of a row's runs: one that reads the future is enough to spoil their mean score."""
    return max(by_seed(row, LEAK.name).values(), default=None)


def faults_of(converged: float | None, leak: float | None) -> str | None:
    """Why a score is inadmissible with this share of test solves that converge, and this leak in nats; None where it is not."""
    faults = []
    if converged is not None and converged < LEAST_CONVERGED:
        faults.append(f"{significant(100 * converged, 3)} % of its test solves converge (asked: {100 * LEAST_CONVERGED:g} %)")
    if leak is not None and leak > MOST_LEAK:
        faults.append(f"later tokens change a log-probability by up to {significant(leak, 3)} nats (allowed: {MOST_LEAK:g})")
    return f"inadmissible: {', '.join(faults)}" if faults else None


def paired(row: ResultRow, rival: ResultRow, column: Column) -> tuple[list[float], Scale]:
    """A row's measure over a rival's by seed, scale "log"; where a measure is no positive ratio minus it, scale "linear"."""
    ours, theirs = by_seed(row, column.name), by_seed(rival, column.name)
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if column.scale == "log" and pairs and min(min(pair) for pair in pairs) > 0:
        return [a / b for a, b in pairs], "log"
    return [a - b for a, b in pairs], "linear"


def difference(row: ResultRow, rival: ResultRow, column: Column) -> Interval | None:
    """The mean ratio or difference of two rows, paired by seed; None where no seed has both."""
    values, scale = paired(row, rival, column)
    return interval(values, scale) if values else None


def outcome_of(row: ResultRow, rival: ResultRow, column: Column) -> Outcome:
    """Whether a row is ahead of another.

    Undecided where the 95 % interval of their difference holds equality (a count without spread needs none); where both solve the
    task, of its scores: a loss then ranks the scale of logits; and where runs of the one that is ahead have failed.
    """
    one, score = difference(row, rival, column), column.name.startswith("test_")
    if one is None or (score and solves(row) and solves(rival)):
        return "undecided"
    equal = 1.0 if one.scale == "log" else 0.0
    if column.counted and one.has_no_spread and one.mean != equal:
        return "ahead" if (one.mean > equal) == (column.better == "higher") else "behind"
    if one.low is None or one.high is None or one.low <= equal <= one.high or (one.has_no_spread and one.n < MIN_EQUAL_SEEDS):
        return "undecided"
    outcome: Outcome = "ahead" if (one.low > equal) == (column.better == "higher") else "behind"
    return "undecided" if (row if outcome == "ahead" else rival).failed else outcome


def solves(row: ResultRow) -> bool:
    """Whether every run of a row that ended ok solves its task."""
    return bool(row.ok) and all(map(solved, row.ok))


def solved(record: Record) -> bool:
    """Whether all of a run's shares of right answers in the test are at least `SOLVES`; not so where its task has none."""
    shares = [name for name, metric in record.metrics.items() if metric.unit == "fraction" and metric.better == "higher"]
    values = [record.value(f"test_{name}") for name in shares]
    return bool(values) and all(value is not None and value >= SOLVES for value in values)


def solved_more(row: ResultRow, rival: ResultRow) -> Outcome:
    """Whether a row solves the task in more seeds than another: exact sign test, at 5 %, of the seeds in which one alone does."""
    ours, theirs = ({record.spec.seed for record in one.ok if solved(record)} for one in (row, rival))
    both = {record.spec.seed for record in row.finals} & {record.spec.seed for record in rival.finals}
    alone, apart = len((ours - theirs) & both), len((ours ^ theirs) & both)
    one = proportion(alone, apart) if apart else None
    if one is None or one.low is None or one.high is None or one.low <= 0.5 <= one.high:
        return "undecided"
    return "ahead" if one.low > 0.5 else "behind"


def by_seed(row: ResultRow, measure: str) -> dict[int, float]:
    """A measure of the row's ok runs by seed."""
    return {record.spec.seed: value for record in row.ok if (value := record.value(measure)) is not None}
