"""Sentences that a reader may quote, each filled from the records of a results folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analysis.columns import SAVED, TEST_CONVERGED
from bench.analysis.selection import inadmissible, largest_leak, value
from bench.analysis.statistics import Interval, significant, written
from bench.analysis.time_to_quality import quality
from bench.claims.cases import (
    MemoryCase,
    ahead_in_equal_time,
    cell,
    clearly_less,
    comparisons,
    contests,
    decided_after_holm,
    length_cases,
    memory_case,
    times_as_long,
    trained_longer,
)
from bench.claims.claim import Finding
from bench.claims.evidence import Evidence
from bench.records.escape import markdown_escape


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A sentence, and the address of the cell or the id of the claim that its numbers are from; empty: the guide."""

    text: str
    evidence: str = ""


def quotes(evidence: Evidence, findings: Sequence[Finding]) -> list[Quote]:
    """The sentences that the records can fill: quality, memory with time, time to equal quality, length, equilibria."""
    return [one for made in (_quality, _cost, _time, _length, _inadmissible) for one in made(evidence, findings)]


def quoted_sentences(found: Sequence[Quote]) -> str:
    """The sentences in Markdown, numbered, each with what explains its numbers."""
    explained = (f" (`explain '{one.evidence}'`)" if one.evidence else "" for one in found)
    return "".join(
        f"{n}. {markdown_escape(one.text)}{more}\n" for n, (one, more) in enumerate(zip(found, explained, strict=True), 1)
    )


def first_quotes(evidence: Evidence, findings: Sequence[Finding]) -> list[Quote]:
    """The two that answer whether a DEQ is worth it: quality, and memory with time."""
    return [*_quality(evidence, findings), *_cost(evidence, findings)]


def _quality(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    found = contests(evidence)
    counts = {outcome: sum(one.outcome == outcome for one in found) for outcome in ("ahead", "undecided", "behind")}
    solved, decided = sum(one.solved for one in found), counts["ahead"] + counts["behind"]
    given = f" ({ahead_in_equal_time(evidence, found)} if that may train for the DEQ's time)" if counts["ahead"] else ""
    word = "often" if 2 * counts["ahead"] > len(found) else "seldom" if counts["ahead"] else "not in what was measured"
    if found:
        text = f"For quality, {word}: on {counts['ahead']} of {len(found)} tasks, each on the terms of its broadest comparison, "
        text += f"the best DEQ scores better than the best explicit network of its size{given}, on {counts['behind']} worse, on "
        text += f"{solved} both solve the task, and on {counts['undecided'] - solved} the seeds do not decide."
        if decided:
            text += (
                f" Of the {decided} decided, {decided_after_holm(found)} stay so with the tests corrected for each other (Holm)."
            )
        yield Quote(text=text)


def _cost(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    case = memory_case(evidence)
    if case is None:
        return
    deq, tied, less = case.deq, case.tied, case.checkpointed
    amounts = []
    for saved, verb in ((True, "saves {} MiB for backward whatever the depth"), (False, "peaks at {} MiB")):
        if not case.mib(tied, saved):
            continue
        text = f"{verb.format(f'{case.mib(deq, saved):.2f}')} ({tied.label} {case.mib(tied, saved):.2f}"
        amounts.append(f"{text}, checkpointed {case.mib(less, saved):.2f})" if less else f"{text})")
    text = f"For memory, {_answer(case)}: a training step of {deq.label} {' and '.join(amounts)}"
    if times := times_as_long(deq, tied):
        text += f", and takes {times} as long as that of {tied.label}"
    yield Quote(text=f"{text}.", evidence=cell(deq, SAVED))


def _answer(case: MemoryCase) -> str:
    """Whether a DEQ saves memory, and whether gradient checkpointing does as well."""
    if case.ratio <= 1:
        return "no"
    if case.checkpointed is None:
        return "yes"
    deq, rival = (case.mib(row, saved=False) for row in (case.deq, case.checkpointed))
    return (
        "yes"
        if clearly_less(deq, rival)
        else "yes, unless you checkpoint"
        if clearly_less(rival, deq)
        else "yes, as checkpoints do"
    )


def span(findings: Sequence[Finding], claim: str) -> str:
    """The smallest and the largest ratio that a claim's parts found, in words; empty without any."""
    parts = [part for one in findings if one.claim.id == claim for part in one.parts]
    ratios = [part.estimate.mean for part in parts if part.estimate is not None]
    return f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else ""


def _time(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    """For each comparison of suite `speed` its admissible DEQ with the smallest ratio; one of 0: no rival gets there."""
    texts, address = [], ""
    for group in evidence.groups("speed"):
        found = quality(group)
        admissible = [row.label for row in group.rows if row.family == "deq" and inadmissible(row) is None]
        ratios = [(found.ratios[name].ratio, name) for name in admissible if name in found.ratios] if found else []
        if found and (reached := [pair for pair in ratios if pair[0]]):
            label = min(reached)[1]
            one = found.ratios[label]
            times = written(Interval(mean=one.ratio, low=one.low, high=one.high, n=len(reached), scale="linear"))
            alone = f", none gets to the loss of {len(ratios) - len(reached)} of {len(ratios)} DEQs" if ratios != reached else ""
            texts.append(f"{times} times the time on {group.name} ({label}{alone})")
            address = address or f"speed/{group.name}: quality/{label}/ratio"
        elif ratios:
            texts.append(f"no explicit network gets there on {group.name}")
        elif found:
            texts.append(f"no DEQ's score counts on {group.name}")
    if texts:
        yield Quote(
            text="Training to the loss at which it ends, the quickest DEQ whose score counts takes, next to the fastest "
            f"explicit network that gets there: {'; '.join(texts)}.",
            evidence=address,
        )


def _length(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    for case in length_cases(evidence):
        (score, deq), (rival_score, rival) = case.deqs[0], case.explicit[0]
        least = [f", the worst in {side[-1][0]:.2f}" if len(side) > 1 else "" for side in (case.deqs, case.explicit)]
        longer = trained_longer(evidence, case.group, deq)
        later = None if longer is None else value(longer, case.column)
        given = "" if longer is None or later is None else f"; given that DEQ's time {longer.label} in {later:.2f}"
        yield Quote(
            text=f"On {case.group.name}, at {case.long} tokens after training at {case.short}, the best DEQ ({deq.label}) is "
            f"right in {score:.2f} of sequences{least[0]}; the best explicit network ({rival.label}) in {rival_score:.2f}"
            f"{least[1]}{given} (means over {len(deq.ok)} and {len(rival.ok)} seeds).",
            evidence=cell(deq, case.column),
        )


def _inadmissible(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    deqs = [
        row
        for group in comparisons(evidence)
        for row in group.rows
        if row.family == "deq" and value(row, TEST_CONVERGED) is not None
    ]
    faulty = [row for row in deqs if inadmissible(row) is not None]
    leaks = [leak for row in faulty if (leak := largest_leak(row)) is not None]
    if deqs:
        text = f"Of {len(deqs)} rows of DEQs, in the broadest comparison of each task, {len(faulty)} have a score that does not "
        text += "count: under 99 % of their test solves converge, or later tokens change a log-probability"
        yield Quote(text=text + (f", in one run by {significant(max(leaks), 2)} nats." if leaks else "."))
