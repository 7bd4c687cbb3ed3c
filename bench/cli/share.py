"""Commands that move results: merge, export."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import RESULTS, Json, Results
from bench.records.errors import UserError
from bench.report.console import say


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="results folders, such as those of other machines")],
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Copy the runs of other results folders into one; a run that is there already stays as it is.

    Damaged records are left out with a warning. Studies, memory and peers stay where they were measured."""
    from bench.records.record import write_bytes
    from bench.records.store import Store

    into, counts = Store(results), Counter[str]()
    sources = [Store(folder) for folder in folders]
    for source in sources:
        if source.results.resolve() == results.resolve():
            raise UserError(f"merge: {source.results} is the folder that is merged into")
        if not source.suites():
            raise UserError(f"no records in {source.results / 'runs'}/<suite>/")
    for source in sources:
        for suite in source.suites():
            for record in source.stream(suite):
                known = into.exists(suite, record.run_id)
                if not known:
                    write_bytes(into.path(suite, record.run_id), source.path(suite, record.run_id).read_bytes())
                counts["kept" if known else "copied"] += 1
    if as_json:
        print(json.dumps({name: counts[name] for name in ("copied", "kept")}))
    else:
        say(f"copied {counts['copied']} runs into {results}, {counts['kept']} were there already; run `report` for the tables")


def export(
    file: Annotated[Path, typer.Argument(help="the file to write, .csv or .parquet (which needs pyarrow)")],
    results: Results = RESULTS,
    suite: Annotated[str | None, typer.Option(help="only this suite")] = None,
    measures: Annotated[
        bool, typer.Option("--measures", help="a line for each measure of each run, with method, scope and reason")
    ] = False,
) -> None:
    """Write the runs as one table: a line a run, with what was asked and every measure; the same as `bench.load`."""
    from bench.analysis.frame import load
    from bench.records.escape import csv_cell
    from bench.records.record import write_bytes

    if file.suffix not in (".csv", ".parquet"):
        raise UserError(f"export: {file} must end in .csv or .parquet")
    frame = load(results, suite, measures=measures)
    if frame.empty:
        raise UserError(f"no records in {results / 'runs'}/<suite>/: run a suite first")
    if file.suffix == ".csv":
        content = frame.map(csv_cell).to_csv(index=False, lineterminator="\n").encode()
    else:
        try:
            content = frame.to_parquet(index=False)
        except ImportError as error:
            raise UserError("export: .parquet needs pyarrow: pip install pyarrow, or write .csv") from error
    write_bytes(file, content)
    say(f"wrote {file}: {len(frame)} lines, {len(frame.columns)} columns")
