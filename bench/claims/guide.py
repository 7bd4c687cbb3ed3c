"""The decision guide: when to use a deep equilibrium model, each row a function of the records and findings.

To add a row, write a rule: it takes the Evidence and the findings by claim id, and yields an Advice where its records exist.
Every number in a text comes from a record. `evidence` is the address of the cell, or the id of the claim, that the number is from.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller

from bench.analysis.aggregate import ResultRow
from bench.analysis.budgets import best_within
from bench.analysis.columns import LEAK, PEAK, SAVED, TEST_CONVERGED
from bench.analysis.selection import MOST_LEAK, Outcome, inadmissible, outcome_of, value
from bench.analysis.statistics import over_seeds, significant
from bench.claims.cases import (
    Contest,
    cell,
    checkpointed,
    clearly_less,
    contests,
    length_cases,
    memory_case,
    score_of,
    times_as_long,
    trained_longer,
)
from bench.claims.claim import PLURAL, Finding
from bench.claims.evidence import Evidence
from bench.claims.judges_studies import by_task
from bench.claims.parts import ratios

Findings = Mapping[str, Finding]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A row of the guide: in a situation use this, because of a number from `n` runs, at a cost."""

    situation: str
    use: str
    reason: str
    n: int
    cost: str
    evidence: str


Rule = Callable[[Evidence, Findings, Sequence[Contest]], Iterator[Advice]]


def guide(evidence: Evidence, findings: Sequence[Finding]) -> list[Advice]:
    """The rows that the records can fill, in the order of the rules."""
    by_id, found = {one.claim.id: one for one in findings}, contests(evidence)
    return [advice for rule in RULES for advice in rule(evidence, by_id, found)]


def _memory(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    case = memory_case(evidence)
    if case is None or case.ratio <= 1:
        return
    yield Advice(
        situation=f"Memory for backward limits the depth of a weight-tied network ({case.tied.label})",
        use="a DEQ" if case.checkpointed is None else "a DEQ, or gradient checkpointing",
        reason=f"a DEQ saves {case.mib(case.deq):.2f} MiB at any number of steps, {case.tied.label} {case.mib(case.tied):.2f} MiB",
        n=len(case.deq.ok),
        cost=f"{times} the step time of {case.tied.label}" if (times := times_as_long(case.deq, case.tied)) else "",
        evidence=cell(case.deq, SAVED),
    )
    if (rival := case.checkpointed) is not None:
        peaks = case.mib(case.deq, saved=False), case.mib(rival, saved=False)
        yield Advice(
            situation="Gradient checkpointing is possible",
            use="a DEQ" if clearly_less(*peaks) else "checkpointing" if clearly_less(*peaks[::-1]) else "either: peaks are alike",
            reason=f"peak of a training step: {case.deq.label} {peaks[0]:.2f} MiB, {rival.label} {peaks[1]:.2f} MiB",
            n=len(rival.ok),
            cost=f"{times} the step time of the DEQ" if (times := times_as_long(rival, case.deq)) else "",
            evidence=cell(rival, PEAK),
        )


def _budgets(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    """The longest trained language model by words: in the best DEQ's time, and in the memory of the DEQ with the lowest peak."""
    words = [one for one in found if any("test_perplexity" in record.measures for record in one.deq.ok)]
    if not words:
        return
    one = max(words, key=lambda contest: contest.deq.finals[0].spec.train.steps)
    peaks = {row.label: peak for row in one.group.rows if row.ok and (peak := value(row, PEAK)) is not None}
    explicit = [row for row in one.group.rows if row.explicit]
    lean = min((row for row in one.group.rows if row.family == "deq"), key=lambda row: peaks.get(row.label, math.inf))
    for budget, deq in (("time", one.deq), ("memory", lean)):
        rival = best_within(deq, explicit, one.column)[budget]
        ours = score_of(deq, one.column)
        if rival is not None:
            theirs, outcome = score_of(rival, one.column), outcome_of(deq, rival, one.column)
            n, use = min(len(deq.ok), len(rival.ok)), _choice(deq, rival, outcome)
            reason = f"{deq.label} {ours}, the best explicit network in its {budget}, {rival.label}, {theirs} ({outcome})"
        elif budget == "memory" and (others := [row for row in explicit if row.label in peaks]):
            least = min(others, key=lambda row: peaks[row.label])
            use, n = deq.label if clearly_less(peaks[deq.label], peaks[least.label]) else "either: peaks are alike", len(deq.ok)
            reason = f"{deq.label} peaks at {peaks[deq.label] / 2**20:.1f} MiB ({ours}), the leanest explicit network, "
            reason += f"{least.label}, at {peaks[least.label] / 2**20:.1f} ({score_of(least, one.column)})"
            reason += "" if any(checkpointed(row) for row in explicit) else "; none of these is checkpointed"
        else:
            continue
        yield Advice(
            situation=f"A small language model ({one.group.name}), within a bound on {budget}",
            use=use,
            reason=reason,
            n=n,
            cost=f"the DEQ's score is {fault}" if (fault := inadmissible(deq)) else "",
            evidence=cell(deq, one.column),
        )


def _choice(deq: ResultRow, rival: ResultRow, outcome: Outcome) -> str:
    """Which of a DEQ and an explicit network to use; a DEQ whose score is inadmissible is no choice."""
    if outcome == "behind" or inadmissible(deq) is not None:
        return rival.label
    if outcome == "ahead":
        return deq.label
    return f"either: {deq.label} or {rival.label}" if min(len(deq.ok), len(rival.ok)) > 1 else "undecided: one seed"


def _quality(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    for one in found:
        cost = [f"the DEQ's step takes {times} the rival's"] if (times := times_as_long(one.deq, one.rival)) else []
        if fault := inadmissible(one.deq):
            cost.append(f"the DEQ's score is {fault}")
        use, reason = _choice(one.deq, one.rival, one.outcome), f"{one.deq.label} {one.score(0)}, {one.rival.label} {one.score(1)} "
        reason += f"({'both solve it' if one.solved else one.outcome})"
        rival = trained_longer(evidence, one.group, one.deq) if one.outcome == "ahead" else None
        if rival is not None:
            outcome = outcome_of(one.deq, rival, one.column)
            reason += f"; given the DEQ's time {rival.label} has {score_of(rival, one.column)} ({outcome})"
            use += "" if outcome == "ahead" else f", or {rival.label} for as long a time"
        yield Advice(
            situation=f"The task is like {one.group.name}",
            use=use,
            reason=reason,
            n=min(one.scores[0].n, one.scores[1].n),
            cost="; ".join(cost),
            evidence=one.address(one.deq),
        )


def _leak(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    leaks = [(leak, one, row) for one in found for row in one.group.rows if row.family == "deq" and (leak := value(row, LEAK))]
    if leaks and max(leak for leak, _, _ in leaks) > MOST_LEAK:
        leak, one, row = max(leaks, key=lambda entry: entry[0])
        share = value(row, TEST_CONVERGED)
        yield Advice(
            situation="Predictions must not depend on later positions",
            use="an explicit network, or a DEQ whose leak is measured",
            reason=f"unsolved, {row.label} leaks {significant(leak, 3)} nats of the future on {one.group.name}",
            n=len(row.ok),
            cost="" if share is None else f"{100 * share:.0f} % of its test solves converge",
            evidence=cell(row, LEAK),
        )


def _length(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    """The best and the worst of both sides on the longest test sequences."""
    for case in length_cases(evidence):
        sides = (case.deqs, case.explicit)
        best = max(side[0][0] for side in sides)
        texts = []
        for side, name in zip(sides, ("DEQs ", ""), strict=True):
            (top, row), (low, worst) = side[0], side[-1]
            texts.append(f"{row.label} {top:.2f}" + (f" ({name}down to {worst.label} {low:.2f})" if worst is not row else ""))
        deq = case.deqs[0][1]
        times = times_as_long(deq, case.explicit[0][1])
        use = " or ".join(side[0][1].label for side in sides if side[0][0] == best)
        reason = f"right at the last token: {', '.join(texts)}"
        rival = trained_longer(evidence, case.group, deq)
        if rival is not None and (score := value(rival, case.column)) is not None:
            outcome = outcome_of(deq, rival, case.column)
            reason += f"; given the DEQ's time {rival.label} {score:.2f} (the DEQ is {outcome})"
            use += "" if outcome == "ahead" else f", or {rival.label} for as long a time"
        yield Advice(
            situation=f"Sequences are longer than in training ({case.group.name}: {case.long} after {case.short})",
            use=use,
            reason=reason,
            n=min(len(side[0][1].ok) for side in sides),
            cost=f"the DEQ's step takes {times} the rival's" if times else "",
            evidence=cell(deq, case.column),
        )


def _times(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    """How many times as long as an explicit network's a DEQ's step and inference take, over the pairs of a claim."""
    for id_, situation in (("training-time", "Training time is the limit"), ("inference-time", "Inference time is the limit")):
        parts = [part for part in findings[id_].parts if part.estimate is not None] if id_ in findings else []
        if not parts:
            continue
        spans = [(one.low, one.high) for part in parts if (one := part.estimate) and one.low is not None and one.high is not None]
        slower, faster = sum(low > 1 for low, _ in spans), sum(high < 1 for _, high in spans)
        ratios = [part.estimate.mean for part in parts if part.estimate is not None]
        text = f"a DEQ takes {significant(min(ratios), 2)} to {significant(max(ratios), 2)} times as long in {len(ratios)} pairs"
        yield Advice(
            situation=situation,
            use="an explicit network" if slower > faster else "a DEQ" if faster > slower else "undecided",
            reason=f"{text}, beyond chance longer in {slower}, shorter in {faster}",
            n=min(len(part.samples) for part in parts),
            cost="",
            evidence=id_,
        )


def _gradient(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    one = findings.get("gradient")
    errors = [max(part.samples) for part in one.parts if "relative error" in part.about and part.samples] if one else []
    if one is not None and errors:
        yield Advice(
            situation="Gradients must be exact",
            use="an explicit network, or a DEQ with the implicit gradient" if one.verdict == "holds" else "an explicit network",
            reason=f"solved to 1e-8, where there is a root: relative error {significant(max(errors), 2)} at most",
            n=min(len(part.samples) for part in one.parts if part.samples),
            cost="solves far tighter than in training",
            evidence="gradient",
        )


def _claims(evidence: Evidence, findings: Findings, found: Sequence[Contest]) -> Iterator[Advice]:
    for id_, situation, use in (
        (
            "tolerance",
            "Solves take too long at test time",
            {"holds": "a looser tolerance", "inconclusive": "try a looser tolerance"},
        ),
        (
            "steps-and-length",
            "More compute is at hand at test time, and sequences are longer than in training",
            {"holds": "a DEQ or a looped network", "does not hold": "a model that does not depend on it"},
        ),
        (
            "more-steps",
            "The same, and problems are like those of training",
            {"does not hold": "either: it gains little or nothing"},
        ),
    ):
        one = findings.get(id_)
        parts = [part for part in one.parts if part.estimate is not None] if one else []
        if one is not None and parts:
            counts = [(sum(part.verdict == verdict for part in parts), words) for verdict, words in PLURAL.items()]
            text = ", ".join(f"{count} of {len(parts)} {words}" for count, words in counts if count)
            yield Advice(
                situation=situation,
                use=use.get(one.verdict, "undecided"),
                reason=f"{one.claim.says.rstrip('.')}: {text}{_loosely(evidence) if id_ == 'tolerance' else ''}",
                n=min(len(part.samples) for part in parts),
                cost="",
                evidence=id_,
            )


def _loosely(evidence: Evidence) -> str:
    """How long inference takes with loose solves."""
    loose, tight = (by_task(evidence, "inference", methodcaller("get", name)) for name in ("loose_ms", "deq_ms"))
    times = [over_seeds(list(ratios(ms, tight[task]).values()), "log").mean for task, ms in loose.items()]
    return f"; inference then takes {significant(min(times), 2)} to {significant(max(times), 2)} of the time" if times else ""


RULES: tuple[Rule, ...] = (_memory, _length, _times, _gradient, _claims, _leak, _budgets, _quality)
