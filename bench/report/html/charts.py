"""The kinds of interactive plots, as Vega-Lite templates made by Altair; the page's script puts data, titles and scales in.

Datasets: `rows`, one object a mark; `front`, the line along the best of a trade-off; `limits`, thresholds and other guides.
"""

from typing import Any

import altair as alt

_ROWS, _FRONT, _LIMITS = (alt.NamedData(name=name) for name in ("rows", "front", "limits"))
_PICK = "pick"
_NUMBER = ".4~g"


def templates() -> dict[str, dict[str, Any]]:
    """A Vega-Lite specification for each kind of plot: lines, points, bars, parts, outcomes."""
    return {name: chart().to_dict() for name, chart in _KINDS.items()}


def _tips(*fields: str) -> list[Any]:
    """What a mark shows when hovered: names as they are, numbers (`x`, `y`, `low`, `high`) with four digits."""
    numbers = ("x", "y", "low", "high")
    return [
        alt.Tooltip(f"{one}:{'Q' if one in numbers else 'N'}", **({"format": _NUMBER} if one in numbers else {})) for one in fields
    ]


def _pick() -> Any:
    return alt.selection_point(fields=["series"], bind="legend", name=_PICK)


def _zoom(*axes: str) -> Any:
    """Drag pans, Shift and the wheel zoom (the wheel alone scrolls the page), a double click resets."""
    return alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]", name="zoom", encodings=list(axes or ("x", "y")))


def _shown(high: float, low: float = 0.06) -> Any:
    return alt.condition(alt.param(name=_PICK, empty=True), alt.value(high), alt.value(low))


def _lines() -> Any:
    """Thick lines are means, thin ones runs; both have a point wherever a value is. Colour and dash tell series apart."""
    colour = alt.Color("series:N", legend=alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeWidth=2))
    base = alt.Chart(_ROWS).encode(alt.X("x:Q"), alt.Y("y:Q"), colour, detail="run:N")
    mean, run = ("datum.mean", "!datum.mean")
    tips = _tips("series", "x", "y", "run")
    dashed = base.encode(alt.StrokeDash("series:N"))
    thin = dashed.transform_filter(run).mark_line(strokeWidth=0.8).encode(opacity=_shown(0.35, 0.03))
    thick = dashed.transform_filter(mean).mark_line(strokeWidth=2.2, clip=True).encode(opacity=_shown(1))
    dots = base.mark_point(filled=True, clip=True).encode(
        size=alt.condition(mean, alt.value(28), alt.value(12)),
        opacity=_shown(0.9, 0.03),
        tooltip=tips,
    )
    limits = alt.Chart(_LIMITS).mark_rule(strokeDash=[4, 3], opacity=0.6).encode(alt.Y("y:Q"), tooltip=_tips("text", "y"))
    return alt.layer(limits, thin, thick, dots.add_params(_pick(), _zoom()))


def _points() -> Any:
    """Score against cost: means with both intervals, hollow where a score does not count; the line along those that none beats."""
    base = alt.Chart(_ROWS).encode(alt.X("x:Q"), alt.Y("y:Q"), alt.Color("series:N"))
    tips = _tips("model", "series", "x", "x interval", "y", "y interval", "score", "runs")
    front = alt.Chart(_FRONT).mark_line(interpolate="step-after", opacity=0.45, strokeWidth=1.2).encode(alt.X("x:Q"), alt.Y("y:Q"))
    across = base.mark_rule(clip=True).encode(x="low:Q", x2="high:Q", opacity=_shown(0.4))
    upright = base.mark_rule(clip=True).encode(y="ylow:Q", y2="yhigh:Q", opacity=_shown(0.4))
    shape = alt.Shape("series:N", legend=None)
    dots = base.mark_point(filled=True, size=95, stroke="white", strokeWidth=0.7).encode(shape, opacity=_shown(1), tooltip=tips)
    counts = dots.transform_filter("datum.score == 'counts'").add_params(_pick(), _zoom())
    hollow = base.transform_filter("datum.score != 'counts'").mark_point(filled=False, size=80, strokeWidth=1.8)
    hollow = hollow.encode(shape, opacity=_shown(1), tooltip=tips)
    names = base.encode(text="model:N", opacity=_shown(1))
    above = names.transform_filter("datum.named > 0").mark_text(align="left", dx=8, dy=-7, fontSize=11)
    below = names.transform_filter("datum.named < 0").mark_text(align="left", dx=8, dy=10, fontSize=11)
    return alt.layer(front, across, upright, above, below, hollow, counts)


def _bars() -> Any:
    """Stacked bars, one a model."""
    return (
        alt.Chart(_ROWS)
        .mark_bar()
        .encode(
            alt.X("x:Q"),
            alt.Y("model:N", sort=None, title=None),
            alt.Color("series:N"),
            order="place:Q",
            opacity=_shown(1),
            tooltip=_tips("model", "series", "x"),
        )
        .add_params(_pick())
    )


def _parts() -> Any:
    """A claim: a line a part, with every seed, the interval of the mean, and the limits that are asked."""
    where = alt.Y("part:N", sort=None, title=None)
    base = alt.Chart(_ROWS).encode(where)
    limits = alt.Chart(_LIMITS).mark_rule(strokeDash=[4, 3], opacity=0.7).encode(alt.X("x:Q"), tooltip=_tips("text", "x"))
    interval = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=3, opacity=0.55, clip=True)
    mean = base.transform_filter("isValid(datum.mean)").mark_tick(thickness=3, size=16)
    seed = base.transform_filter("datum.seed").mark_point(filled=True, size=30, opacity=0.75)
    return alt.layer(
        limits,
        interval.encode(alt.X("low:Q"), alt.X2("high:Q"), tooltip=_tips("part", "low", "high")),
        mean.encode(alt.X("mean:Q"), tooltip=_tips("part", "found", "asked")),
        seed.encode(alt.X("x:Q"), tooltip=_tips("part", "seed", "x")).add_params(_zoom("x")),
    )


def _outcomes() -> Any:
    """A point a task, in a column by outcome."""
    return (
        alt.Chart(_ROWS)
        .mark_point(filled=True, size=150, opacity=1)
        .encode(
            alt.X("outcome:N", sort=None, title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False)),
            alt.Y("place:O", sort="descending", axis=None),
            alt.Color("series:N"),
            tooltip=_tips("task", "DEQ", "explicit"),
        )
    )


_KINDS = {"lines": _lines, "points": _points, "bars": _bars, "parts": _parts, "outcomes": _outcomes}
