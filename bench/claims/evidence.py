"""The records that claims are judged by: suites by name, the memory record, the record of studies."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.analysis.aggregate import Group, ResultRow, groups
from bench.claims.claim import Source
from bench.records import side_file
from bench.records.store import Store

_STUDIES = "claims/experiments.json"
_MEMORY = "memory/paper.json"
MEMORY_SOURCE = (Source(path=_MEMORY, command="python -m bench memory"),)
STUDIES_SOURCE = (Source(path=_STUDIES, command="python -m bench claims --measure"),)


class Evidence:
    """A results folder; each record is read at first use. What is missing is empty, or None.

    `own`: a user's suites, judged too by claims that are not about one model of the package. `read`: comparisons of suites that
    have been read already.
    """

    def __init__(self, results: Path, own: tuple[str, ...] = (), read: Mapping[str, list[Group]] | None = None) -> None:
        self.results, self.own = results, own
        self._groups = dict(read or {})

    def groups(self, suite: str) -> list[Group]:
        """The comparisons of a suite."""
        if suite not in self._groups:
            store = Store(self.results)
            self._groups[suite] = groups(suite, store.read_all(suite)) if suite in store.suites() else []
        return self._groups[suite]

    def deqs(self, *suites: str) -> Iterator[tuple[str, Group, ResultRow]]:
        """The DEQs of these suites, by their label, and of the user's own."""
        for suite in (*suites, *self.own):
            for group in self.groups(suite):
                for row in group.rows:
                    if "DEQ" in row.label if suite in suites else row.family == "deq":
                        yield suite, group, row

    @cached_property
    def memory(self) -> dict[str, Any] | None:
        """The memory record, or None."""
        return side_file.MEMORY.read(self.results / _MEMORY)

    @cached_property
    def studies(self) -> dict[str, Any]:
        """The studies by name; empty without a record."""
        found: dict[str, Any] = (side_file.EXPERIMENTS.read(self.results / _STUDIES) or {}).get("experiments", {})
        return found


def runs(suite: str, *rows: ResultRow) -> tuple[Source, ...]:
    """The final runs of rows as a source."""
    ids = tuple(record.run_id for row in rows for record in row.finals)
    return (Source(path=f"runs/{suite}", command=f"python -m bench run {suite}", runs=ids),)
