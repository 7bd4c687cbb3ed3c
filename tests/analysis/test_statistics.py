"""Intervals cover what they say, agree with scipy and with a table of Student's t, and refuse what has none."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.analysis.statistics import Interval, Scale, growth, interval, proportion, significant, written


def test_three_values_by_hand() -> None:
    # mean 2, standard error 1 / sqrt(3), t(2; 0.975) = 4.302653 from the printed tables
    found = interval([1.0, 2.0, 3.0], "linear")
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_agrees_with_scipy(n: int) -> None:
    values = np.random.default_rng(n).lognormal(0.3, 0.4, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    linear = interval(values.tolist(), "linear")
    assert (linear.mean, linear.low, linear.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    logs = np.log(values)
    low, high = np.exp(stats.t.interval(0.95, n - 1, logs.mean(), stats.sem(logs)))
    log = interval(values.tolist(), "log")
    assert (log.mean, log.low, log.high) == pytest.approx((stats.gmean(values), low, high), rel=1e-12)


@pytest.mark.parametrize(("scale", "truth"), [("linear", 5.0), ("log", math.exp(0.5))])
def test_covers_95_percent_with_three_seeds(scale: Scale, truth: float) -> None:
    """Nominal within four standard errors of 4000 trials (1.4 %): a percentile bootstrap covers 74 % here."""
    generator = np.random.default_rng(0)
    samples = generator.normal(5, 2, (4000, 3)) if scale == "linear" else generator.lognormal(0.5, 0.8, (4000, 3))
    intervals = [interval(sample.tolist(), scale) for sample in samples]
    covered = np.mean([one.low <= truth <= one.high for one in intervals if one.low is not None and one.high is not None])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_log_scale_cannot_reach_below_zero_where_linear_does() -> None:
    values = [0.01, 0.1, 1.0]
    assert interval(values, "log").mean == pytest.approx(0.1)
    low, linear_low = interval(values, "log").low, interval(values, "linear").low
    assert low is not None
    assert linear_low is not None
    assert linear_low < 0 < low


@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_interval_of_a_proportion_is_exact(n: int) -> None:
    for found in range(n + 1):
        one, expected = proportion(found, n), stats.binomtest(found, n).proportion_ci(0.95, method="exact")
        assert (one.mean, one.low, one.high) == pytest.approx((found / n, expected.low, expected.high), abs=1e-12)


def test_fractions_are_clipped() -> None:
    found = interval([0.9, 1.0, 1.0], "fraction")
    assert found.high == 1.0
    assert found.low is not None
    assert 0 < found.low < 0.9667
    assert interval([0.0, 0.05, 0.0], "fraction").low == 0.0


def test_one_value_has_no_interval_and_equal_values_come_back_unchanged() -> None:
    assert interval([7.0], "log") == Interval(mean=7.0, low=None, high=None, n=1, scale="log")
    count = 131_071.0  # exp(log(131071)) is another number
    assert interval([count] * 3, "log") == Interval(mean=count, low=count, high=count, n=3, scale="log")


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0], [-math.inf]])
@pytest.mark.parametrize("scale", ["linear", "log", "fraction"])
def test_no_interval_of_nothing_or_of_what_is_not_finite(values: list[float], scale: Scale) -> None:
    with pytest.raises(ValueError, match=r"no values|not finite"):
        interval(values, scale)


@pytest.mark.parametrize(
    ("values", "scale"), [([0.0, 1.0], "log"), ([-1.0], "log"), ([0.5, 1.1], "fraction"), ([-0.1], "fraction")]
)
def test_values_off_the_scale_are_refused(values: list[float], scale: Scale) -> None:
    with pytest.raises(ValueError, match=r"positive|\[0, 1\]"):
        interval(values, scale)


def test_a_log_interval_too_wide_for_a_float_stays_finite() -> None:
    found = interval([1e-300, 1e300], "log")
    assert found.high is not None
    assert math.isfinite(found.high)


def test_apart_means_no_common_point_and_needs_two_intervals() -> None:
    low, high = interval([1.0, 1.1, 1.2], "linear"), interval([2.0, 2.1, 2.2], "linear")
    assert low.apart(high)
    assert high.apart(low)
    assert not low.apart(interval([1.1, 1.6, 2.1], "linear"))
    assert not low.apart(interval([9.0], "linear"))
    assert not interval([5.0, 5.0], "linear").apart(interval([5.0, 5.0], "linear"))


DEPTHS = [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("amounts", "verdict", "slope"),
    [
        ([1000.0] * 7, "constant", 0.0),
        ([1000.0 + d / 10 for d in DEPTHS], "constant", 0.1),
        ([1e6 + 8192.0 * d for d in DEPTHS], "linear", 8192.0),
        ([100 + 50 * math.sqrt(d) for d in DEPTHS], "sublinear", None),
        ([100.0 + 50 * (math.isqrt(d - 1) + 1) for d in DEPTHS], "sublinear", None),
        ([100.0 * min(d, 5) for d in DEPTHS], "bounded", None),
        ([10.0 + d**2 for d in DEPTHS], "superlinear", None),
        ([1000.0 - 10 * d for d in DEPTHS], "unclear", -10.0),
        ([1.0, 900, 2, 1000, 3, 500, 4], "unclear", None),
    ],
)
def test_growth_has_a_word_for_each_law(amounts: list[float], verdict: str, slope: float | None) -> None:
    found = growth(DEPTHS, amounts)
    assert found.verdict == verdict
    if slope is not None:
        assert found.slope == pytest.approx(slope, abs=1e-9)


def test_two_depths_tell_no_law_and_one_none_at_all() -> None:
    assert growth([1, 2], [1.0, 2.0]).verdict == "unclear"
    with pytest.raises(ValueError, match="two depths"):
        growth([4, 4], [1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.3456, "2.35"),
        (12_345.6, "12,346"),
        (0.00123, "0.00123"),
        (4.56e-5, "4.56e-5"),
        (-0.5, "-0.500"),
        (3e12, "3.00e12"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value, 3) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((2.3146, 2.2991, 2.3301), "2.315 [2.299, 2.330]"),
        ((2.3, 0.1, 4.5), "2.3 [0.1, 4.5]"),
        ((123.4, 100.0, 150.0), "123 [100, 150]"),
        ((1.0, 1e-3, 1e3), "1.0 [0.0010, 1,000]"),
        ((5.0e-4, 4.0e-4, 6.0e-4), "5.0e-4 [4.0e-4, 6.0e-4]"),
        ((1.0, 1.0 - 1e-9, 1.0 + 1e-9), "1.0000 [1.0000, 1.0000]"),
    ],
)
def test_an_interval_is_written_with_two_digits_of_its_width(numbers: tuple[float, float, float], text: str) -> None:
    mean, low, high = numbers
    assert written(Interval(mean=mean, low=low, high=high, n=3, scale="linear")) == text


def test_what_has_no_spread_is_written_alone() -> None:
    assert written(interval([1_234_567.0], "log"), counted=True) == "1,234,567"
    assert written(interval([196_608.0] * 3, "log"), factor=1 / 1024, counted=True) == "192"
    assert written(interval([2.34567], "log")) == "2.35"
