"""Who is beaten by whom: against the definition, checked pair by pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import comparison, record

from bench.analysis.aggregate import Group, ResultRow, groups
from bench.analysis.statistics import Interval
from bench.analysis.tradeoff import ParetoPoint, costs, front, parameters
from bench.records.record import Measure


def point(cost: float, score: float) -> ParetoPoint:
    def exactly(value: float) -> Interval:
        return Interval(mean=value, low=None, high=None, n=1, scale="linear")

    return ParetoPoint(row=ResultRow(label="a", family="deq", finals=()), cost=exactly(cost), score=exactly(score))


def beats(a: ParetoPoint, b: ParetoPoint, sign: int) -> bool:
    mine, other = (a.cost.mean, sign * a.score.mean), (b.cost.mean, sign * b.score.mean)
    return mine[0] <= other[0] and mine[1] <= other[1] and mine != other


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12), st.sampled_from([1, -1]))
def test_the_front_is_whom_nobody_beats(pairs: list[tuple[int, int]], sign: int) -> None:
    points = [point(*pair) for pair in pairs]
    found = [(p.cost.mean, p.score.mean) for p in front(points, "lower" if sign == 1 else "higher")]
    wanted = {(p.cost.mean, p.score.mean) for p in points if not any(beats(other, p, sign) for other in points)}
    assert found == sorted(wanted)


def quick(**values: float | None) -> Group:
    """One row of one seed with these measures."""
    one = record("LSTM", 0)
    measures = {
        name: Measure(value=value, unit="?", method="m", scope="s", reason=None if value is not None else "busy")
        for name, value in values.items()
    }
    return groups("quick", [one.model_copy(update={"measures": one.measures | measures})])[0]


def test_what_a_step_costs_is_taken_times_its_steps_in_the_unit_that_is_named() -> None:
    group = quick(train_step_flops=2e9, step_ms_median=5.0, train_s=None, peak_live_bytes=3.0 * 2**20, energy_J=7.0)
    steps = group.rows[0].ok[0].spec.train.steps
    found = costs(group)
    assert found is not None
    means = {cost.unit: cost.points[0].cost.mean for cost in found[1] if cost.unit != "s"}
    assert means == pytest.approx({"TFLOP": 2e-3 * steps, "MiB": 3.0, "J": 7.0})
    (seconds,) = [cost for cost in found[1] if cost.unit == "s"]
    assert seconds.head == "training time, step timed alone"
    assert seconds.points[0].cost.mean == pytest.approx(5e-3 * steps)


def test_the_trainings_own_clock_is_taken_where_every_row_has_it() -> None:
    found = costs(quick(train_s=12.0, step_ms_median=5.0))
    assert found is not None
    (seconds,) = [cost for cost in found[1] if cost.unit == "s"]
    assert (seconds.head, seconds.points[0].cost.mean) == ("training time", 12.0)


def test_one_row_without_its_clock_is_enough_for_the_steps_to_be_taken() -> None:
    group = groups("quick", comparison())[0]
    found = costs(group)
    assert found is not None
    assert "training time" in {cost.head for cost in found[1]}
    one, *rest = (r for row in group.rows for r in row.finals)
    blind = one.measures["train_s"].model_copy(update={"value": None, "reason": "busy"})
    found = costs(groups("quick", [one.model_copy(update={"measures": one.measures | {"train_s": blind}}), *rest])[0])
    assert found is not None
    heads = {cost.head for cost in found[1]}
    assert "training time" not in heads
    assert "training time, step timed alone" in heads


def test_a_row_without_a_cost_or_a_score_has_no_point() -> None:
    found = costs(quick(energy_J=None, train_step_flops=0.0))
    assert found is not None
    assert not {"J", "TFLOP"} & {cost.unit for cost in found[1]}
    failed = groups("quick", [record("GRU", 0, status="oom", reason="too big")])[0]
    assert costs(failed) is None
    assert parameters(failed) is None


def test_parameters_are_those_of_the_least_and_the_largest_row() -> None:
    group = groups("quick", comparison())[0]
    counts = [r.value("parameters_total") for row in group.rows for r in row.ok]
    assert parameters(group) == (min(counts), max(counts))  # type: ignore[type-var]
