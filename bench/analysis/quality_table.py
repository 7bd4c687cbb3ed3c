"""Time to equal quality as a table."""

import math
import statistics
from collections.abc import Sequence

from bench.analysis.aggregate import Group
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, line
from bench.analysis.statistics import significant
from bench.analysis.time_to_quality import Reached, quality

_RULE = (
    "Target: the median over seeds of the final validation of the tied network, at the depth where that is best; of those with the "
    "fewest training steps. A time is the "
    "median over seeds of the training seconds until a validation first reaches it (evaluation not counted); never, where half of "
    "the seeds do not. The other columns are medians over seeds too, the test residual is the largest. Clocks with the machine to "
    "themselves."
)


def quality_table(group: Group) -> Table | None:
    """How many runs of each row reached the target and when, its final validation, and how far its test was solved."""
    found = quality(group)
    if found is None:
        return None
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    for one in found.rows:
        label, times = one.row.label, [seconds if math.isfinite(seconds) else None for seconds in one.seconds]
        reached = [
            Sample(f"seed {run.spec.seed}", seconds, run.run_id, "never reached the target" if seconds is None else "")
            for run, seconds in zip(one.row.ok, times, strict=True)
        ]
        rows.append(
            line(
                f"{label} (the target)" if one is found.best else label,
                f"{one.row.ok[0].spec.train.steps:,}",
                Cell(f"{one.count}/{len(one.seconds)}", value=one.count, samples=tuple(reached)),
                _cell(one.median, 3, "s", reached),
                _cell(one.median / found.best.median, 3, "", reached),
                _cell(statistics.median(one.trained), 3, "s", _samples(one, one.trained)),
                _cell(statistics.median(one.final), 4, found.unit, _samples(one, one.final)),
                _cell(one.residual, 2),
                _cell(one.shift, 4),
                label=label,
                family=one.row.family,
            )
        )
        data += [
            {
                **{"suite": group.suite, "group": group.name, "label": label, "column": "seconds_to_target"},
                **{"seed": record.spec.seed, "value": seconds, "unit": "s", "better": "lower", "target": found.target},
                **{"trained_s": trained, "final": final, "run_ids": record.run_id},
            }
            for record, seconds, trained, final in zip(one.row.ok, times, one.trained, one.final, strict=True)
        ]
    return Table(
        ending="quality",
        title=f"{group.name}: time to equal quality",
        caption=f"Target: {significant(found.target, 4)} {found.unit} of validation {found.headline}, the end of "
        f"{found.best.row.label}.",
        rule=_RULE,
        heads=(
            *(("model", ""), ("steps", ""), ("reached (runs)", ""), (f"to the target {ARROWS['lower']}", "s")),
            *((f"relative {ARROWS['lower']}", ""), ("whole training", "s"), (f"final valid {found.headline}", found.unit)),
            *(("test residual p99", ""), ("as trained / solved", "")),
        ),
        rows=tuple(rows),
        remarks=tuple(f"Runs, {one.row.label}: {', '.join(record.run_id for record in one.row.ok)}." for one in found.rows),
        data=tuple(data),
    )


def _samples(row: Reached, values: Sequence[float]) -> list[Sample]:
    return [Sample(f"seed {run.spec.seed}", value, run.run_id) for run, value in zip(row.row.ok, values, strict=True)]


def _cell(value: float | None, digits: int, unit: str = "", samples: Sequence[Sample] = ()) -> Cell:
    text = "—" if value is None else significant(value, digits) if math.isfinite(value) else "never"
    return Cell(text, value=value, unit=unit, samples=tuple(samples))
