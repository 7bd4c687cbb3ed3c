"""The results folder: a record for each run, found by its id; leases on runs under way; nothing outside the folder is touched.

    runs/<suite>/<run id>.json     records
    work/<suite>/<run id>/         state of a run that has not ended ok: checkpoint, progress, attempts, log
    work/<suite>/<run id>.lease    locked by the coordinator that brings the run about

Names in the folder are not trusted: a link is not followed, an id that is no id is not looked at.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bench.errors import UserError
from bench.lock import acquire, taken
from bench.record import Head, Record, read_head, read_record, write_record

_ID = re.compile(r"(?P<key>[a-z0-9][a-z0-9-]*-[0-9a-f]{12})-(?P<identity>[0-9a-f]{12})")
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class Lease:
    """The right to bring one run about, held until `close` or until the process dies, however it dies."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle: int | None = handle
        self._path = path

    def close(self) -> None:
        """Give it back."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)  # while it is held: whoever waits for this file finds it gone and takes a new one
            os.close(self._handle)
            self._handle = None


class Store:
    """The results folder; made when something is written."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def folder(self, kind: str, suite: str) -> Path:
        """`runs/<suite>` or `work/<suite>`; UserError for a name that is no suite's, or a folder that leads elsewhere."""
        if not _SUITE.fullmatch(suite):
            raise UserError(f"{suite!r} is no name for a suite: letters, digits and _.+- only")
        path = self.results / kind / suite
        for part in (self.results / kind, path):
            if part.is_symlink():
                raise UserError(f"{part} is a link: records are kept in the folder itself")
        return path

    def path(self, suite: str, run_id: str) -> Path:
        """Where a run's record lies; UserError for an id that is none."""
        if not _ID.fullmatch(run_id):
            raise UserError(f"{run_id!r} is no run id")
        return self.folder("runs", suite) / f"{run_id}.json"

    def work(self, suite: str, run_id: str) -> Path:
        """Where an unfinished run keeps its state."""
        return self.folder("work", suite) / self.path(suite, run_id).stem

    def suites(self) -> list[str]:
        """The suites that have records."""
        with suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(self.results / "runs") if entry.is_dir())
            return [name for name in names if self.folder("runs", name).is_dir()]
        return []

    def ids(self, suite: str) -> list[str]:
        """The ids of a suite's records, sorted; UserError for a file among them that has no record's name, or is a link."""
        folder = self.folder("runs", suite)
        if not folder.is_dir():
            return []
        found = []
        for entry in os.scandir(folder):
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                if not _ID.fullmatch(entry.name[:-5]) or not entry.is_file(follow_symlinks=False):
                    raise UserError(f"{entry.path}: damaged record (not a file named by a run id); move it away")
                found.append(entry.name[:-5])
        return sorted(found)

    def by_key(self, suite: str) -> dict[str, list[str]]:
        """The ids of the records of each Spec's key: more than one where data, code or environment changed."""
        found: dict[str, list[str]] = {}
        for run_id in self.ids(suite):
            found.setdefault(run_id[:-13], []).append(run_id)
        return found

    def heads(self, suite: str) -> Iterator[Head]:
        """How each run of a suite ended, from the opening lines of its record; a damaged record is left out."""
        folder = self.folder("runs", suite)
        for run_id in self.ids(suite):
            head = read_head(folder / f"{run_id}.json")
            if head is not None:
                yield head

    def exists(self, suite: str, run_id: str) -> bool:
        """Whether the run has a record."""
        return self.path(suite, run_id).is_file()

    def read(self, suite: str, run_id: str) -> Record:
        """The run's record; UserError where it is damaged or not what its name says."""
        return read_record(self.path(suite, run_id))

    def read_all(self, suite: str) -> list[Record]:
        """All records of a suite."""
        return [self.read(suite, run_id) for run_id in self.ids(suite)]

    def write(self, record: Record) -> Path:
        """Write a record, whole or not at all."""
        path = self.path(record.suite, record.run_id)
        write_record(path, record)
        return path

    def lease(self, suite: str, run_id: str) -> Lease | None:
        """The right to bring the run about; None while another process has it."""
        path = self.work(suite, run_id).with_suffix(".lease")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = acquire(path, wait=False)
        except OSError as error:
            raise UserError(f"cannot lock {path}: {error.strerror or error}") from error
        return None if handle is None else Lease(handle, path)

    def leased(self, suite: str) -> list[str]:
        """The ids of the runs that some process is bringing about now."""
        paths = sorted(self.folder("work", suite).glob("*.lease"))
        return [path.stem for path in paths if _ID.fullmatch(path.stem) and not path.is_symlink() and taken(path)]

    def unfinished(self, suite: str) -> list[str]:
        """The ids of the runs that have kept state."""
        with suppress(OSError):
            entries = os.scandir(self.folder("work", suite))
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _ID.fullmatch(entry.name))
        return []

    def forget(self, suite: str, run_id: str) -> None:
        """Remove an unfinished run's state."""
        shutil.rmtree(self.work(suite, run_id), ignore_errors=True)

    def tidy(self, suite: str) -> None:
        """Remove the folders of unfinished runs, where there is none."""
        for folder in (self.folder("work", suite), self.results / "work"):
            with suppress(OSError):
                folder.rmdir()

    def check(self, suites: Sequence[str]) -> None:
        """UserError where a record of these suites is damaged or nothing can be written: before a run is paid for, not after."""
        for suite in suites:
            for run_id in self.ids(suite):
                if read_head(self.path(suite, run_id)) is None:
                    self.read(suite, run_id)
                    raise UserError(f"{self.path(suite, run_id)}: damaged record; move it away or delete it to run it again")
        try:
            (self.results / "runs").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.results / "runs"):
                pass
        except OSError as error:
            raise UserError(f"cannot write {self.results}: {error.strerror or error}") from error
