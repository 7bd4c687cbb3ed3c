"""Records as pandas data frames: one row a run, or one row a measure of a run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.aggregate import family_of, flat_spec
from bench.records.errors import unknown
from bench.records.record import Record, order
from bench.records.store import Store

_MEASURES = ("run_id", "measure", "value", "unit", "method", "scope", "reason")


def load(results: str | Path = "results", suite: str | None = None, *, measures: bool = False) -> pd.DataFrame:
    """Read the records of a results folder (of one suite, or of all) into a data frame.

    One row a run: `run_id`, `suite`, `group`, `label`, `family`, `role`, `seed`, `status`, `reason` and `elapsed_s`; `superseded`,
    whether tables show a newer run of the same settings instead, made by other code, data or in another environment; what was
    asked (`model`, `task`, `device`, their settings as `model.depth`, `task.T`, `train.steps`, `recipe.jacobian`); every measure
    as a column, NaN where a run lacks it. `attrs["units"]` gives the unit of each measure (" / " between those of several).
    `measures=True`: one row a measure, with `run_id`, `measure`, `value`, `unit`, `method`, `scope` and the `reason` of a missing
    value; merge it with the other frame on `run_id`. Damaged records are left out with a warning; an unknown suite is a UserError.

    >>> import bench
    >>> runs = bench.load("results")
    >>> ok = runs[(runs.role == "final") & (runs.status == "ok") & ~runs.superseded]
    >>> ok.groupby(["group", "label"])["test_loss"].agg(["mean", "count"])
                 mean  count
    group label
    copy  DEQ    0.15      2
          LSTM   0.40      1
    >>> runs.attrs["units"]["test_loss"]
    'nats'
    >>> missing = bench.load("results", measures=True).query("value.isna()")
    >>> missing.groupby(["measure", "reason"]).size()
    measure    reason
    energy_J   no NVML      4
    test_loss  too large    1
    dtype: int64
    """
    store = Store(Path(results))
    known = store.suites()
    if suite is not None and suite not in known:
        raise unknown("suite", suite, known)
    records = (record for name in known if suite in (None, name) for record in store.stream(name))
    if not measures:
        return _runs_frame(records)
    lines = [
        (record.run_id, name, one.value, one.unit, one.method, one.scope, one.reason)
        for record in records
        for name, one in record.measures.items()
    ]
    return pd.DataFrame(lines, columns=list(_MEASURES)).astype({"value": "float64"})


def _runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, float | None]] = []
    units: dict[str, set[str]] = {}
    newest: dict[tuple[str, str], tuple[int, str]] = {}  # by suite and settings, as tables choose
    for record in records:
        spec = record.spec
        key = (record.suite, spec.key)
        newest[key] = max(newest.get(key, (0, "")), (order(record), record.run_id))
        rows.append(
            {
                **{"run_id": record.run_id, "suite": record.suite, "group": spec.group, "label": spec.label},
                **{"family": family_of(spec.model.name), "role": spec.role, "seed": spec.seed},
                **{"status": record.status, "reason": record.reason, "elapsed_s": record.elapsed_s, "processes": spec.processes},
                "superseded": key,
                **flat_spec(spec),
            }
        )
        scores.append({name: measure.value for name, measure in record.measures.items()})
        for name, measure in record.measures.items():
            units.setdefault(name, set()).add(measure.unit)
    for row in rows:
        row["superseded"] = newest[row["superseded"]][1] != row["run_id"]
    # RunSpec fields keep their types (a setting may be a word in one run and absent in the next); measures are numbers.
    measured = pd.DataFrame(scores, index=range(len(rows)), columns=list(units), dtype="float64")
    frame = pd.concat([pd.DataFrame(rows, index=range(len(rows))), measured], axis=1)
    frame.attrs["units"] = {name: " / ".join(sorted(known)) for name, known in units.items()}
    return frame
