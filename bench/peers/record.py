"""The record of the comparison with other libraries, and its tables."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from bench.instruments.contention import Contention
from bench.instruments.environment import environment, use_float32
from bench.instruments.machine_lock import MachineLock
from bench.instruments.nvml import Nvml
from bench.peers import explicit, graphs, measure, show
from bench.peers.libraries import installed
from bench.peers.problems import PROBLEMS
from bench.records.errors import UserError, failure, unknown
from bench.records.escape import csv_cell
from bench.records.record import write_text
from bench.records.side_file import PEERS


def make(
    out: Path, threads: int, rounds: int | None, device: Literal["cpu", "cuda"] = "cpu", problems: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure everything on a device and write the record and its tables to a folder, again after each part; return the record.

    `problems`: the solvers' problems, if not all. What fails is left out, with its reason in "failures".
    """
    libraries, timed = installed(), measure.timed_problems(device)
    for name in problems:
        if name not in {*PROBLEMS, *timed}:
            raise unknown("problem", name, [*PROBLEMS, *(name for name in timed if name not in PROBLEMS)])

    def chosen(names: Iterable[str]) -> list[str]:
        return [name for name in names if not problems or name in problems]

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"peers: cannot write {out}: {error.strerror}") from error
    torch.set_num_threads(threads)
    use_float32()
    record: dict[str, Any] = {
        "environment": environment(device, threads),
        "libraries": {library.name: library.version for library in libraries},
        **{name: [] for name in ("memory", "steps", "launches", "overhead", "stopping", "baselines", "inference", "graphs")},
        "contended": None,
        "harness": [],
    }

    def add(section: str, rows: Callable[..., list[measure.Row]], *arguments: Any, problem: str = "") -> None:
        """Add what was measured, or why it was not, so that neither a failure nor a limit of time costs the rest."""
        try:
            record[section] += rows(*arguments)
        except UserError:
            raise
        except Exception as error:
            record.setdefault("failures", {})[" ".join(filter(None, (section, problem)))] = failure(error)[1]

    for name in chosen(("block", "large")):
        add("memory", measure.memory, libraries, name, device, problem=name)
    for name in chosen(PROBLEMS):
        add("steps", measure.steps_to, libraries, name, device, problem=name)
    for name in chosen(("tiny", "block")):
        add("launches", measure.launches, libraries, name, device, problem=name)
    write(record, out)
    nvml = Nvml(device)
    with MachineLock().exclusive():
        contention, busy = Contention(threads), None
        nvml.start()
        if device == "cuda" and not nvml.sees_others:
            record["unchecked"] = "the GPU's sole use is unchecked (NVML does not list this process)"

        def timed_section(section: str, rows: Callable[..., list[measure.Row]], *arguments: Any, problem: str = "") -> None:
            nonlocal busy
            since_us = time.time_ns() // 1000
            add(section, rows, *arguments, problem=problem)
            busy = busy or nvml.busy_others(since_us)
            record["contended"] = contention.read() or busy
            write(record, out)

        for name in chosen(timed):
            timed_section("overhead", measure.overhead, libraries, name, rounds, device, problem=name)
        for name in chosen(timed):
            timed_section("stopping", measure.stopping, libraries, name, rounds, device, problem=name)
        torch.set_num_threads(1)  # as in a run of the suites
        timed_section("baselines", explicit.baselines, rounds, device)
        timed_section("inference", explicit.inference, rounds, device)
        for size in graphs.SIZES if device == "cuda" else ():
            timed_section("graphs", graphs.graphs, rounds, device, (size,), problem=size)
    add("harness", explicit.harness, rounds, device)  # locks the machine itself
    write(record, out)
    return record


def write(record: dict[str, Any], out: Path) -> None:
    """Write the record, and each table as Markdown and, with every timed round, as CSV."""
    write_text(out / "peers.json", json.dumps(PEERS.sealed(record), indent=1) + "\n")
    for name, table in show.tables(record).items():
        write_text(out / f"{name}.md", show.pipe(table))
        rows = pd.DataFrame(record[name], dtype=object)
        rounds = [column for column in rows if rows[column].map(lambda value: isinstance(value, list)).any()]
        tidy = rows.explode(rounds) if rounds else rows
        write_text(out / f"{name}.csv", tidy.map(csv_cell).to_csv(index=False, lineterminator="\n"))
