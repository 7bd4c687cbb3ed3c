"""Two models on the same seeds: an interval for their ratio or difference, and both one-sided tests against a threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from scipy.special import stdtr

from bench.statistics import Interval, interval

EXACT_FROM = 6  # pairs: with five the smallest p-value of a sign-flip test is 1/32 on one side, and nothing survives a correction
_MOST = 16  # pairs whose sign flips are all tried


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


def tested(values: Sequence[float], threshold: float, scale: Literal["log", "linear"]) -> Tested:
    """The same of values that are ratios or differences already, or of one model alone."""
    if scale == "log" and min(values) <= 0:
        return Tested(estimate=None, below=None, above=None, method="no test: a value is not positive", samples=tuple(values))
    estimate = interval(values, scale)
    if len(values) < 3:
        return Tested(estimate=estimate, below=None, above=None, method=f"no test: {len(values)} of 3 seeds", samples=tuple(values))
    distances = np.asarray(values, dtype=np.float64) - threshold
    if scale == "log":
        distances = np.log(np.asarray(values, dtype=np.float64)) - math.log(threshold)
    if EXACT_FROM <= len(values) <= _MOST:
        return Tested(
            estimate=estimate,
            below=_flips(distances),
            above=_flips(-distances),
            method="sign flips, exact",
            samples=tuple(values),
        )
    below = _student(distances)
    return Tested(estimate=estimate, below=below, above=1 - below, method="t test", samples=tuple(values))


def _student(distances: np.ndarray) -> float:
    spread = float(distances.std(ddof=1)) / math.sqrt(len(distances))
    mean = float(distances.mean())
    if spread == 0:
        return 0.0 if mean < 0 else 1.0 if mean > 0 else 0.5
    return float(stdtr(len(distances) - 1, mean / spread))


def _flips(distances: np.ndarray) -> float:
    """The share of sign flips whose mean is as low as the one found, or lower."""
    signs = np.asarray(list(product((-1.0, 1.0), repeat=len(distances))))
    means = signs @ np.abs(distances)
    return float((means <= distances.sum() + 1e-12 * np.abs(distances).sum()).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, each multiplied so that a wrong rejection among all of them is as improbable as stated (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
