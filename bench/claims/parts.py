"""Build the parts of a claim: facts, and tests over seeds. Values are by seed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Literal

from bench.analysis.statistics import Scale, written
from bench.claims.claim import Part, Source
from bench.claims.hypothesis_tests import EQUAL, bound, seed_test, seeds_needed

Sources = tuple[Source, ...]
BySeed = Mapping[int, float]
_SMALL_LOSS, _SMALL_FACTOR = 0.2, 1.1  # below so many nats a margin is a factor


def cannot_tell(about: str, value: str, asked: str, sources: Sources, note: str) -> Part:
    """A number that rests on what is not known well enough."""
    return Part(about=about, value=value, asked=asked, verdict="cannot tell", fact=True, note=note, sources=sources)


def fact(about: str, value: str, asked: str, met: bool, sources: Sources, note: str = "") -> Part:
    """A count, with its verdict."""
    verdict: Literal["holds", "does not hold"] = "holds" if met else "does not hold"
    return Part(about=about, value=value, asked=asked, verdict=verdict, fact=True, note=note, sources=sources)


def ratios(ours: BySeed, theirs: BySeed) -> dict[int, float]:
    """Ratios on the seeds that both have; 0, which has no logarithm, over a value that is not positive."""
    return {seed: ours[seed] / theirs[seed] if theirs[seed] > 0 else 0.0 for seed in sorted(ours.keys() & theirs.keys())}


def differences(ours: BySeed, theirs: BySeed) -> dict[int, float]:
    """Differences on the seeds that both have."""
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def excess(subject: str, names: tuple[str, str], loss: BySeed, other: BySeed, most: float, sources: Sources) -> Part:
    """Require that a loss exceeds another by at most `most` nats; a small one by at most a factor of 1.1. `names`: of the two."""
    ours, theirs = names
    if other and median(other.values()) < _SMALL_LOSS:
        return mean_within(f"{subject}: {ours} over {theirs}", ratios(loss, other), "log", sources, high=_SMALL_FACTOR)
    more = differences(loss, other)
    return mean_within(f"{subject}: {ours} less {theirs}", more, "linear", sources, high=most, unit=" nats")


def mean_within(
    about: str,
    values: BySeed,
    scale: Scale,
    sources: Sources = (),
    low: float = -math.inf,
    high: float = math.inf,
    unit: str = "",
) -> Part:
    """Require that the mean over seeds lies above `low`, below `high`, or between both: then both one-sided tests must hold."""
    asked = f"from {low:.3g} to {high:.3g}" if low > -math.inf else f"below {high:g}"
    asked = f"above {low:g}" if high == math.inf else asked
    samples = tuple(values.values())
    limits = (low if math.isfinite(low) else None, high if math.isfinite(high) else None)
    part = Part(about=about, value="—", asked=f"{asked}{unit}", sources=sources, samples=samples, limits=limits)
    if not samples:
        return replace(part, verdict="not tested", note="no seeds in common")
    tests = [(limit, seed_test(samples, limit, scale)) for limit in (low, high) if math.isfinite(limit)]
    _, test = tests[-1]
    if test.estimate is not None:
        part = replace(part, value=f"{written(test.estimate)}{unit}", estimate=test.estimate)
    p_values = [one.p if limit == high else one.p[::-1] for limit, one in tests if one.p is not None]  # for, against
    if not p_values:
        return replace(part, verdict="inconclusive", note=test.method)
    note = f"{test.method}, {len(samples)} seeds"
    if test.method == EQUAL:
        note += f"; {bound(sum(not low < sample < high for sample in samples), len(samples))}"
    p_for, p_against = (list(column) for column in zip(*p_values, strict=True))
    needed = seeds_needed(samples, [limit for limit, _ in tests], scale)
    return replace(part, p_for=max(p_for), p_against=min(1.0, len(tests) * min(p_against)), note=note, needed=needed)
