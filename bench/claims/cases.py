"""Cases that the guide and the sentences to quote argue from: contests of two scores, memory of a step, longer sequences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.budgets import best_within
from bench.analysis.columns import PARAMETERS, PEAK, SAVED, STEP, Column, metric_parts, metrics, unit
from bench.analysis.probe_data import depth_probe
from bench.analysis.selection import (
    Outcome,
    best_row,
    broadest,
    difference,
    headline_column,
    mixed_processors,
    on_same_data,
    outcome_of,
    paired,
    rows_elsewhere,
    solves,
    terms_of,
    value,
)
from bench.analysis.statistics import LEVEL, Interval, significant
from bench.claims.evidence import Evidence
from bench.claims.hypothesis_tests import holm, seed_test
from bench.records.store import Store

SIZE = PARAMETERS[0]
_ALIKE = 1.04  # rows of a comparison lie within 2 % of its reference


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The best DEQ and the best explicit network of a task by validation, with their test scores; `outcome` is the DEQ's.

    `group` is the task's broadest comparison; either may be of another on its terms.

    Undecided: the 95 % interval of their ratio (of their difference, where a score is no ratio), paired by seed, holds equality.
    """

    group: Group
    column: Column
    deq: ResultRow
    rival: ResultRow
    scores: tuple[Interval, Interval]
    outcome: Outcome

    @property
    def solved(self) -> bool:
        """Whether both solve the task in every run."""
        return solves(self.deq) and solves(self.rival)

    @property
    def p(self) -> float:
        """Two-sided p-value of equal scores; 1 with fewer than three seeds."""
        values, scale = paired(self.deq, self.rival, self.column)
        found = seed_test(values, 1.0 if scale == "log" else 0.0, scale) if values else None
        return min(1.0, 2 * min(found.p)) if found and found.p else 1.0

    def address(self, row: ResultRow) -> str:
        """The address of a row's score."""
        return cell(row, self.column)

    def score(self, of: int) -> str:
        """The score of the DEQ (0) or the rival (1), with its unit."""
        return score_of((self.deq, self.rival)[of], self.column)


def score_of(row: ResultRow, column: Column) -> str:
    """A row's mean score with its unit; a dash where it has none."""
    one = aggregate(row, column)
    name = unit(column, one.measures)
    return f"{significant(one.estimate.mean, 3)} {'of answers' if name == 'fraction' else name}".strip() if one.estimate else "—"


def cell(row: ResultRow, column: Column) -> str:
    """The address of a row's cell, as `explain` takes it."""
    first = row.finals[0]
    return f"{first.suite}/{first.spec.group}/{row.label}/{column.head}"


def times_as_long(row: ResultRow, rival: ResultRow) -> str:
    """A row's step time over a rival's, paired by seed, with its 95 % interval if they differ; empty if no machine timed both."""
    one = difference(row, rival, STEP)
    if one is None or mixed_processors((row, rival)):
        return ""
    span = (
        ""
        if one.low is None or one.high is None or one.has_no_spread
        else f" [{significant(one.low, 2)}, {significant(one.high, 2)}]"
    )
    return f"{significant(one.mean, 2)}{span} times"


def comparisons(evidence: Evidence) -> list[Group]:
    """The comparisons of all suites; of several on one task the broadest."""
    return broadest(all_groups(evidence))


def all_groups(evidence: Evidence) -> list[Group]:
    """The comparisons of all suites."""
    return [group for suite in Store(evidence.results).suites() for group in evidence.groups(suite)]


def contests(evidence: Evidence) -> list[Contest]:
    """A contest for each task on which a DEQ and an explicit network ended."""
    groups = all_groups(evidence)
    found = (contest_of(group, rows_elsewhere(group, groups)) for group in broadest(groups))
    return [contest for contest in found if contest is not None]


def decided_after_holm(found: Sequence[Contest]) -> int:
    """How many contests are decided with their p-values corrected for each other; where both solve the task nothing is tested."""
    tested = [one for one in found if not one.solved]
    p_values = holm([one.p for one in tested])
    return sum(p <= 1 - LEVEL and one.outcome != "undecided" for one, p in zip(tested, p_values, strict=True))


def contest_of(group: Group, others: Sequence[ResultRow] = ()) -> Contest | None:
    """The contest of a comparison, and `others` on its terms; None where it has no DEQ or no explicit network with a score.

    Both are picked by validation. Of a task with several test lengths the score is that at the longest: at the length of training
    models that are right in every sequence differ in the scale of their logits alone.
    """
    headline = headline_column(group)
    if headline is None:
        return None
    rows = (*group.rows, *others)
    deq = best_row([row for row in rows if row.family == "deq"], headline)
    rival = best_row([row for row in rows if row.explicit], headline)
    if deq is None or rival is None:
        return None
    column = found[2] if (found := at_longest(group)) else headline
    ours, theirs = (aggregate(row, column).estimate for row in (deq, rival))
    if ours is None or theirs is None:
        return None
    outcome = outcome_of(deq, rival, column)
    return Contest(group=group, column=column, deq=deq, rival=rival, scores=(ours, theirs), outcome=outcome)


def trained_longer(evidence: Evidence, group: Group, deq: ResultRow) -> ResultRow | None:
    """The best explicit network by validation of those that train in no more time than a DEQ, if it is of another comparison.

    Networks of the DEQ's size, data, task and device. None where the best is of the DEQ's own comparison, or none is so quick.
    """
    score, size = headline_column(group), value(deq, SIZE)
    if score is None or size is None:
        return None
    same = on_same_data(group, all_groups(evidence))
    explicit = [row for one in same for row in one.rows if row.explicit and terms_of(row) == terms_of(deq)]
    alike = [row for row in explicit if (count := value(row, SIZE)) is not None and count <= _ALIKE * size]
    rival = best_within(deq, alike, score)["time"]
    return None if rival is None or rival.finals[0].spec.group == group.name else rival


def ahead_in_equal_time(evidence: Evidence, found: Sequence[Contest]) -> int:
    """On how many tasks the DEQ is ahead even if an explicit network may train for as long."""
    rivals = [(one, trained_longer(evidence, one.group, one.deq)) for one in found if one.outcome == "ahead"]
    return sum(rival is None or outcome_of(one.deq, rival, one.column) == "ahead" for one, rival in rivals)


def clearly_less(one: float, other: float) -> bool:
    """Whether an amount of memory is so much smaller that it is a reason to choose."""
    return one < other / 1.1


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """Rows of one comparison for the memory of a training step: a DEQ, the deepest tied network, and that network checkpointed."""

    group: Group
    deq: ResultRow
    tied: ResultRow
    checkpointed: ResultRow | None

    def mib(self, row: ResultRow, saved: bool = True) -> float:
        """A row's bytes saved for backward, or its peak, in MiB."""
        return (value(row, SAVED if saved else PEAK) or 0.0) / 2**20

    @property
    def ratio(self) -> float:
        """Bytes that the tied network saves over the DEQ's."""
        return self.mib(self.tied) / self.mib(self.deq)


def memory_case(evidence: Evidence) -> MemoryCase | None:
    """A comparison with a DEQ and a tied network; one probed by depth and with checkpointing first; None without any.

    Of several DEQs and of several ways of checkpointing, that of the lowest peak; of the DEQs one that solves the task, if the
    tied network does.
    """
    cases = []
    for suite in Store(evidence.results).suites():
        for group in evidence.groups(suite):
            known = [row for row in group.rows if row.ok and value(row, SAVED)]
            deqs = [row for row in known if row.family == "deq"]
            tied = [row for row in known if row.family == "tied"]
            plain = [row for row in tied if not checkpointed(row)]
            if deqs and plain:
                deepest = max(plain, key=_depth)
                deqs = [row for row in deqs if solves(row) or not solves(deepest)] or deqs
                deq = max(deqs, key=lambda row: (_probed(row), -(value(row, PEAK) or 0.0)))
                less = [row for row in tied if checkpointed(row) and _depth(row) == _depth(deepest)]
                least = min(less, key=lambda row: value(row, PEAK) or 0.0) if less else None
                cases.append(MemoryCase(group=group, deq=deq, tied=deepest, checkpointed=least))
    return max(cases, key=lambda case: (_probed(case.deq), case.checkpointed is not None), default=None)


def _probed(row: ResultRow) -> int:
    """At how many depths a row's memory was probed."""
    return max((len(points) for points in depth_probe(row)[0].values()), default=0)


def _depth(row: ResultRow) -> int:
    depth = row.finals[0].spec.model.settings.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def checkpointed(row: ResultRow) -> bool:
    """Whether a row's network is trained with gradient checkpoints."""
    return row.finals[0].spec.model.settings.get("checkpointing", "none") != "none"


@dataclass(frozen=True, kw_only=True)
class LengthCase:
    """A comparison at the longest of several test lengths: rows with their scores, best first, of equal ones the cheapest step."""

    group: Group
    short: int
    long: int
    column: Column
    deqs: list[tuple[float, ResultRow]]
    explicit: list[tuple[float, ResultRow]]


def at_longest(group: Group) -> tuple[int, int, Column] | None:
    """The shortest and the longest of several test lengths, and the column of the accuracy at the last token of the longest."""
    parts = metric_parts(metrics(group.records)[1], "accuracy_last")
    if len(parts) < 2:
        return None
    (short, _), (long, name) = parts[0], parts[-1]
    return short, long, Column(name=f"test_{name}", head=name.replace("_", " "), better="higher", scale="fraction")


def length_cases(evidence: Evidence) -> Iterator[LengthCase]:
    """The comparisons with several test lengths, a DEQ and an explicit network."""
    groups = all_groups(evidence)
    for group in broadest(groups):
        if (found := at_longest(group)) is None:
            continue
        short, long, column = found
        rows = (*group.rows, *rows_elsewhere(group, groups))
        scored = [(round(score, 2), row) for row in rows if (score := value(row, column)) is not None]
        scored.sort(key=lambda pair: (-pair[0], value(pair[1], STEP) or math.inf))
        deqs = [pair for pair in scored if pair[1].family == "deq"]
        explicit = [pair for pair in scored if pair[1].explicit]
        if deqs and explicit:
            yield LengthCase(group=group, short=short, long=long, column=column, deqs=deqs, explicit=explicit)
