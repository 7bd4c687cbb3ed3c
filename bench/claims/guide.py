"""The decision guide: when to use a deep equilibrium model, each row a function of the records and findings.

To add a row, write a rule: it takes the Evidence and the findings by claim id, and yields an Advice where its records exist.
Every number in a text comes from a record. `evidence` is the address of the cell, or the id of the claim, that the number is from.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.columns import LEAK, SOLVED, Column, metric_parts, metrics
from bench.analysis.probe_data import depth_probe
from bench.analysis.selection import MOST_LEAK, Outcome, best_row, broadest, headline_column, inadmissible, outcome_of, value
from bench.analysis.statistics import Interval, significant
from bench.claims.claim import Finding, Part
from bench.claims.evidence import Evidence
from bench.records.store import Store

Findings = Mapping[str, Finding]
STEP = Column(name="step_ms_median", head="step")
SAVED = Column(name="saved_bytes", head="saved for backward", counted=True)
_PEAK = Column(name="peak_live_bytes", head="peak live", counted=True)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A row of the guide: in a situation use this, because of a number from `n` runs, at a cost."""

    situation: str
    use: str
    reason: str
    n: int
    cost: str
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The best DEQ of a comparison and its best explicit network by validation, with their test scores; `outcome` is the DEQ's.

    Undecided: the 95 % interval of their ratio (of their difference, where a score is no ratio), paired by seed, holds equality.
    """

    group: Group
    column: Column
    unit: str
    deq: ResultRow
    rival: ResultRow
    scores: tuple[Interval, Interval]
    outcome: Outcome

    def address(self, row: ResultRow) -> str:
        """The address of a row's score."""
        return cell(self.group, row, self.column)

    def score(self, of: int) -> str:
        """The score of the DEQ (0) or the rival (1), with its unit."""
        return f"{significant(self.scores[of].mean, 3)} {self.unit if self.unit != '1' else ''}".strip()


Rule = Callable[[Evidence, Findings, Sequence[Contest]], Iterator[Advice]]


def guide(evidence: Evidence, findings: Sequence[Finding]) -> list[Advice]:
    """The rows that the records can fill, in the order of the rules."""
    by_id, found = {one.claim.id: one for one in findings}, contests(evidence)
    return [advice for rule in RULES for advice in rule(evidence, by_id, found)]


def cell(group: Group, row: ResultRow, column: Column) -> str:
    """The address of a row's cell, as `explain` takes it."""
    return f"{group.suite}/{group.name}/{row.label}/{column.head}"


def comparisons(evidence: Evidence) -> list[Group]:
    """The comparisons of all suites; of several on one task the broadest."""
    return broadest(group for suite in Store(evidence.results).suites() for group in evidence.groups(suite))


def contests(evidence: Evidence) -> list[Contest]:
    """A contest for each task on which a DEQ and an explicit network ended."""
    return [contest for group in comparisons(evidence) if (contest := contest_of(group)) is not None]


def contest_of(group: Group) -> Contest | None:
    """The contest of a comparison; None where it has no DEQ or no explicit network with a score. Both are picked by validation."""
    headline, known = metrics(group.records)
    column = headline_column(group)
    if column is None:
        return None
    deq = best_row([row for row in group.rows if row.family == "deq"], column)
    rival = best_row([row for row in group.rows if row.family not in ("deq", "ode")], column)
    if deq is None or rival is None:
        return None
    ours, theirs = (aggregate(row, column).estimate for row in (deq, rival))
    if ours is None or theirs is None:
        return None
    unit, outcome = known[headline].unit, outcome_of(deq, rival, column)
    return Contest(group=group, column=column, unit=unit, deq=deq, rival=rival, scores=(ours, theirs), outcome=outcome)


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
        return (value(row, SAVED if saved else _PEAK) or 0.0) / 2**20

    @property
    def ratio(self) -> float:
        """Bytes that the tied network saves over the DEQ's."""
        return self.mib(self.tied) / self.mib(self.deq)


def memory_case(evidence: Evidence) -> MemoryCase | None:
    """A comparison with a DEQ and a tied network; one probed by depth and with checkpointing first; None without any.

    Of several DEQs and of several ways of checkpointing, that of the lowest peak.
    """
    cases = []
    for suite in Store(evidence.results).suites():
        for group in evidence.groups(suite):
            known = [row for row in group.rows if row.ok and value(row, SAVED)]
            deq = [row for row in known if row.family == "deq"]
            tied = [row for row in known if row.family == "tied"]
            plain = [row for row in tied if not _checkpointed(row)]
            if deq and plain:
                deepest, probed = max(plain, key=_depth), max(deq, key=lambda row: (_probed(row), -(value(row, _PEAK) or 0.0)))
                less = [row for row in tied if _checkpointed(row) and _depth(row) == _depth(deepest)]
                least = min(less, key=lambda row: value(row, _PEAK) or 0.0) if less else None
                cases.append(MemoryCase(group=group, deq=probed, tied=deepest, checkpointed=least))
    return max(cases, key=lambda case: (_probed(case.deq), case.checkpointed is not None), default=None)


def _probed(row: ResultRow) -> int:
    """At how many depths a row's memory was probed."""
    return max((len(points) for points in depth_probe(row)[0].values()), default=0)


def _depth(row: ResultRow) -> int:
    depth = row.finals[0].spec.model.settings.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def _checkpointed(row: ResultRow) -> bool:
    return row.finals[0].spec.model.settings.get("checkpointing", "none") != "none"


def _memory(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    case = memory_case(evidence)
    if case is None or case.ratio <= 1:
        return
    time = [value(row, STEP) for row in (case.deq, case.tied)]
    yield Advice(
        situation=f"Memory for backward limits the depth of a weight-tied network ({case.tied.label})",
        use="a DEQ" if case.checkpointed is None else "a DEQ, or gradient checkpointing",
        reason=f"a DEQ saves {case.mib(case.deq):.2f} MiB at any number of steps, {case.tied.label} {case.mib(case.tied):.2f} MiB",
        n=len(case.deq.ok),
        cost=f"{time[0] / time[1]:.2f} times the step time of {case.tied.label}" if time[0] and time[1] else "",
        evidence=cell(case.group, case.deq, SAVED),
    )
    if (rival := case.checkpointed) is not None:
        peaks, steps = (case.mib(case.deq, saved=False), case.mib(rival, saved=False)), [value(r, STEP) for r in (case.deq, rival)]
        yield Advice(
            situation="Gradient checkpointing is possible",
            use="a DEQ" if clearly_less(*peaks) else "checkpointing" if clearly_less(*peaks[::-1]) else "either: peaks are alike",
            reason=f"peak of a training step: {case.deq.label} {peaks[0]:.2f} MiB, {rival.label} {peaks[1]:.2f} MiB",
            n=len(rival.ok),
            cost=f"{steps[1] / steps[0]:.2f} times the step time of the DEQ" if steps[0] and steps[1] else "",
            evidence=cell(case.group, rival, _PEAK),
        )


def _quality(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    for one in found:
        n = min(one.scores[0].n, one.scores[1].n)
        undecided = f"either: {one.deq.label} or {one.rival.label}" if n > 1 else "undecided: one seed"
        use = {"ahead": one.deq.label, "behind": one.rival.label, "undecided": undecided}
        steps = [value(row, STEP) for row in (one.deq, one.rival)]
        cost = [f"the DEQ's step takes {steps[0] / steps[1]:.1f} times the rival's"] if steps[0] and steps[1] else []
        if fault := inadmissible(one.deq):
            cost.append(f"the DEQ's score is {fault}")
        yield Advice(
            situation=f"The task is like {one.group.name}",
            use=use[one.outcome],
            reason=f"{one.deq.label} {one.score(0)}, {one.rival.label} {one.score(1)} ({one.outcome})",
            n=n,
            cost="; ".join(cost),
            evidence=one.address(one.deq),
        )


def _solved(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    leaks = [(leak, one, row) for one in found for row in one.group.rows if row.family == "deq" and (leak := value(row, LEAK))]
    if leaks and max(leak for leak, _, _ in leaks) > MOST_LEAK:
        leak, one, row = max(leaks, key=lambda entry: entry[0])
        share = value(row, SOLVED)
        yield Advice(
            situation="Predictions must not depend on later positions",
            use="an explicit network, or a DEQ whose solves converge",
            reason=f"unsolved, {row.label} leaks {significant(leak, 3)} nats of the future on {one.group.name}",
            n=len(row.ok),
            cost="" if share is None else f"{100 * share:.0f} % of its test solves converge",
            evidence=cell(one.group, row, LEAK),
        )


@dataclass(frozen=True, kw_only=True)
class LengthCase:
    """A comparison at the longest of several test lengths: rows with their scores, best first, of equal ones the cheapest step."""

    group: Group
    short: int
    long: int
    column: Column
    deqs: list[tuple[float, ResultRow]]
    explicit: list[tuple[float, ResultRow]]


def length_cases(evidence: Evidence) -> Iterator[LengthCase]:
    """The comparisons with several test lengths, a DEQ and an explicit network."""
    for group in comparisons(evidence):
        parts = metric_parts(metrics(group.records)[1], "accuracy_last")
        if len(parts) < 2:
            continue
        (short, _), (long, name) = parts[0], parts[-1]
        column = Column(name=f"test_{name}", head=name.replace("_", " "), better="higher")
        scored = [(round(score, 2), row) for row in group.rows if (score := value(row, column)) is not None]
        scored.sort(key=lambda pair: (-pair[0], value(pair[1], STEP) or math.inf))
        deqs, explicit = ([pair for pair in scored if (pair[1].family == "deq") is own] for own in (True, False))
        if deqs and explicit:
            yield LengthCase(group=group, short=short, long=long, column=column, deqs=deqs, explicit=explicit)


def _length(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    """The best and the worst of both sides on the longest test sequences."""
    for case in length_cases(evidence):
        sides = (case.deqs, case.explicit)
        best = max(side[0][0] for side in sides)
        ends = [f"{row.label} {score:.2f}" for side in sides for score, row in (side[0], side[-1])]
        steps = [value(side[0][1], STEP) for side in sides]
        yield Advice(
            situation=f"Sequences are longer than in training ({case.group.name}: {case.long} after {case.short})",
            use=" or ".join(side[0][1].label for side in sides if side[0][0] == best),
            reason=f"right at the last token: {ends[0]} (DEQs down to {ends[1]}), {ends[2]} (down to {ends[3]})",
            n=min(len(side[0][1].ok) for side in sides),
            cost=f"the DEQ's step takes {steps[0] / steps[1]:.1f} times the rival's" if steps[0] and steps[1] else "",
            evidence=cell(case.group, case.deqs[0][1], case.column),
        )


def _claims(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    for id_, situation, use in (
        ("training-time", "Training time is the limit", {"holds": "an explicit network", "does not hold": "compare step times"}),
        ("inference-time", "Inference time is the limit", {"holds": "an explicit network"}),
        ("gradient", "Gradients must be exact", {"holds": "a DEQ with the implicit gradient"}),
        (
            "steps-and-length",
            "More compute is at hand at test time, and sequences are longer than in training",
            {"holds": "a DEQ or a looped network", "does not hold": "a model that does not depend on it"},
        ),
        ("more-steps", "The same, and problems are like those of training", {"does not hold": "either: it gains nothing"}),
        ("tolerance", "Solves take too long at test time", {"holds": "a looser tolerance"}),
    ):
        one = findings.get(id_)
        if one is not None and (part := deciding(one)) is not None:
            yield Advice(
                situation=situation,
                use=use.get(one.verdict, "undecided"),
                reason=f"{part.about}: {part.value}",
                n=len(part.samples),
                cost="",
                evidence=id_,
            )


def deciding(finding: Finding) -> Part | None:
    """The first part with the claim's verdict, or the first part."""
    return next((part for part in finding.parts if part.verdict == finding.verdict), next(iter(finding.parts), None))


RULES: tuple[Rule, ...] = (_memory, _length, _claims, _solved, _quality)
