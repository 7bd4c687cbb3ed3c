"""The memory record: made, and written with its tables and figures."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from bench.memory import cost, device, paper, scaling, tables
from bench.memory.step import together
from bench.records.errors import UserError
from bench.records.record import write_text
from bench.records.side_file import MEMORY
from bench.records.spec import ComponentConfig
from bench.report import figures
from bench.report.report import csv_text, latex, markdown

NAME = "paper.json"


def make(also: Mapping[str, ComponentConfig], constant_in: str | None = None, jobs: int = 1, on: str = "cpu") -> dict[str, Any]:
    """Follow every row of the paper's tables and every law; the record, as it is written to JSON.

    `also`: a user's own models by label, which claim memory constant in the setting `constant_in`. `on` "cuda": the rows are taken
    for real too.
    """
    from bench.instruments.environment import environment

    families = list(scaling.FAMILIES)
    if constant_in is not None:
        families += [
            scaling.Family(label=label, model=model, depth=constant_in, flat=True, own=True) for label, model in also.items()
        ]
    parts = {"rows": paper.calls(also), "cost": cost.calls(), "laws": scaling.calls(families)}
    longest_first = ("cost", "rows", "laws")
    found = iter(together([call for part in longest_first for call in parts[part]], jobs))
    followed = {part: list(islice(found, len(parts[part]))) for part in longest_first}
    measured = {"device": device.follow(followed["rows"], on)}
    return {"environment": environment(on, 1)} | {part: followed[part] for part in parts} | measured


def write(record: dict[str, Any], out: Path) -> None:
    """The record, its tables in three formats and its figures."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"memory: cannot write {out}: {error.strerror}") from error
    write_text(out / NAME, json.dumps(MEMORY.sealed(record), indent=1) + "\n")
    for table in tables.paper_tables(record):
        write_text(out / f"{table.ending}.md", markdown(table))
        write_text(out / f"{table.ending}.tex", latex(table, f"tab:memory-{table.ending}"))
        write_text(out / f"{table.ending}.csv", csv_text(table))
    figures.write(out, figures.render("memory", record))
