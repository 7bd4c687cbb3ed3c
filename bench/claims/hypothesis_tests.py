"""Two models on the same seeds: an interval for their ratio or difference, and both one-sided tests against a threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest, permutation_test, ttest_1samp

from bench.analysis.statistics import LEVEL, Interval, Scale, over_seeds

EXACT_FROM = 6  # pairs: with five the smallest p-value of a sign-flip test is 1/32 on one side, and nothing survives a correction
_MOST = 16  # pairs whose sign flips are all tried
_ROUNDING = 1e-12  # of the largest value: what differs by less is equal
EQUAL = "sign test of equal values"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The mean of paired differences (of logarithms, on the log scale) with its interval, and the one-sided p-values.

    `below`: the probability of means so far below the threshold, or farther, were the truth at it; `above`: the same on the other
    side. None where the design cannot tell: fewer than three pairs, or a value that has no logarithm, and then no estimate either.
    `samples` are what was averaged: a ratio, difference or value a seed.
    """

    estimate: Interval | None
    below: float | None
    above: float | None
    method: str
    samples: tuple[float, ...]


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], threshold: float, scale: Literal["log", "linear"]
) -> Tested | None:
    """Ours over theirs (log scale) or less theirs (linear), on the seeds that both have, against a threshold; None without seeds.

    Student's t test on the differences; with six pairs or more all sign flips instead, which assume their symmetry alone.
    """
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    if scale == "linear":
        return tested([a - b for a, b in pairs], threshold, "linear")
    return tested([a / b if b > 0 else 0.0 for a, b in pairs], threshold, "log")


def tested(values: Sequence[float], threshold: float, scale: Scale) -> Tested:
    """The same of values that are ratios or differences already, or of one model alone.

    Equal values have no spread, so that a t test has nothing to judge by (its p would be 0). They have the exact sign test, which
    asks on which side of the threshold more than half of all seeds lie: with fewer than five it decides nothing.
    """
    if scale == "log" and min(values) <= 0:
        return Tested(estimate=None, below=None, above=None, method="no test: a value is not positive", samples=tuple(values))
    estimate = over_seeds(values, scale)
    if len(values) < 3:
        return Tested(estimate=estimate, below=None, above=None, method=f"no test: {len(values)} of 3 seeds", samples=tuple(values))
    distances = np.asarray(values, dtype=np.float64) - threshold
    if scale == "log":
        distances = np.log(np.asarray(values, dtype=np.float64)) - math.log(threshold)
    if np.ptp(distances) <= _ROUNDING * max(1.0, *np.abs(values)):
        below, above = (_sign(side) for side in (distances, -distances))
        return Tested(estimate=estimate, below=below, above=above, method=EQUAL, samples=tuple(values))
    if EXACT_FROM <= len(values) <= _MOST:
        below, above = (_flips(distances, side) for side in ("less", "greater"))
        return Tested(estimate=estimate, below=below, above=above, method="sign flips, exact", samples=tuple(values))
    below = float(ttest_1samp(distances, 0.0, alternative="less").pvalue)
    return Tested(estimate=estimate, below=below, above=1 - below, method="t test", samples=tuple(values))


def _sign(distances: np.ndarray) -> float:
    """The probability of as many values below, or more, were half of all below; what is at the threshold counts on no side."""
    apart = distances[np.abs(distances) > _ROUNDING]
    return float(binomtest(int((apart < 0).sum()), len(apart), 0.5, alternative="greater").pvalue) if len(apart) else 1.0


def bound(failures: int, n: int) -> str:
    """What so many failures of n seeds say of the share that fails, at 95 % (Clopper and Pearson 1934)."""
    said = f"{failures} of {n} seeds fail: "
    if failures == 0:
        return said + f"at most {100 * binomtest(0, n, alternative='less').proportion_ci(LEVEL).high:.0f} % do, at 95 %"
    if failures == n:
        return said + f"at least {100 * binomtest(n, n, alternative='greater').proportion_ci(LEVEL).low:.0f} % do, at 95 %"
    both = binomtest(failures, n).proportion_ci(LEVEL)
    return said + f"{100 * both.low:.0f} to {100 * both.high:.0f} % do, at 95 %"


def _flips(distances: np.ndarray, side: str) -> float:
    """The share of all sign flips whose mean is as low (or as high) as the one found, or more so."""
    found = permutation_test(
        (distances,), np.mean, permutation_type="samples", alternative=side, n_resamples=2**_MOST, vectorized=True
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, each multiplied so that a wrong rejection among all of them is as improbable as stated (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
