"""The machines, versions and revisions that records come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.records.record import Record


def code_revision(environment: Mapping[str, Any], digits: int | None = None) -> str | None:
    """The code's revision in an environment, its first `digits` (None: all), and whether it had changes; None where unknown."""
    git = environment.get("git")
    if not isinstance(git, dict) or not git.get("revision"):
        return None
    return f"{str(git['revision'])[:digits]}{' with changes' if git.get('dirty') else ''}"


def environments(records: Sequence[Record]) -> list[dict[str, str]]:
    """The machines and versions of the runs, each with the runs, suites, revisions of the code and hashes of the data there."""
    runs = pd.DataFrame(
        [
            {
                **{"suites": record.suite, "code": code_revision(record.environment, 12) or "an unknown revision"},
                "data": f"{record.spec.task.name} {str(record.identity.data)[:8]}",
                **_machine(record.environment),
            }
            for record in records
        ]
    )
    several, heads = list(runs.columns[:3]), list(runs.columns[3:])
    by_machine = runs.groupby(heads)
    found = by_machine[several].agg(lambda values: ", ".join(sorted(values.unique())))
    found.insert(0, "runs", by_machine.size().astype(str))
    return found.reset_index()[["runs", *several, *heads]].to_dict("records")


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    memory = environment.get("memory_bytes")
    gpu, kernels = environment.get("gpu"), environment.get("cpu_capability")  # other kernels round otherwise
    return {
        "processor": str(environment.get("cpu") or "unknown processor") + (f" ({kernels} kernels)" if kernels else ""),
        "cores": f"{environment.get('usable_cores') or 'unknown'} usable cores",
        "threads": f"threads a run: {environment.get('threads') or 'unknown'}",
        "memory": f"{memory / 2**30:.0f} GiB memory" if isinstance(memory, int | float) else "unknown memory",
        "GPU": f"GPU {gpu.get('name', 'unknown')}, driver {gpu.get('driver', 'unknown')}"
        if isinstance(gpu, dict)
        else "no GPU used",
        "torch": f"torch {environment.get('torch') or 'unknown'}",
        "Python": f"Python {environment.get('python') or 'unknown'}",
        "system": str(environment.get("system") or "unknown system"),
    }
