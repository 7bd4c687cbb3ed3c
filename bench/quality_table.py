"""Time to equal quality as a table and as a figure."""

import math
import statistics

from matplotlib.axes import Axes

from bench.columns import Group
from bench.quality import Reached, quality
from bench.statistics import significant
from bench.tables import ARROWS, Entry, Table

_RULE = (
    "Target: the median over seeds of the final validation of the tied network, at the depth where that is best; of those with the "
    "fewest training steps. A time is the "
    "median over seeds of the training seconds until a validation first reaches it (evaluation not counted); never, where half of "
    "the seeds do not. The other columns are medians over seeds too, the test residual is the largest. Clocks with the machine to "
    "themselves."
)
Drawn = list[tuple[Reached, float, float]]


def _number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else significant(value, digits) if math.isfinite(value) else "never"


def quality_table(group: Group) -> Table | None:
    """A line a row: how many runs reached the target and when, beside the tied network at its best depth; the final validation; how
    far the test was solved, and what its score is with the training's stops."""
    found = quality(group)
    if found is None:
        return None
    arrow = ARROWS["lower"]
    rows, runs = [], []
    data: list[dict[str, object]] = []
    for one in found.rows:
        relative = one.median / found.best.median
        said = "(the target)" if one is found.best else ""
        rows.append(
            (
                Entry(f"{one.row.label} {said}".strip()),
                Entry(f"{one.row.ok[0].spec.train.steps:,}"),
                Entry(f"{one.count}/{len(one.seconds)}"),
                Entry(_number(one.median)),
                Entry(_number(relative)),
                Entry(_number(statistics.median(one.trained))),
                Entry(_number(statistics.median(one.final), 4)),
                Entry(_number(one.residual, 2)),
                Entry(_number(one.shift, 4)),
            )
        )
        runs.append(f"Runs, {one.row.label}: {', '.join(record.run_id for record in one.row.ok)}.")
        for record, seconds, trained, final in zip(one.row.ok, one.seconds, one.trained, one.final, strict=True):
            data.append(
                {
                    **{"suite": group.suite, "group": group.name, "label": one.row.label, "column": "seconds_to_target"},
                    **{"seed": record.spec.seed, "value": seconds if math.isfinite(seconds) else None, "unit": "s"},
                    **{"better": "lower", "target": found.target, "trained_s": trained, "final": final},
                    "run_ids": record.run_id,
                }
            )
    target = f"{significant(found.target, 4)} {found.unit}"
    return Table(
        ending="quality",
        title=f"{group.name}: time to equal quality",
        caption=f"Target: {target} of validation {found.headline}, the end of {found.best.row.label}.",
        rule=_RULE,
        heads=(
            ("model", ""),
            ("steps", ""),
            ("reached (runs)", ""),
            (f"to the target {arrow}", "s"),
            (f"relative {arrow}", ""),
            ("whole training", "s"),
            (f"final valid {found.headline}", found.unit),
            ("test residual p99", ""),
            ("as trained / solved", ""),
        ),
        rows=tuple(rows),
        remarks=tuple(runs),
        data=tuple(data),
    )


def drawn(group: Group) -> tuple[Drawn, float]:
    """(row, median residual of its training solves, seconds to the target) of every DEQ that got there, and the tied network's
    seconds; no rows where there is nothing to draw."""
    found = quality(group)
    if found is None:
        return [], math.nan
    points = [(one, one.unsolved, one.median) for one in found.rows if one.unsolved is not None and math.isfinite(one.median)]
    return points, found.best.median


def reference(axes: Axes, highest: float, seconds: float) -> None:
    """The axes' labels, and the tied network's time as a line."""
    axes.set_ylim(0, 1.15 * highest)
    axes.set_xlabel("median relative residual of training solves")
    axes.set_ylabel("training until the target (s) ↓")
    axes.axhline(seconds, color="0.45", linewidth=1.0, linestyle=(0, (4, 2)))
    axes.annotate(
        "tied, at its best depth",
        (0.5, seconds),
        xytext=(0, -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="center",
        va="top",
        color="0.35",
    )
