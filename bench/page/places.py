"""Where the runs were made, and which of them failed."""

from collections.abc import Sequence
from typing import Any

from bench.record import Record
from bench.report import revision_told

Place = dict[str, str]


def places(records: Sequence[Record]) -> list[Place]:
    """A line for each environment: what decides numbers and times there, its revisions, and how many runs of which suites."""
    members: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        members.setdefault(tuple(_place(record.environment).items()), []).append(record)
    found = []
    for place, mine in sorted(members.items()):
        suites = {suite: sum(record.suite == suite for record in mine) for suite in sorted({record.suite for record in mine})}
        revisions = sorted({revision_told(record.environment, 12) or "unknown" for record in mine})
        runs = ", ".join(f"{suite} {count}" for suite, count in suites.items())
        found.append({"runs": runs, **dict(place), "code at": ", ".join(revisions), "data": _data(mine)})
    return found


def _place(environment: dict[str, Any]) -> Place:
    memory = environment.get("memory_bytes")
    gpu = environment.get("gpu")
    kernels = environment.get("cpu_capability")
    return {
        "processor": _said(environment.get("cpu")) + (f" ({kernels} kernels)" if kernels else ""),
        "usable cores": _said(environment.get("usable_cores")),
        "threads a run": _said(environment.get("threads")),
        "memory": f"{memory / 2**30:.0f} GiB" if isinstance(memory, int | float) else "unknown",
        "GPU": f"{gpu.get('name', 'unknown')}, driver {gpu.get('driver', 'unknown')}" if isinstance(gpu, dict) else "none used",
        "torch": _said(environment.get("torch")),
        "Python": _said(environment.get("python")),
        "system": _said(environment.get("system")),
    }


def _said(value: object) -> str:
    return "unknown" if value in (None, "") else str(value)


def _data(records: Sequence[Record]) -> str:
    """The beginnings of the data's hashes, by task."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.spec.task.name, set()).add(str(record.identity.data)[:8])
    return "; ".join(f"{task} {', '.join(sorted(hashes))}" for task, hashes in sorted(found.items()))


def failures(records: Sequence[Record]) -> list[tuple[str, str, str, str, str]]:
    """Suite, run, role, status and reason of every run that did not end ok."""
    return [
        (record.suite, record.run_id, record.spec.role, record.status, record.why or "")
        for record in records
        if record.status != "ok"
    ]
