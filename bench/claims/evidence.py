"""All that has been measured, as the claims look at it: suites by name, and the records of memory and experiments."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.analysis.aggregate import Group, ResultRow, groups
from bench.claims.claim import Source
from bench.records import side_file
from bench.records.record import Record
from bench.records.store import Store

EXPERIMENTS = Path("claims") / "experiments.json"
MEMORY = Path("memory") / "paper.json"


class Evidence:
    """What a results folder holds; each part is read when it is first asked for. What is not there is empty, or None.

    `own`: a user's suites, to be judged beside the package's wherever a claim is not about a model of the package alone.
    `read`: the comparisons of suites that have been read already.
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

    def rows(self, suite: str, *words: str) -> Iterator[tuple[Group, ResultRow]]:
        """The rows whose label holds one of the words (all rows without any), with their groups."""
        for group in self.groups(suite):
            for row in group.rows:
                if not words or any(word in row.label for word in words):
                    yield group, row

    def deqs(self, *suites: str) -> Iterator[tuple[str, Group, ResultRow]]:
        """The DEQs of the package's suites by their label, and those of the user's own suites, each with its suite and group."""
        for suite in suites:
            for group, row in self.rows(suite, "DEQ"):
                yield suite, group, row
        for suite in self.own:
            for group, row in self.rows(suite):
                if row.family == "deq":
                    yield suite, group, row

    @cached_property
    def memory(self) -> dict[str, Any] | None:
        """The memory record, or None."""
        return side_file.MEMORY.read(self.results / MEMORY)

    @cached_property
    def experiments(self) -> dict[str, Any] | None:
        """The record of what is measured for the claims alone, or None."""
        return side_file.EXPERIMENTS.read(self.results / EXPERIMENTS)


def by_seed(row: ResultRow, measure: str) -> dict[int, float]:
    """A measure of the row's ok runs, where it was taken, by seed."""
    return {record.spec.seed: value for record in row.ok if (value := record.value(measure)) is not None}


def runs(suite: str, *rows: ResultRow) -> Source:
    """The finals of rows as a source."""
    records: list[Record] = [record for row in rows for record in row.finals]
    return Source(path=f"runs/{suite}", command=f"python -m bench run {suite}", runs=tuple(record.run_id for record in records))


MEMORY_SOURCE = Source(path=str(MEMORY), command="python -m bench memory")
EXPERIMENTS_SOURCE = Source(path=str(EXPERIMENTS), command="python -m bench claims --measure")
