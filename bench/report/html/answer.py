"""The first screen: the answer in two sentences, and a card each for memory, time and quality; every number from the records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex

from bench.analysis.columns import TEST_CONVERGED
from bench.analysis.probe_data import depth_probe
from bench.analysis.selection import value
from bench.analysis.statistics import significant
from bench.claims.cases import Contest, MemoryCase, ahead_in_equal_time, cell, contests, memory_case
from bench.claims.claim import Finding
from bench.claims.evidence import Evidence
from bench.claims.quotes import first_quotes, span
from bench.report.html.evidence_figures import claim_figure, outcomes
from bench.report.html.figures import MIB, Figure, Lines
from bench.report.style import line_style


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number with its unit in words, a small figure, what speaks against it, and links to its evidence and to more."""

    title: str
    number: str
    unit: str
    but: str
    but_evidence: str
    evidence: str
    more: tuple[str, str]
    figure: Figure | None
    shows: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Two sentences, each with a link to its evidence, and the cards, those that the records can fill."""

    sentences: tuple[tuple[str, str], ...]
    cards: tuple[Card, ...]


def answer(evidence: Evidence, findings: Sequence[Finding]) -> Answer:
    """The answer of a results folder."""
    case, found = memory_case(evidence), contests(evidence)
    times = next((one for one in findings if one.claim.id == "training-time" and claim_figure(one)), None)
    cards = [_memory(case)] if case else []
    cards += [_time(times, findings)] if times else []
    cards += [_quality(evidence, found)] if found else []
    sentences = [(one.text, f"#cell={one.evidence}" if one.evidence else "#guide") for one in first_quotes(evidence, findings)]
    return Answer(sentences=tuple(sentences), cards=tuple(cards))


def _saved(case: MemoryCase) -> str:
    return f"#cell={case.group.suite}/{case.group.name}/{case.deq.label}/saved for backward"


def _memory(case: MemoryCase) -> Card:
    rival = case.checkpointed
    but = f"{rival.label} saves {case.mib(rival):.2f} MiB and peaks at {case.mib(rival, False):.2f}, " if rival else ""
    but += f"the DEQ saves {case.mib(case.deq):.2f} and peaks at {case.mib(case.deq, False):.2f}."
    rows, lines = [row for row in (case.deq, case.tied, rival) if row is not None], Lines("depth", "Memory against depth")
    lines.view("saved for backward", "depth, or solver steps", "MiB saved for backward", log="xy")
    for row in rows:
        points = next(iter(depth_probe(row)[0].values()), [])
        lines.add(row.label, "", [(point.depth, point.saved_bytes * MIB) for point in points])
    colours = {row.label: to_hex(line_style(row.family, place // 2).colour) for place, row in enumerate(rows)}
    return Card(
        title="Memory",
        number=f"{case.ratio:.1f} \N{MULTIPLICATION SIGN}",
        unit=f"less saved for backward than {case.tied.label}",
        but=but,
        but_evidence=f"#cell={case.group.suite}/{case.group.name}/{(rival or case.deq).label}/peak live",
        evidence=_saved(case),
        more=("#claims-memory", "Claims on memory"),
        figure=next(iter(lines.done(colours)), None),
        shows="MiB saved for backward, by depth or solver steps",
    )


def _time(times: Finding, findings: Sequence[Finding]) -> Card:
    inference = next((one for one in findings if one.claim.id == "inference-time" and claim_figure(one)), None)
    figure = claim_figure(times)
    assert figure is not None
    return Card(
        title="Time",
        number=f"{span(findings, times.claim.id)} \N{MULTIPLICATION SIGN}",
        unit="the step time of the explicit network of its kind",
        but=f"A solve at test time takes {span(findings, inference.claim.id)} times as long as the weight-tied network."
        if inference
        else "Solves at test time were not timed.",
        but_evidence="#claim=inference-time" if inference else "#claims-time",
        evidence="#claim=training-time",
        more=("#claims-time", "Claims on time"),
        figure=figure,
        shows="A line a pair of models: seeds, mean and interval; dashed, what the paper says",
    )


def _quality(evidence: Evidence, found: Sequence[Contest]) -> Card:
    ahead = [one for one in found if one.outcome == "ahead"]
    shares = [(share, one) for one in found if (share := value(one.deq, TEST_CONVERGED)) is not None]
    but, converged = "Where a solve does not converge, its score is not causal.", "#guide"
    if shares:
        share, one = min(shares, key=lambda pair: pair[0])
        but = f"On {one.group.name} {significant(100 * share, 2)} % of the DEQ's test solves converge; others may see the future."
        converged = f"#cell={cell(one.deq, TEST_CONVERGED)}"
    first = (ahead or list(found))[0]
    return Card(
        title="Quality",
        number=f"{len(ahead)} of {len(found)}",
        unit="tasks on which the best DEQ beats the best explicit network of its size"
        + (f"; {ahead_in_equal_time(evidence, found)} if that may train for as long" if ahead else ""),
        but=but,
        but_evidence=converged,
        evidence=f"#cell={first.address(first.deq)}",
        more=("#claims-quality", "Claims on quality"),
        figure=outcomes(found),
        shows="A point a task, by what the seeds decide on the DEQ",
    )


def as_json(one: Answer) -> dict[str, Any]:
    """The figures of the cards, for the script."""
    return {card.title: card.figure for card in one.cards if card.figure is not None}
