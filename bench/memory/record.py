"""Make the memory record, and write it with its tables and figures."""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from bench.memory import cost, device, paper, scaling, tables
from bench.memory.step import Call, run_calls
from bench.records.errors import unknown
from bench.records.record import write_text
from bench.records.side_file import MEMORY
from bench.records.spec import ComponentConfig
from bench.report import figures
from bench.report.report import write_table

NAME = "paper.json"
NUMERICS = 3  # version of the numbers: raise it when the code changes them; settings and environment are in the record


def make(
    also: Mapping[str, ComponentConfig],
    constant_in: str | None = None,
    jobs: int = 1,
    on: str = "cpu",
    only: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure every row of the paper's tables, their costs and every law; return the record as JSON holds it.

    `also`: a user's own models by label; with `constant_in` these alone, which claim memory constant in that setting. `on` "cuda":
    the rows run on the device too. `only`: a glob over the labels of the rows. With either there are no costs and laws, which need
    no device. `out`: a folder where the record, without its tables, is written after every row on the device.
    """
    from bench.instruments.environment import environment, use_float32

    use_float32()
    if constant_in is not None:
        own = [scaling.Family(label=label, model=model, depth=(constant_in,), flat=True, own=True) for label, model in also.items()]
        parts = {"cost": [], "rows": paper.calls(also)[-len(also) :], "laws": scaling.calls(own)}
    elif only is not None or on != "cpu":
        parts = {"cost": [], "rows": _matching(paper.calls(also), only or "*"), "laws": []}
    else:
        parts = {"cost": cost.calls(), "rows": paper.calls(also), "laws": scaling.calls(scaling.FAMILIES)}  # the longest first
    results = iter(run_calls([call for calls in parts.values() for call in calls], jobs))
    found = {part: list(islice(results, len(calls))) for part, calls in parts.items()}
    measured = {"rows": found["rows"], "cost": found["cost"], "laws": found["laws"]}
    record = {"numerics": NUMERICS, "environment": environment(on, 1), **measured}

    def save(rows: dict[str, Any]) -> None:
        if out is not None:
            _write({**record, "device": rows}, out)

    return {**record, "device": device.measure_rows(found["rows"], on, save)}


def _matching(rows: list[Call], only: str) -> list[Call]:
    labels = [arguments[0]["label"] for _, arguments in rows]
    found = [row for row, label in zip(rows, labels, strict=True) if fnmatchcase(label, only)]
    if not found:
        raise unknown("row of --only", only, labels)
    return found


def _write(record: dict[str, Any], out: Path) -> None:
    write_text(out / NAME, json.dumps(MEMORY.sealed(record), indent=1) + "\n")


def write(record: dict[str, Any], out: Path) -> None:
    """Write the record, its tables in three formats and its figures."""
    _write(record, out)
    for table in tables.paper_tables(record):
        write_table(out / table.kind, table, f"tab:memory-{table.kind}")
    figures.write(out, figures.render("memory", record))
