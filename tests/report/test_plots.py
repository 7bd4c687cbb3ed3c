"""Figures: one style a label in a suite, nothing covered, nothing drawn that is not there."""

import csv
import io
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from test_report import METRICS, MODELS, comparison, record

from bench.analysis.aggregate import Group, groups
from bench.analysis.statistics import interval
from bench.analysis.tables import group_tables
from bench.records.metric import Metric
from bench.records.record import CurvePoint, Record, measured
from bench.report import curves, plots
from bench.report.figures import render
from bench.report.report import csv_text
from bench.report.style import STYLE, assign_styles, line_style


@pytest.fixture(scope="module")
def group() -> Group:
    return groups("quick", comparison())[0]


def drawn(name: str, group: Group, *arguments: Any) -> Figure:
    with matplotlib.style.context(["default", STYLE]):
        figure = getattr(curves if hasattr(curves, name) else plots, name)(group, assign_styles([group]), *arguments)
        assert isinstance(figure, Figure)
    return figure


def edited(records: list[Record], point: dict[str, object]) -> list[Record]:
    return [one.model_copy(update={"curve": [p.model_copy(update=point) for p in one.curve]}) for one in records]


def test_a_label_has_one_style_in_all_groups_and_no_two_share_it() -> None:
    first = groups("quick", [record(label, 0, group="a") for label in MODELS])
    second = groups("quick", [record(label, 0, group="b") for label in ("GRU", "LSTM")])
    found = assign_styles([*first, *second])
    assert found == assign_styles([*second, *first])
    assert set(found) == set(MODELS)
    assert len({(style.colour, str(style.dash), style.marker) for style in found.values()}) == len(MODELS)
    blue = found["DEQ (Anderson)"].colour
    assert blue == matplotlib.colors.to_rgb("#0072B2")
    assert found["tied 12"].colour[0] > found["tied 12"].colour[2]  # another hue: more red than blue


def test_curves_show_mean_seeds_chance_and_direction(group: Group) -> None:
    left, right = drawn("learning_curves", group).axes
    assert left.get_yscale() == right.get_yscale() == "log"
    assert left.get_ylabel() == "validation loss [nats], ↓ better"
    assert [axes.get_xlabel() for axes in (left, right)] == ["training steps", "training time without evaluation [s]"]
    assert [text.get_text() for text in left.texts] == ["chance"]  # an optimum of 0 has no place on a log axis
    row = next(row for row in group.rows if row.label == "DEQ (Anderson)")
    mean, seeds = left.lines[0], left.lines[1]
    assert list(mean.get_xdata())[-1] == 400
    assert seeds.get_linewidth() < mean.get_linewidth()
    assert seeds.get_color() == mean.get_color()
    shown = {y for x, y in zip(seeds.get_xdata(), seeds.get_ydata(), strict=True) if x == 400}
    assert shown == {one.curve[-1].valid["loss"] for one in row.ok}


# Seeds far apart: their geometric mean is not their arithmetic one.
ENDS = {
    "loss": (1e-4, 2e-2, 1e-3),
    "perplexity": (2.0, 900.0, 30.0),
    "accuracy_last10": (1.0, 0.1, 0.7),
    "excess_nats": (-0.1, 2.0, 0.3),
}


@pytest.mark.parametrize("headline", ENDS)
@pytest.mark.parametrize("clocked", [True, False])
def test_a_curve_ends_at_the_value_of_the_table(headline: str, clocked: bool) -> None:
    metric = {
        "loss": Metric(unit="nats", better="lower"),
        "perplexity": Metric(unit="1", better="lower"),
        "accuracy_last10": Metric(unit="fraction", better="higher"),
        "excess_nats": Metric(unit="nats", better="lower"),
    }[headline]
    records = []
    for seed, end in enumerate(ENDS[headline]):
        one = record("LSTM", seed)
        curve = [CurvePoint(step=step, seconds=step * 2.0**seed, train_loss=1.0, valid={headline: end}) for step in (100, 200)]
        measures = one.measures | {
            f"valid_{headline}": measured(end, metric.unit, "m", "s"),
            "train_s": measured(200 * 2.0**seed if clocked else None, "s", "m", "s", "contended"),
            "step_ms_median": measured(10.0**seed, "ms", "m", "s"),
        }
        records.append(
            one.model_copy(update={"headline": headline, "metrics": {headline: metric}, "curve": curve, "measures": measures})
        )
    (group,) = groups("quick", records)
    left, right = drawn("learning_curves", group).axes
    lines = list(csv.DictReader(io.StringIO(csv_text(group_tables(group)[0]))))
    (table,) = [float(line["mean"]) for line in lines if line["column"] == f"valid_{headline}"]
    assert [list(axes.lines[0].get_ydata())[-1] for axes in (left, right)] == pytest.approx([table] * 2, rel=1e-12)
    cost = next(one for one in group_tables(group) if one.kind == "cost")
    means = {line["column"]: line["mean"] for line in cost.data}
    seconds = means["train_s"] if clocked else 200 * means["step_ms_median"] / 1e3
    assert [list(axes.lines[0].get_xdata())[-1] for axes in (left, right)] == pytest.approx([200.0, seconds], rel=1e-12)


def test_an_accuracy_headline_is_linear_with_both_references() -> None:
    records = [record("LSTM", seed).model_copy(update={"headline": "accuracy_last10"}) for seed in (0, 1)]
    left, _ = drawn("learning_curves", groups("quick", records)[0]).axes
    assert left.get_yscale() == "linear"
    assert left.get_ylabel() == "validation accuracy last10 [fraction], ↑ better"
    assert [text.get_text() for text in left.texts] == ["chance", "optimum"]


def test_a_value_that_is_not_positive_keeps_the_axis_linear() -> None:
    records = edited([record("LSTM", 0)], {"valid": {"loss": 0.0}})
    assert drawn("learning_curves", groups("quick", records)[0]).axes[0].get_yscale() == "linear"


def test_legends_name_failures_and_lie_outside_the_panels(group: Group) -> None:
    figure = drawn("learning_curves", group)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert "LSTM (2/3 ok)" in [text.get_text() for text in legend.get_texts()]
    assert "GRU" not in " ".join(text.get_text() for text in legend.get_texts())
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_memory_shows_every_method_and_solver_storage_dashed(group: Group) -> None:
    figure = drawn("memory", group)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["DEQ, anderson", "DEQ, broyden", "DEQ, picard", "tied", "solver storage"]
    left, right = figure.axes
    assert left.get_xscale() == left.get_yscale() == "log"
    solid = [line for line in left.lines if line.get_linestyle() == "-"]
    assert len(solid) == 4
    assert len(left.lines) - len(solid) == 3
    assert len({line.get_linewidth() for line in solid[:3]}) == 3  # equal counts: each can be seen next to the others
    assert len(right.lines) == 4


def test_tradeoff_has_a_panel_a_cost_and_a_point_a_row_with_its_intervals(group: Group) -> None:
    figure = drawn("tradeoff", group)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == [
        "FLOPs of training [TFLOP], ↓ better",
        "peak memory of a step [MiB], ↓ better",
        "training time [s], ↓ better",
    ]
    for axes in panels:
        points = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert len(points) == len([row for row in group.rows if row.ok])
    row = next(row for row in group.rows if row.ok)
    loss = interval([one.value("test_loss") for one in row.ok], "log")  # type: ignore[misc]
    first = panels[1].lines.index(next(line for line in panels[1].lines if len(line.get_xdata()) == 1))
    across, point = panels[1].lines[first - 1], panels[1].lines[first]
    assert list(point.get_xdata()) == [pytest.approx(row.ok[0].value("peak_live_bytes") / 2**20)]
    assert list(point.get_ydata()) == [pytest.approx(loss.mean)]
    assert list(panels[1].lines[0].get_ydata()) == pytest.approx([loss.low, loss.high])
    assert len(set(across.get_xdata())) <= 2
    least = [line for line in panels[1].lines if line.get_drawstyle() == "steps-post"]
    assert len(least) == 1
    heights = list(least[0].get_ydata())
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == min(float(line.get_ydata()[0]) for line in panels[1].lines if len(line.get_xdata()) == 1)


def test_nothing_to_draw_draws_nothing() -> None:
    failed = groups("quick", [record("GRU", 0, status="oom", reason="too big")])[0]
    assert render("comparison", failed, assign_styles([failed])) == {}


def test_text_of_records_is_never_mathematics() -> None:
    metric = Metric(unit="$x_{", better="lower")
    one = record("LSTM", 0).model_copy(update={"metrics": METRICS | {"loss": metric}})
    group = groups("quick", [one])[0]
    figure = drawn("learning_curves", group)
    FigureCanvasAgg(figure).draw()  # an unbalanced formula would raise here
    assert r"\$x_{" in figure.axes[0].get_ylabel()


def test_one_point_is_a_marker() -> None:
    one = record("LSTM", 0).model_copy(update={"curve": [CurvePoint(step=5, seconds=1.0, train_loss=1.0, valid={"loss": 1.0})]})
    (left, _) = drawn("learning_curves", groups("quick", [one])[0]).axes
    assert left.lines[0].get_marker() == "^"


def test_a_long_legend_makes_the_figure_higher_and_covers_nothing() -> None:
    """Twenty rows: the panels keep their height, the legend's top stays below them and their labels."""
    deq = record("DEQ (Anderson)", 0)
    rows = [
        deq.model_copy(update={"spec": deq.spec.model_copy(update={"label": f"model number {n} with a long name"})})
        for n in range(20)
    ]
    for records in (rows[:2], rows):
        figure = drawn("learning_curves", groups("s", records)[0])
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)  # type: ignore[union-attr]
        assert all(axes.get_window_extent().height > 120 for axes in figure.axes)


def test_rows_of_one_family_differ_in_colour_or_marker() -> None:
    found = {(style.colour, style.marker) for style in (line_style("deq", index) for index in range(20))}
    assert len(found) == 20


def test_letters_are_of_matplotlibs_own_fonts() -> None:
    """A system's fonts of the same name have glyphs of other numbers, and files would differ by machine."""
    found, own = (Path(path).resolve() for path in (findfont("DejaVu Sans"), matplotlib.get_data_path()))
    assert found.is_relative_to(own)
