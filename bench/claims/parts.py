"""Build the parts of a claim: facts, and tests over seeds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from bench.analysis.statistics import written
from bench.claims.claim import Part, Source
from bench.claims.hypothesis_tests import EQUAL, SeedTest, bound, paired_test

Sources = tuple[Source, ...]


def fact(about: str, value: str, asked: str, met: bool, sources: Sources, note: str = "") -> Part:
    """A count, with its verdict."""
    verdict: Literal["holds", "does not hold"] = "holds" if met else "does not hold"
    return Part(about=about, value=value, asked=asked, verdict=verdict, fact=True, note=note, sources=sources)


def one_sided(
    about: str, test: SeedTest | None, side: Literal["below", "above"], limit: float, sources: Sources = (), unit: str = ""
) -> Part:
    """Require that a mean over seeds is below or above a limit; `test` must be against that limit."""
    part = Part(about=about, value="—", asked=f"{side} {limit:g}{unit}", sources=sources)
    if test is None:
        return replace(part, verdict="not tested", note="no seeds in common")
    value = "—" if test.estimate is None else f"{written(test.estimate)}{unit}"
    part = replace(part, value=value, samples=test.samples)
    if test.p is None:
        return replace(part, verdict="inconclusive", note=test.method)
    note = f"{test.method}, {len(test.samples)} seeds"
    if test.method == EQUAL:
        failures = sum(sample >= limit if side == "below" else sample <= limit for sample in test.samples)
        note += f"; {bound(failures, len(test.samples))}"
    p_for, p_against = test.p if side == "below" else test.p[::-1]
    return replace(part, p_for=p_for, p_against=p_against, note=note)


def within(
    about: str, ours: Mapping[int, float], theirs: Mapping[int, float], low: float, high: float, sources: Sources = ()
) -> Part:
    """Require that a ratio paired by seed lies between two limits: both one-sided tests must hold."""
    lower, upper = paired_test(ours, theirs, low, "log"), paired_test(ours, theirs, high, "log")
    part = replace(one_sided(about, upper, "below", high, sources), asked=f"from {low:.3g} to {high:.3g}")
    if lower is None or upper is None or lower.p is None or upper.p is None:
        return part
    if upper.method == EQUAL:
        n, failures = len(upper.samples), sum(not low < sample < high for sample in upper.samples)
        part = replace(part, note=f"{EQUAL}, {n} seeds; {bound(failures, n)}")
    return replace(part, p_for=max(lower.p[1], upper.p[0]), p_against=min(1.0, 2 * min(lower.p[0], upper.p[1])))
