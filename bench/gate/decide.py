"""When a difference of times is one: paired log-ratios of base and head, a robust interval, and the noise of the very job.

Each round runs base, head and base again in fresh processes, in random order. The ratio of head to base (both its runs' geometric
mean) is the effect, that of base to itself the noise: the floor is the half-width of its 95 % interval, what identical code can
seem to differ by. Slower is what is slower by more than the threshold, 3 % or twice the floor where that is more, with an interval
that leaves out 0; passed is what is surely not slower by 3 %; more rounds decide what lies between. A 20 % trimmed mean with Tukey
and McLaughlin's interval keeps a process that somebody else slowed down from deciding anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["pass", "regression", "faster", "inconclusive"]
LEAST = math.log1p(0.03)
ROUNDS = 6  # before anything is decided
_TRIM = 0.2


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Log-ratio of head to base with its 95 % interval, the floor and the threshold (log-ratios too), and what follows."""

    rounds: int
    mean: float
    low: float
    high: float
    floor: float
    threshold: float
    verdict: Verdict


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The trimmed mean and the half-width of its 95 % interval; infinite with fewer than three values."""
    n = len(values)
    cut = int(_TRIM * n)
    kept = n - 2 * cut
    if kept < 2 or n < 3:
        return (float(np.mean(values)) if n else 0.0), math.inf
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    middle = float(ordered[cut : n - cut].mean())
    spread = float(np.clip(ordered, ordered[cut], ordered[n - cut - 1]).std(ddof=1))
    error = spread * math.sqrt(n - 1) / math.sqrt(kept * (kept - 1))
    return middle, float(stats.t.ppf(0.975, kept - 1)) * error


def decide(effects: Sequence[float], noise: Sequence[float]) -> Effect:
    """From each round's log-ratios: of head to base, and of base to itself."""
    mean, half = interval(effects)
    _, floor = interval(noise)
    threshold = max(LEAST, 2 * floor)
    verdict: Verdict = "inconclusive"
    if len(effects) >= ROUNDS and math.isfinite(half) and math.isfinite(floor):
        if mean > threshold and mean - half > 0:
            verdict = "regression"
        elif mean < -threshold and mean + half < 0:
            verdict = "faster"
        elif mean + half < LEAST:
            verdict = "pass"
    return Effect(
        rounds=len(effects), mean=mean, low=mean - half, high=mean + half, floor=floor, threshold=threshold, verdict=verdict
    )
