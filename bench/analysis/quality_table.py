"""Time to equal quality as a table."""

import math
import statistics

from bench.analysis.aggregate import Group
from bench.analysis.grid import ARROWS, Cell, Line, Table, line
from bench.analysis.statistics import significant
from bench.analysis.time_to_quality import quality

_RULE = (
    "Target: the median over seeds of the final validation of the tied network, at the depth where that is best; of those with the "
    "fewest training steps. A time is the "
    "median over seeds of the training seconds until a validation first reaches it (evaluation not counted); never, where half of "
    "the seeds do not. The other columns are medians over seeds too, the test residual is the largest. Clocks with the machine to "
    "themselves."
)


def quality_table(group: Group) -> Table | None:
    """A line a row: how many runs reached the target and when, beside the tied network at its best depth; the final validation; how
    far the test was solved, and what its score is with the training's stops."""
    found = quality(group)
    if found is None:
        return None
    arrow = ARROWS["lower"]
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    for one in found.rows:
        label = one.row.label
        runs = tuple(record.run_id for record in one.row.ok)

        def number(value: float | None, digits: int = 3, unit: str = "", runs: tuple[str, ...] = runs) -> Cell:
            text = "—" if value is None else significant(value, digits) if math.isfinite(value) else "never"
            return Cell(text, value=value if value is not None and math.isfinite(value) else None, unit=unit, sources=runs)

        rows.append(
            line(
                f"{label} (the target)" if one is found.best else label,
                f"{one.row.ok[0].spec.train.steps:,}",
                Cell(f"{one.count}/{len(one.seconds)}", value=one.count, n=len(one.seconds), sources=runs),
                number(one.median, unit="s"),
                number(one.median / found.best.median),
                number(statistics.median(one.trained), unit="s"),
                number(statistics.median(one.final), 4, unit=found.unit),
                number(one.residual, 2),
                number(one.shift, 4),
                label=label,
                family=one.row.family,
            )
        )
        data += [
            {
                **{"suite": group.suite, "group": group.name, "label": label, "column": "seconds_to_target"},
                **{"seed": record.spec.seed, "value": seconds if math.isfinite(seconds) else None, "unit": "s"},
                **{"better": "lower", "target": found.target, "trained_s": trained, "final": final},
                "run_ids": record.run_id,
            }
            for record, seconds, trained, final in zip(one.row.ok, one.seconds, one.trained, one.final, strict=True)
        ]
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
        remarks=tuple(f"Runs, {one.row.label}: {', '.join(record.run_id for record in one.row.ok)}." for one in found.rows),
        data=tuple(data),
    )
