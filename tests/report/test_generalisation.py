"""Figures of test parts: the means at their numbers, in order; nothing where a run lacks a part."""

import pytest
from test_report import record

from bench.analysis.aggregate import Group, groups
from bench.records.metric import Metric
from bench.records.record import Record, measured
from bench.report.generalisation import by_difficulty, by_length
from bench.report.html.figures import comparison_figures
from bench.report.style import assign_styles


def with_parts(score: str, values: list[dict[str, float]]) -> Group:
    """A group of one row with a run a seed, whose values are by the ending of the metric's name."""
    metrics = {f"{score}_{part}": Metric(unit="fraction", better="higher", chance=0.25) for part in values[0]}
    records: list[Record] = []
    for seed, parts in enumerate(values):
        one = record("LSTM", seed)
        measures = {f"test_{score}_{part}": measured(value, "fraction", "m", "s") for part, value in parts.items()}
        records.append(one.model_copy(update={"metrics": one.metrics | metrics, "measures": one.measures | measures}))
    return groups("quick", records)[0]


@pytest.mark.parametrize(
    ("draw", "score", "letter", "scale"),
    [(by_length, "accuracy_last", "T", "log"), (by_difficulty, "solved", "b", "linear"), (by_difficulty, "solved", "n", "linear")],
)
def test_a_line_has_the_mean_of_each_part_in_the_order_of_their_numbers(draw, score, letter, scale) -> None:  # type: ignore[no-untyped-def]
    group = with_parts(
        score,
        [{f"{letter}8": 0.75, f"{letter}16": 0.5, f"{letter}4": 1.0}, {f"{letter}8": 0.25, f"{letter}16": 0.0, f"{letter}4": 1.0}],
    )
    figure = draw(group, assign_styles([group]))
    (axes,) = figure.axes
    mean, *seeds, chance = axes.lines
    assert list(mean.get_xdata()) == [4, 8, 16]
    assert list(mean.get_ydata()) == [1.0, 0.5, 0.25]
    assert [list(seed.get_ydata()) for seed in seeds] == [[1.0, 0.75, 0.5], [1.0, 0.25, 0.0]]
    assert list(chance.get_ydata()) == [0.25, 0.25]
    assert axes.get_xscale() == scale
    assert (by_difficulty if draw is by_length else by_length)(group, assign_styles([group])) is None


def test_a_letter_of_a_users_task_is_named_by_its_metric() -> None:
    group = with_parts("accuracy_last", [{"L8": 0.75, "L16": 0.5}])
    figure = by_length(group, assign_styles([group]))
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "accuracy last L"


def test_the_page_has_the_same_parts() -> None:
    group = with_parts("solved", [{"b8": 0.75, "b16": 0.5}, {"b8": 0.25, "b16": 0.5}])
    figures = {one["id"]: one for one in comparison_figures(group, assign_styles([group]))}
    (view,) = figures["length"]["views"]
    assert (view["x"], view["log"], view["limits"]) == ("blanks of the test puzzles", "", [[0.25, "chance"]])
    assert [figures["length"]["lists"][series[3]] for series in view["series"] if not series[1]] == [(0.5, 0.5)]


def test_one_part_is_no_figure_and_a_run_without_a_part_no_line() -> None:
    group = with_parts("solved", [{"b8": 0.5}])
    assert by_difficulty(group, assign_styles([group])) is None
    group = with_parts("solved", [{"b8": 0.5, "b9": 0.5}, {"b8": 0.5}])
    assert by_difficulty(group, assign_styles([group])) is None
