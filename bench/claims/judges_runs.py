"""What the suites' runs say of a claim: models paired by seed, tested against a threshold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.statistics import written
from bench.claims.claim import Part
from bench.claims.evidence import Evidence, by_seed, runs
from bench.claims.hypothesis_tests import EQUAL, Tested, bound, paired, tested

Judge = Callable[[Evidence], Sequence[Part]]
Side = Literal["below", "above"]


def part(about: str, found: Tested | None, threshold: float, side: Side, unit: str, *rows: ResultRow, suite: str) -> Part:
    """A test's outcome as a part."""
    sources = (runs(suite, *rows),) if rows else ()
    asked = f"{side} {threshold:g}{unit}"
    if found is None:
        return Part(about=about, value="—", asked=asked, verdict="not tested", note="no seeds in common", sources=sources)
    value = "—" if found.estimate is None else f"{written(found.estimate)}{unit}"
    if found.below is None or found.above is None or found.estimate is None:
        return Part(
            about=about,
            value=value,
            asked=asked,
            verdict="inconclusive",
            note=found.method,
            samples=found.samples,
            sources=sources,
        )
    p_for, p_against = (found.below, found.above) if side == "below" else (found.above, found.below)
    note = f"{found.method}, {found.estimate.n} seeds"
    if found.method == EQUAL:
        failures = sum(value >= threshold if side == "below" else value <= threshold for value in found.samples)
        note += f"; {bound(failures, found.estimate.n)}"
    return Part(
        about=about,
        value=value,
        asked=asked,
        p_for=p_for,
        p_against=p_against,
        note=note,
        samples=found.samples,
        sources=sources,
    )


def between(
    about: str, ours: Mapping[int, float], theirs: Mapping[int, float], low: float, high: float, *rows: ResultRow, suite: str
) -> Part:
    """Whether a ratio paired by seed lies between two: both one-sided tests must say so."""
    under, over = paired(ours, theirs, low, "log"), paired(ours, theirs, high, "log")
    made = replace(part(about, over, high, "below", "", *rows, suite=suite), asked=f"from {low:.3g} to {high:.3g}")
    if under is None or over is None or made.p_for is None:
        return made
    ends = [p or 0.0 for p in (under.above, over.below, under.below, over.above)]  # none is None where p_for is none
    if over.method == EQUAL:
        failures = sum(not low < value < high for value in over.samples)
        made = replace(made, note=f"{EQUAL}, {len(over.samples)} seeds; {bound(failures, len(over.samples))}")
    return replace(made, p_for=max(ends[:2]), p_against=min(1.0, 2 * min(ends[2:])))


def against(
    suite: str, group: Group, ours: ResultRow, theirs: ResultRow, measure: str, threshold: float, side: Side = "below"
) -> Part:
    """Ours over theirs, paired by seed."""
    about = f"{group.name}: {ours.label} over {theirs.label}"
    found = paired(by_seed(ours, measure), by_seed(theirs, measure), threshold, "log")
    return part(about, found, threshold, side, "", ours, theirs, suite=suite)


def compared(suite: str, group: Group, ours: ResultRow, theirs: ResultRow, measure: str, low: float, high: float) -> Part:
    """Whether ours over theirs, paired by seed, lies between two ratios."""
    about = f"{group.name}: {ours.label} over {theirs.label}"
    return between(about, by_seed(ours, measure), by_seed(theirs, measure), low, high, ours, theirs, suite=suite)


def _named(group: Group, *labels: str) -> Iterator[ResultRow]:
    """The group's rows whose label begins with one of these."""
    yield from (row for row in group.rows if row.label.startswith(labels))


# Each DEQ beside the explicit networks of its own kind.
_KIN = {
    "DEQ (Anderson)": ("tied 12",),
    "DEQ-Transformer": ("tied Transformer 12", "Transformer-XL 4", "Transformer-XL 12, tied"),
    "DEQ-TrellisNet": ("TrellisNet 32",),
}


def _kin(evidence: Evidence, suites: Sequence[str]) -> Iterator[tuple[str, Group, ResultRow, ResultRow]]:
    for suite in suites:
        for group in evidence.groups(suite):
            by_label = {row.label: row for row in group.rows}
            for deq, explicit in _KIN.items():
                for other in explicit:
                    if deq in by_label and other in by_label:
                        yield suite, group, by_label[deq], by_label[other]
    for suite in evidence.own:
        for group in evidence.groups(suite):
            families = {family: [row for row in group.rows if row.family == family] for family in ("deq", "tied")}
            yield from ((suite, group, ours, theirs) for ours in families["deq"] for theirs in families["tied"])


def perplexity_on_par(evidence: Evidence) -> list[Part]:
    """Perplexity of a DEQ over that of the explicit networks of its kind, at equal parameters; loss in a user's own suite."""
    return [
        against(suite, group, ours, theirs, "test_perplexity" if by_seed(ours, "test_perplexity") else "test_loss", 1.05)
        for suite, group, ours, theirs in _kin(evidence, ("text", "small"))
        if by_seed(ours, "test_perplexity") or suite in evidence.own
    ]


def copying(rival: str, threshold: float) -> Judge:
    """Copy memory at the paper's length: the DEQ's loss over a rival's."""

    def judge(evidence: Evidence) -> list[Part]:
        return [
            against("copy", group, deq, other, "test_loss", threshold)
            for group in evidence.groups("copy")
            for deq in _named(group, "DEQ")
            for other in _named(group, rival)
        ]

    return judge


def recurrent_at_chance(evidence: Evidence) -> list[Part]:
    """The recurrent networks' loss over that of a predictor without memory."""
    parts = []
    for group in evidence.groups("copy"):
        for row in _named(group, "LSTM", "GRU"):
            chance = {r.spec.seed: metric.chance for r in row.ok if (metric := r.metrics["loss"]).chance is not None}
            parts.append(
                between(
                    f"{group.name}: {row.label} over chance", by_seed(row, "test_loss"), chance, 1 / 1.1, 1.1, row, suite="copy"
                )
            )
    return parts


def converges(evidence: Evidence) -> list[Part]:
    """The share of a trained DEQ's test solves that meet their tolerance."""
    parts = []
    for suite, group, row in evidence.deqs("smoke", "text", "small", "copy"):
        shares = by_seed(row, "eval_converged_fraction")
        if shares and "phantom" not in row.label and "energy" not in row.label:
            found = tested(list(shares.values()), 0.99, "fraction")
            parts.append(part(f"{group.name}: {row.label}", found, 0.99, "above", "", row, suite=suite))
    return parts


def stacking(evidence: Evidence) -> list[Part]:
    """The loss of two stacked DEQs over that of one of equal parameters."""
    return [
        against("small", group, stack, one, "test_loss", 0.95, "above")
        for group in evidence.groups("small")
        for stack in _named(group, "DEQ-Transformer, stack of 2")
        for one in group.rows
        if one.label == "DEQ-Transformer"
    ]


def trained_by_another_solver(evidence: Evidence) -> list[Part]:
    """The loss of a model trained and tested with one solver over that with another."""
    pairs = (("smoke", "DEQ (Broyden)", "DEQ (Anderson)"), ("small", "DEQ-TrellisNet, Picard", "DEQ-TrellisNet"))
    parts = []
    for suite, one, other in pairs:
        for group in evidence.groups(suite):
            by_label = {row.label: row for row in group.rows}
            if one in by_label and other in by_label:
                parts.append(compared(suite, group, by_label[one], by_label[other], "test_loss", 1 / 1.1, 1.1))
    return parts


def any_cell(evidence: Evidence) -> list[Part]:
    """A DEQ over each cell beside the explicit network of that cell, on every task of suite small."""
    parts = []
    for group in evidence.groups("small"):
        by_label = {row.label: row for row in group.rows}
        for deq, explicit in (("DEQ-Transformer", "tied Transformer 12"), ("DEQ-TrellisNet", "TrellisNet 32")):
            if deq in by_label and explicit in by_label:
                parts.append(against("small", group, by_label[deq], by_label[explicit], "test_loss", 1.1))
    return parts


def slower(low: float, high: float) -> Judge:
    """Milliseconds of a training step over those of the explicit networks of its kind, between two ratios."""

    def judge(evidence: Evidence) -> list[Part]:
        kin = _kin(evidence, ("smoke", "text", "small", "copy"))
        return [compared(suite, group, ours, theirs, "step_ms_median", low, high) for suite, group, ours, theirs in kin]

    return judge
