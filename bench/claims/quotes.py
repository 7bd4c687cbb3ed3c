"""Sentences that a reader may quote, each filled from the records of a results folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analysis.columns import LEAK, SOLVED
from bench.analysis.selection import inadmissible
from bench.analysis.statistics import significant
from bench.analysis.time_to_quality import quality
from bench.claims.claim import Finding
from bench.claims.evidence import Evidence
from bench.claims.guide import SAVED, STEP, cell, clearly_less, comparisons, contests, length_cases, memory_case, value
from bench.records.escape import markdown_escape


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A sentence, and the address of the cell or the id of the claim that its numbers are from; empty: the guide."""

    text: str
    evidence: str = ""


def quotes(evidence: Evidence, findings: Sequence[Finding]) -> list[Quote]:
    """The sentences that the records can fill: quality, memory with time, time to equal quality, length, equilibria."""
    return [one for made in (_quality, _cost, _time, _length, _solved) for one in made(evidence, findings)]


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
    word = "often" if 2 * counts["ahead"] > len(found) else "seldom" if counts["ahead"] else "not in what was measured"
    if found:
        yield Quote(
            text=f"For quality, {word}: on {counts['ahead']} of {len(found)} tasks the best DEQ scores better than the best "
            f"explicit network of its size, on {counts['behind']} worse, and on {counts['undecided']} the seeds do not decide."
        )


def _cost(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    case = memory_case(evidence)
    if case is None:
        return
    deq, tied, less = case.deq, case.tied, case.checkpointed
    near = less is not None and not clearly_less(case.mib(deq, saved=False), case.mib(less, saved=False))
    word = "no" if case.ratio <= 1 else "yes, unless you checkpoint" if near else "yes"
    amounts = []
    for saved, verb in ((True, "saves {} MiB for backward whatever the depth"), (False, "peaks at {} MiB")):
        if not case.mib(tied, saved):
            continue
        text = f"{verb.format(f'{case.mib(deq, saved):.2f}')} ({tied.label} {case.mib(tied, saved):.2f}"
        amounts.append(f"{text}, checkpointed {case.mib(less, saved):.2f})" if less else f"{text})")
    text = f"For memory, {word}: a DEQ's training step {' and '.join(amounts)}"
    if (own := value(deq, STEP)) and (others := value(tied, STEP)):
        text += f", and takes {own / others:.2f} times as long as that of {tied.label}"
    yield Quote(text=f"{text}.", evidence=cell(case.group, deq, SAVED))


def span(findings: Sequence[Finding], claim: str) -> str:
    """The smallest and the largest ratio that a claim's parts found, in words; empty without any."""
    parts = [part for one in findings if one.claim.id == claim for part in one.parts]
    ratios = [part.estimate.mean for part in parts if part.estimate is not None]
    return f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else ""


def _time(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    best = {}
    for group in evidence.groups("speed"):
        if (found := quality(group)) is not None:
            ratios = {label: one.ratio for label, one in found.ratios.items() if label not in found.explicit and one.ratio > 0}
            if ratios:
                best[group.name] = min(ratios.values())
    if best:
        each = ", ".join(f"{significant(ratio, 2)} on {name}" for name, ratio in best.items())
        yield Quote(
            text="To the loss at which it ends, the fastest DEQ trains for this many times the seconds of the fastest explicit "
            f"network that gets there: {each}.",
            evidence="computation",
        )


def _length(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    for case in length_cases(evidence):
        deq, rival = case.deqs[0], case.explicit[0]
        worst = min(case.deqs + case.explicit, key=lambda pair: pair[0])
        yield Quote(
            text=f"On {case.group.name}, at {case.long} tokens after training at {case.short}, the best DEQ ({deq[1].label}) is "
            f"right in {deq[0]:.2f} of sequences, the best explicit network ({rival[1].label}) in {rival[0]:.2f}, the worst model "
            f"({worst[1].label}) in {worst[0]:.2f}.",
            evidence=cell(case.group, deq[1], case.column),
        )


def _solved(evidence: Evidence, findings: Sequence[Finding]) -> Iterator[Quote]:
    deqs = [row for group in comparisons(evidence) for row in group.rows if row.family == "deq" and value(row, SOLVED) is not None]
    faulty = [row for row in deqs if inadmissible(row) is not None]
    leaks = [leak for row in faulty if (leak := value(row, LEAK)) is not None]
    if deqs:
        text = f"Of {len(deqs)} rows of DEQs, {len(faulty)} have a score that does not count: under 99 % of their test solves "
        text += "converge, or later tokens change their predictions"
        yield Quote(text=text + (f", by up to {significant(max(leaks), 2)} nats." if leaks else "."))
