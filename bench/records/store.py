"""The results folder: records by run id, the state of unfinished runs, and leases on running ones.

    runs/<suite>/<run id>.json     records
    work/<suite>/<run id>/         state of a run that has not ended ok: checkpoint, progress, attempts, log
    work/<suite>/<run id>.lease    locked by the coordinator that executes the run

Links are not followed; names that are no suite's or no run's are left out. A damaged record is left out with a warning (LeftOut)
where many are read, and a UserError where it is requested by id.
"""

import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bench.records.compact import Compactor
from bench.records.errors import LeftOut, UserError, one_line
from bench.records.file_lock import acquire, is_held, release
from bench.records.record import Head, Record, head_of, order, read_head, read_record, write_record

_ID = re.compile(r"(?P<key>[a-z0-9][a-z0-9-]*-[0-9a-f]{12})-(?P<identity>[0-9a-f]{12})")
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class Lease:
    """The exclusive right to execute a run, held until `close` or the death of the process."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle: int | None = handle
        self._path = path

    def close(self) -> None:
        """Release the lease."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)  # before its release: who waits for it then locks a new file
            release(self._handle)
            self._handle = None


class Store:
    """The results folder, created by the first write."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def folder(self, kind: str, suite: str) -> Path:
        """`runs/<suite>` or `work/<suite>`; UserError for an invalid name or a link."""
        if not _SUITE.fullmatch(suite):
            raise UserError(f"{suite!r} is not a suite name: letters, digits and _.+- only")
        path = self.results / kind / suite
        for part in (self.results / kind, path):
            if part.is_symlink():
                raise UserError(f"{part} is a link: records are kept in the folder itself")
        return path

    def path(self, suite: str, run_id: str) -> Path:
        """The path of a run's record; UserError for an invalid id."""
        if not _ID.fullmatch(run_id):
            raise UserError(f"{run_id!r} is not a run id")
        return self.folder("runs", suite) / f"{run_id}.json"

    def work(self, suite: str, run_id: str) -> Path:
        """The folder with the state of an unfinished run."""
        return self.folder("work", suite) / self.path(suite, run_id).stem

    def suites(self) -> list[str]:
        """The names of the suites that have records."""
        names = sorted(entry.name for entry in _entries(self.results / "runs") if _SUITE.fullmatch(entry.name) and entry.is_dir())
        return [name for name in names if self.folder("runs", name).is_dir()]

    def ids(self, suite: str) -> list[str]:
        """The ids of a suite's records, sorted."""
        names = (entry.name for entry in _entries(self.folder("runs", suite)))
        return sorted(name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5]))

    def strays(self, suite: str) -> list[str]:
        """A message for each JSON file among the records whose name is no run id."""
        found = (entry for entry in _entries(self.folder("runs", suite)) if entry.name.endswith(".json"))
        paths = sorted(entry.path for entry in found if not entry.name.startswith(".") and not _ID.fullmatch(entry.name[:-5]))
        return [f"{path}: no record (its name is no run id); move it away" for path in paths]

    def by_key(self, suite: str) -> dict[str, list[str]]:
        """The ids of the records by RunSpec key: several where data, code or environment changed."""
        found: dict[str, list[str]] = {}
        for run_id in self.ids(suite):
            found.setdefault(run_id[:-13], []).append(run_id)
        return found

    def heads(self, suite: str) -> Iterator[Head]:
        """The Head of each record of a suite."""
        damaged = self.strays(suite)
        for run_id in self.ids(suite):
            head = read_head(self.path(suite, run_id))
            if head is None or (head.run_id, head.suite) != (run_id, suite):
                try:
                    head = head_of(self.read(suite, run_id))  # intact, but with another layout
                except UserError as error:
                    damaged.append(str(error))
                    continue
            yield head
        _warn(suite, damaged)

    def exists(self, suite: str, run_id: str) -> bool:
        """Whether the run has a record."""
        return self.path(suite, run_id).is_file()

    def read(self, suite: str, run_id: str) -> Record:
        """The run's record; UserError where it is damaged."""
        return read_record(self.path(suite, run_id))

    def read_valid(self, suite: str, ids: Iterable[str]) -> list[Record]:
        """The records of these runs, compacted."""
        return list(map(Compactor(), self._stream(suite, ids, [])))

    def read_all(self, suite: str) -> list[Record]:
        """All records of a suite, compacted."""
        return list(map(Compactor(), self.stream(suite)))

    def stream(self, suite: str) -> Iterator[Record]:
        """All records of a suite, one after another; the warning comes at the end."""
        return self._stream(suite, self.ids(suite), self.strays(suite))

    def _stream(self, suite: str, ids: Iterable[str], damaged: list[str]) -> Iterator[Record]:
        for run_id in ids:
            try:
                record = self.read(suite, run_id)
            except UserError as error:
                damaged.append(str(error))
            else:
                yield record
        _warn(suite, damaged)

    def write(self, record: Record) -> Path:
        """Write a record atomically; it gets an order after all earlier records of the RunSpec, whatever the clock says."""
        path = self.path(record.suite, record.run_id)
        before = []
        for run_id in self.by_key(record.suite).get(record.spec.key, []):
            with suppress(UserError):
                before.append(order(self.read(record.suite, run_id)))
        place = max([int(1000 * time.time()), *(1 + one for one in before)])
        write_record(path, record.model_copy(update={"provenance": record.provenance | {"order": place}}))
        return path

    def lease(self, suite: str, run_id: str) -> Lease | None:
        """A lease on the run; None while another process holds it."""
        path = self.work(suite, run_id).with_suffix(".lease")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = acquire(path, wait=False)
        except OSError as error:
            raise UserError(f"cannot lock {path}: {error.strerror or error}") from error
        return None if handle is None else Lease(handle, path)

    def leased(self, suite: str) -> list[str]:
        """The ids of the runs that some process executes now."""
        paths = sorted(self.folder("work", suite).glob("*.lease"))
        return [path.stem for path in paths if _ID.fullmatch(path.stem) and not path.is_symlink() and is_held(path)]

    def unfinished(self, suite: str) -> list[str]:
        """The ids of the runs with saved state."""
        with suppress(OSError):
            entries = os.scandir(self.folder("work", suite))
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _ID.fullmatch(entry.name))
        return []

    def forget(self, suite: str, run_id: str) -> None:
        """Remove the state of an unfinished run."""
        shutil.rmtree(self.work(suite, run_id), ignore_errors=True)

    def tidy(self, suite: str) -> None:
        """Remove the folders of unfinished runs if they are empty."""
        for folder in (self.folder("work", suite), self.results / "work"):
            with suppress(OSError):
                folder.rmdir()

    def check(self, suite: str) -> None:
        """Raise UserError before any run where a record of the suite is damaged or the folder is not writable."""
        for run_id in self.ids(suite):
            self.read(suite, run_id)
        try:
            for kind in ("runs", "work"):
                with suppress(FileNotFoundError):  # a path may be too long for the system
                    os.lstat(self.folder(kind, suite) / ("x" * 240) / ("x" * 40))
            (self.results / "runs").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.results / "runs"):
                pass
        except OSError as error:
            raise UserError(f"cannot write {self.results}: {error.strerror or error}") from error


def _entries(folder: Path) -> Sequence["os.DirEntry[str]"]:
    """The entries of a folder; none where it does not exist."""
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error


def _warn(suite: str, damaged: Sequence[str]) -> None:
    """Warn of the files left out in one line: their number, some names, and the fault of the first."""
    if len(damaged) == 1:
        warnings.warn(one_line(f"left out: {damaged[0]}"), LeftOut, stacklevel=1)
    elif damaged:
        names = [one.partition(".json: ")[0].rpartition("/")[2] + ".json" for one in damaged[:3]]
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        text = f"{len(damaged)} files of suite {suite} are left out: {', '.join(names)}{more}; the first: {damaged[0]}"
        warnings.warn(one_line(text), LeftOut, stacklevel=1)
