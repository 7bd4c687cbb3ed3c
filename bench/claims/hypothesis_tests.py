"""One-sided tests over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, nct, norm, permutation_test, t, ttest_1samp

from bench.analysis.statistics import LEVEL, Interval, Scale, over_seeds

EQUAL = "sign test of equal values"
_EXACT_FROM = 6  # with five seeds a sign-flip test has p >= 1/32, too large for any correction
_EXACT_TO = 16
_POWER = 0.8
_ROUNDING = 1e-12  # of the largest value: smaller differences count as none


@dataclass(frozen=True, kw_only=True)
class SeedTest:
    """Mean over seeds with its interval, and the p-values of the one-sided tests against a threshold.

    `p` is (mean is below, mean is above); None with fewer than three seeds or a value that has no logarithm.
    """

    estimate: Interval | None = None
    p: tuple[float, float] | None = None
    method: str


def seed_test(values: Sequence[float], threshold: float, scale: Scale) -> SeedTest:
    """Test the mean against the threshold: Student's t test, or all sign flips of 6 to 16 values.

    Equal values have no variance for a t test. Their exact sign test decides with five seeds or more.
    """
    if scale == "log" and min(values) <= 0:
        return SeedTest(method="no test: a value is not positive")
    estimate = over_seeds(values, scale)
    if len(values) < 3:
        return SeedTest(estimate=estimate, method=f"no test: {len(values)} of 3 seeds")
    p, method = _p_values(np.asarray(values, dtype=np.float64), threshold, scale)
    return SeedTest(estimate=estimate, p=p, method=method)


def _p_values(values: np.ndarray, threshold: float, scale: Scale) -> tuple[tuple[float, float], str]:
    distances = np.log(values) - math.log(threshold) if scale == "log" else values - threshold
    if np.ptp(distances) <= _ROUNDING * max(1.0, *np.abs(values)):
        return (_sign_test(distances), _sign_test(-distances)), EQUAL
    if _EXACT_FROM <= len(values) <= _EXACT_TO:
        return (_flip_test(distances), _flip_test(-distances)), "sign flips, exact"
    below, above = (float(ttest_1samp(distances, 0.0, alternative=side).pvalue) for side in ("less", "greater"))
    return (below, above), "t test"


def _sign_test(distances: np.ndarray) -> float:
    """p-value of so many negative values; values at the threshold do not count."""
    nonzero = distances[np.abs(distances) > _ROUNDING]
    return float(binomtest(int((nonzero < 0).sum()), len(nonzero), alternative="greater").pvalue) if len(nonzero) else 1.0


def _flip_test(distances: np.ndarray) -> float:
    """Share of all sign flips whose mean is as low as that of the values, or lower."""
    options = {"permutation_type": "samples", "alternative": "less", "n_resamples": 2**_EXACT_TO, "vectorized": True}
    return float(permutation_test((distances,), np.mean, **options).pvalue)


def seeds_needed(values: Sequence[float], limits: Sequence[float], scale: Scale) -> int | None:
    """How many seeds tell the mean from the limits in 80 % of cases, by a t test at 5 % one-sided, uncorrected, if it and its
    spread are those of the values, and at least one more than these; None where they are equal or at a limit. Of two limits the
    nearer counts.
    """
    data = np.log(values) if scale == "log" else np.asarray(values, dtype=np.float64)
    edges = [math.log(limit) if scale == "log" else limit for limit in limits]
    nearest, spread = min(abs(data.mean() - edge) for edge in edges), data.std(ddof=1)
    if nearest == 0 or spread <= _ROUNDING * max(1.0, *np.abs(data)):
        return None
    effect = nearest / spread
    n = max(len(data) + 1, math.ceil(((norm.ppf(LEVEL) + norm.ppf(_POWER)) / effect) ** 2))  # of a normal test: a few too small
    while nct.sf(t.ppf(LEVEL, n - 1), n - 1, effect * math.sqrt(n)) < _POWER:
        n += 1
    return n


def bound(failures: int, n: int) -> str:
    """The 95 % confidence bounds on the share of seeds that fail, in words (Clopper and Pearson 1934)."""
    side = "less" if failures == 0 else "greater" if failures == n else "two-sided"
    interval = binomtest(failures, n, alternative=side).proportion_ci(LEVEL)
    low, high = f"{100 * interval.low:.0f}", f"{100 * interval.high:.0f}"
    share = {"less": f"at most {high}", "greater": f"at least {low}", "two-sided": f"{low} to {high}"}[side]
    return f"{failures} of {n} seeds fail: {share} % do, at 95 %"


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for each other (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    p[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return [float(value) for value in p]
