"""Tests over seeds against scipy and by simulation."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from cases import exhaustive
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.claims.claim import Claim, Finding, Part, judge_claims
from bench.claims.hypothesis_tests import bound, holm, seed_test, seeds_needed
from bench.claims.parts import mean_within, ratios

pytestmark = pytest.mark.end_to_end


def judge(*parts: Part) -> Finding:
    text = {name: name for name in ("says", "where", "measured", "statistic", "threshold", "needs")}
    (found,) = judge_claims([Claim(id="c", judge=lambda _: list(parts), **text)], None)  # type: ignore[arg-type]
    return found


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def seeds(values: Iterable[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_t_test_of_pairs() -> None:
    ours, theirs = {0: 1.2, 1: 1.5, 2: 1.1, 7: 9.0}, {0: 2.0, 1: 2.2, 2: 2.9, 8: 1.0}  # 7 and 8 have no partner
    found = mean_within("a", ratios(ours, theirs), "log", high=0.9)
    distances = [math.log(ours[seed] / theirs[seed]) - math.log(0.9) for seed in (0, 1, 2)]
    expected = stats.ttest_1samp(distances, 0.0, alternative="less").pvalue
    assert (found.p_for, found.p_against) == pytest.approx((expected, 1 - expected))
    assert len(found.samples) == 3


def test_sign_flips_from_six_values() -> None:
    values = [0.5, 0.7, 0.9, 1.3, 0.4, 0.8]
    found = seed_test(values, 1.0, "linear")
    centred = (np.asarray(values) - 1.0,)
    for p, side in zip(found.p or (), ("less", "greater"), strict=True):
        assert p == pytest.approx(
            stats.permutation_test(centred, np.mean, permutation_type="samples", alternative=side, n_resamples=np.inf).pvalue
        )
    assert "sign flips" in found.method
    exact = seed_test([0.1] * 6 + [0.2], 1.0, "log").p
    assert exact is not None
    assert exact[0] == 1 / 2**7


@pytest.mark.parametrize("n", [1, 2])
def test_no_test_with_fewer_than_three_seeds(n: int) -> None:
    part = mean_within("a", seeds([1e-9] * n), "log", high=1.0)
    assert (part.p_for, part.verdict, part.note) == (None, "inconclusive", f"no test: {n} of 3 seeds")


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_no_test_of_a_value_without_a_logarithm(ours: float, theirs: float) -> None:
    part = mean_within("a", ratios(seeds([1.0, ours, 1.0]), seeds([1.0, theirs, 1.0])), "log", high=1.0)
    assert (part.value, part.verdict, part.note) == ("—", "inconclusive", "no test: a value is not positive")


@pytest.mark.parametrize("effect", [0.4, 1.0, 3.0])
def test_seeds_needed_give_the_power(effect: float) -> None:
    values = effect + np.array([-1.0, 1.0]) / 2**0.5  # of deviation 1
    n = seeds_needed(values.tolist(), [0.0], "linear")
    assert n is not None

    def power(seeds: int) -> float:
        draws = np.random.default_rng(0).normal(effect, 1.0, (20_000, seeds))
        return float((stats.ttest_1samp(draws, 0.0, axis=1, alternative="greater").pvalue < 0.05).mean())

    assert power(n) > 0.79
    assert power(n - 1) < 0.81 or n == 3
    assert seeds_needed(np.exp(values).tolist(), [1.0, 1e9], "log") == n


def test_no_seeds_are_needed_where_nothing_spreads() -> None:
    assert seeds_needed([2.0, 2.0, 2.0], [1.0], "linear") is None


def test_no_test_without_common_seeds() -> None:
    assert mean_within("a", ratios({0: 1.0}, {1: 1.0}), "log", high=1.0).verdict == "not tested"


@pytest.mark.parametrize(("n", "verdict"), [(3, "inconclusive"), (4, "inconclusive"), (5, "holds"), (8, "holds"), (20, "holds")])
@pytest.mark.parametrize("spread", [0.0, 1e-16])
def test_equal_values_have_an_exact_sign_test_and_a_bound(n: int, verdict: str, spread: float) -> None:
    part = mean_within("a", seeds(1.0 - spread * (seed % 2) for seed in range(n)), "fraction", low=0.99)  # 1e-16 is rounding
    assert (part.p_for, part.p_against) == pytest.approx((0.5**n, 1.0))
    assert judge(part).verdict == verdict
    most = 100 * (1 - 0.05 ** (1 / n))  # 0 of n fail
    assert part.note == f"sign test of equal values, {n} seeds; 0 of {n} seeds fail: at most {most:.0f} % do, at 95 %"
    failing = mean_within("a", seeds([0.5] * n), "fraction", low=0.99)
    assert judge(failing).verdict == ("does not hold" if verdict == "holds" else verdict)
    assert failing.note.endswith(f"{n} of {n} seeds fail: at least {100 - most:.0f} % do, at 95 %")


def test_equal_values_at_the_threshold_decide_nothing() -> None:
    assert seed_test([0.99] * 5, 0.99, "linear").p == (1.0, 1.0)


def test_equal_ratios_within_two_limits_have_a_bound() -> None:
    part = mean_within("a", seeds([1.0] * 5), "log", low=1 / 1.2, high=1.2)
    assert part.note == "sign test of equal values, 5 seeds; 0 of 5 seeds fail: at most 45 % do, at 95 %"
    assert judge(part).verdict == "holds"


@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3),
    st.integers(3, 12),
    st.floats(0.02, 0.98),
    st.sampled_from(["log", "fraction"]),
)
@settings(max_examples=60, deadline=None)
def test_p_values_are_positive(values: list[float], n: int, threshold: float, scale: Any) -> None:
    found = seed_test([values[seed % len(values)] for seed in range(n)], threshold, scale)
    assert found.p is not None
    if len({*values}) == 1:
        assert min(found.p) >= 0.5**n
        assert max(found.p) == 1.0
    assert 0 < min(found.p) <= max(found.p) <= 1


def test_a_small_spread_never_gives_a_p_of_zero() -> None:
    below, above = seed_test([0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.5 + 2e-9, 0.5], 0.02, "linear").p or (0.0, 0.0)
    assert below == pytest.approx(1.0)
    assert 0 < above < 1e-30  # a t of 9e8 with four degrees of freedom


def test_from_seventeen_values_a_t_test() -> None:
    values = np.random.default_rng(0).normal(0.5, 1.0, 17).tolist()
    assert seed_test(values[:-1], 0.0, "linear").method == "sign flips, exact"
    assert seed_test(values, 0.0, "linear").method == "t test"


def test_bound_is_clopper_pearson() -> None:
    assert bound(0, 3) == "0 of 3 seeds fail: at most 63 % do, at 95 %"
    low, high = stats.beta.ppf(0.025, 2, 4), stats.beta.ppf(0.975, 3, 3)
    assert bound(2, 5) == f"2 of 5 seeds fail: {100 * low:.0f} to {100 * high:.0f} % do, at 95 %"


@pytest.mark.parametrize("n", [3, *exhaustive(5, 6, 8)])
def test_false_positive_rate_of_one_test(n: int) -> None:
    random = np.random.default_rng(n)
    tests = (seed_test(np.exp(random.normal(0.0, 0.5, n)).tolist(), 1.0, "log") for _ in range(1500))
    wrong = sum(test.p is not None and test.p[0] < 0.05 for test in tests)
    assert wrong / 1500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_false_positive_rate_of_a_claim_with_many_parts() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(250):
        samples = [seeds(random.normal(1.0, 0.2, 5).tolist()) for _ in range(8)]
        wrong += judge(*(mean_within("a", one, "linear", high=1.0) for one in samples)).verdict != "inconclusive"
    assert wrong / 250 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 250)


@pytest.mark.parametrize(("values", "verdict"), [
    ([1.0, 1.01, 0.99], "holds"), ([0.5, 0.51, 0.49], "does not hold"),
    ([2.0, 2.1, 1.9], "does not hold"), ([1.0, 1.4, 0.7], "inconclusive"),
])  # fmt: skip
def test_a_ratio_within_two_limits_is_tested_on_both_sides(values: list[float], verdict: str) -> None:
    part = mean_within("a", seeds(values), "log", low=1 / 1.2, high=1.2)
    assert judge(part).verdict == verdict


def test_evidence_against_one_of_two_limits_counts_twice() -> None:
    values = [1.25, 1.5, 1.32]
    _, above = seed_test(values, 1.2, "log").p or (0.0, 0.0)
    assert mean_within("a", seeds(values), "log", low=1 / 1.2, high=1.2).p_against == pytest.approx(2 * above)
