"""`python -m bench peers`: this library's solvers beside other implementations', measured in turns in one run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.records.errors import UserError, one_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def peers(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where the record and its tables go")] = Path("results/peers"),
    threads: Annotated[int, typer.Option(min=1, help="threads of torch")] = 2,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds of the timing (default: by problem)")] = None,
) -> None:
    """Time, steps and memory of a training step by each library, and what baselines and harness cost beside plain torch.

    Needs the extra `peers`; about six minutes, the machine alone."""
    import torch

    from bench.instruments.contention import Contention
    from bench.instruments.environment import environment
    from bench.instruments.machine_lock import MachineLock
    from bench.peers import explicit, measure, show
    from bench.peers.libraries import installed
    from bench.peers.problems import PROBLEMS

    libraries = installed()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"peers: cannot write {out}: {error.strerror}") from error
    torch.set_num_threads(threads)
    record: dict[str, Any] = {
        "environment": environment("cpu", threads),
        "libraries": {library.name: library.version for library in libraries},
        "memory": [row for name in ("block", "large") for row in measure.memory(libraries, name)],
        "steps": [row for name in PROBLEMS for row in measure.steps_to(libraries, name)],
    }
    with MachineLock().exclusive():
        contention = Contention(threads)
        record["overhead"] = [row for name in measure.TIMED for row in measure.overhead(libraries, name, rounds)]
        torch.set_num_threads(1)  # as a run of the suites
        record["baselines"] = explicit.baselines(rounds)
        record["contended"] = contention.read()
    record["harness"] = explicit.harness(rounds)  # takes the machine for itself
    write(record, out)
    for name, table in show.tables(record).items():
        print(f"{name}\n\n{show.pipe(table)}")
    if record["contended"]:
        print(f"the times are not to be trusted: {one_line(record['contended'])}")


def write(record: dict[str, Any], out: Path) -> None:
    """Write the record, and each table as Markdown and, with every timed round, as CSV."""
    import pandas as pd

    from bench.peers import show
    from bench.records.escape import csv_cell
    from bench.records.record import write_text
    from bench.records.side_file import PEERS

    write_text(out / "peers.json", json.dumps(PEERS.sealed(record), indent=1) + "\n")
    for name, table in show.tables(record).items():
        write_text(out / f"{name}.md", show.pipe(table))
        rows = pd.DataFrame(record[name], dtype=object)
        rounds = [column for column in rows if rows[column].map(lambda value: isinstance(value, list)).any()]
        tidy = rows.explode(rounds) if rounds else rows
        write_text(out / f"{name}.csv", tidy.map(csv_cell).to_csv(index=False, lineterminator="\n"))
