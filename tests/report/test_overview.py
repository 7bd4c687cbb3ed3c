"""Figures over all suites: which tasks and rows they show, and what their titles say."""

import itertools

import matplotlib.style
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_report import comparison, record

from bench.analysis.aggregate import Group, groups
from bench.records.record import measured
from bench.records.spec import ComponentConfig
from bench.report.overview import learning_curves, score_and_cost
from bench.report.style import STYLE, method_colours


def broad(suite: str, **losses: float) -> Group:
    """A comparison of four families, two seeds each: the test loss of some rows is given."""
    records = []
    for label in ("DEQ (Anderson)", "tied 12", "LSTM", "GRU"):
        for seed in (0, 1):
            one = record(label, seed, suite=suite)
            if label == "GRU":  # a family of its own
                one = one.model_copy(update={"spec": one.spec.model_copy(update={"model": ComponentConfig(name="tcn")})})
            if (loss := losses.get(label.split()[0])) is not None:
                scores = {
                    f"{split}_loss": one.measures[f"{split}_loss"].model_copy(update={"value": loss}) for split in ("valid", "test")
                }
                one = one.model_copy(update={"measures": one.measures | scores})
            records.append(one)
    return groups(suite, records)[0]


def test_a_point_a_family_with_its_name_and_the_outcome_in_the_title() -> None:
    with matplotlib.style.context(["default", STYLE]):
        figure = score_and_cost([broad("a", LSTM=1e-4)])
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {"DEQ (Anderson)", "tied 12", "LSTM", "GRU"}
        heights = sorted(text.get_position()[1] for text in axes.texts)
        assert min(b - a for a, b in itertools.pairwise(heights)) > 0.09  # no two names on one line
    title = figure.get_suptitle().replace("\n", " ")
    assert title == "The best DEQ next to the best of each other family: of 1 tasks behind on 1"


@pytest.mark.parametrize(("solved", "hollow"), [(1.0, 0), (0.5, 1)])
def test_an_inadmissible_score_is_a_hollow_point_with_an_entry_in_the_legend(solved: float, hollow: int) -> None:
    group, share = broad("a"), measured(solved, "1", "m", "s")
    records = [
        one.model_copy(update={"measures": one.measures | {"eval_converged_fraction": share}}) if "DEQ" in one.spec.label else one
        for one in group.records
    ]
    with matplotlib.style.context(["default", STYLE]):
        figure = score_and_cost(groups("a", records))
    assert figure is not None
    for axes in figure.axes:
        points = [one for one in axes.lines if one.get_marker() != "None"]
        assert [one.get_markerfacecolor() == "white" for one in points].count(True) == hollow
    assert len(figure.legends) == hollow


@pytest.mark.parametrize("draw", [score_and_cost, learning_curves])
def test_of_two_comparisons_on_a_task_the_broader_is_shown_and_a_narrow_one_never(draw) -> None:  # type: ignore[no-untyped-def]
    narrow = groups("quick", comparison())[0]
    assert draw([narrow]) is None
    with matplotlib.style.context(["default", STYLE]):
        figure = draw([narrow, broad("a")])
    assert {axes.get_title(loc="left") for axes in figure.axes} == {"copy T30"}


def test_curves_say_how_much_they_still_change() -> None:
    group = broad("a")
    with matplotlib.style.context(["default", STYLE]):
        figure = learning_curves([group])
    assert figure is not None
    (axes,) = figure.axes
    ends = [line.get_ydata() for line in axes.lines if line.get_linewidth() > 1 and len(line.get_xdata()) == 11]
    changes = [100 * abs(1 - y[-1] / y[-2]) for y in ends]
    assert len(changes) == 4
    assert f"by {min(changes):.1g} to {max(changes):.0f} %" in figure.get_suptitle().replace("\n", " ")


def test_scores_of_zero_and_rows_without_a_time_are_drawn() -> None:
    group = broad("a")
    for row in group.rows:
        for one in row.finals:
            one.curve[:] = [point.model_copy(update={"valid": {"loss": 0.0}}) for point in one.curve]
    untimed = [
        one.model_copy(
            update={"measures": {name: m for name, m in one.measures.items() if name not in ("train_s", "step_ms_median")}}
        )
        for one in group.records
    ]
    with matplotlib.style.context(["default", STYLE]):
        assert learning_curves([group]) is not None
        assert score_and_cost([groups("a", untimed)[0]]) is None  # memory alone is no panel of time


def test_a_solver_has_one_colour_in_all_figures() -> None:
    alone = method_colours(["DEQ, broyden"])
    among = method_colours(["tied", "DEQ, anderson", "DEQ, broyden", "picard"])
    assert alone["DEQ, broyden"] == among["DEQ, broyden"]
    assert len(set(among.values())) == 4
