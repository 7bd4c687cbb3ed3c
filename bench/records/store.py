"""The results folder: a record for each run, found by its id; leases on runs under way; nothing outside the folder is touched.

    runs/<suite>/<run id>.json     records
    work/<suite>/<run id>/         state of a run that has not ended ok: checkpoint, progress, attempts, log
    work/<suite>/<run id>.lease    locked by the coordinator that brings the run about

Names in the folder are not trusted: a link is not followed, a name that is no suite's or no run's is left out. Where many records
are read, one that is damaged is left out with a warning (LeftOut); one that is asked for by its id is a UserError.
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
from bench.records.file_lock import acquire, release, taken
from bench.records.record import Head, Record, head_of, order, read_head, read_record, write_record

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
            release(self._handle)
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
        """The suites that have records; a folder whose name is no suite's (`.ipynb_checkpoints`) is none."""
        names = sorted(entry.name for entry in _entries(self.results / "runs") if _SUITE.fullmatch(entry.name) and entry.is_dir())
        return [name for name in names if self.folder("runs", name).is_dir()]

    def ids(self, suite: str) -> list[str]:
        """The ids of a suite's records, sorted."""
        names = (entry.name for entry in _entries(self.folder("runs", suite)))
        return sorted(name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5]))

    def strays(self, suite: str) -> list[str]:
        """What is wrong with the other JSON files among them, a line each."""
        found = (entry for entry in _entries(self.folder("runs", suite)) if entry.name.endswith(".json"))
        paths = sorted(entry.path for entry in found if not entry.name.startswith(".") and not _ID.fullmatch(entry.name[:-5]))
        return [f"{path}: no record (its name is no run id); move it away" for path in paths]

    def by_key(self, suite: str) -> dict[str, list[str]]:
        """The ids of the records of each RunSpec's key: more than one where data, code or environment changed."""
        found: dict[str, list[str]] = {}
        for run_id in self.ids(suite):
            found.setdefault(run_id[:-13], []).append(run_id)
        return found

    def heads(self, suite: str) -> Iterator[Head]:
        """How each run of a suite ended, from the opening lines of its record; a damaged record is left out, with a warning."""
        damaged = self.strays(suite)
        for run_id in self.ids(suite):
            head = read_head(self.path(suite, run_id))
            if head is None or (head.run_id, head.suite) != (run_id, suite):
                try:
                    head = head_of(self.read(suite, run_id))  # an intact one, whose layout somebody has changed
                except UserError as error:
                    damaged.append(str(error))
                    continue
            yield head
        _warn(suite, damaged)

    def exists(self, suite: str, run_id: str) -> bool:
        """Whether the run has a record."""
        return self.path(suite, run_id).is_file()

    def read(self, suite: str, run_id: str) -> Record:
        """The run's record; UserError where it is damaged or not what its name says."""
        return read_record(self.path(suite, run_id))

    def read_sound(self, suite: str, ids: Iterable[str]) -> list[Record]:
        """The records of these runs, held in little memory; those that are damaged are left out, with a warning."""
        return self._sound(suite, ids, [])

    def read_all(self, suite: str) -> list[Record]:
        """All records of a suite, as `read_sound` reads them."""
        return self._sound(suite, self.ids(suite), self.strays(suite))

    def stream(self, suite: str) -> Iterator[Record]:
        """All records of a suite, one after another; those that are damaged are left out, with a warning at the end."""
        return self._whole(suite, self.ids(suite), self.strays(suite))

    def _sound(self, suite: str, ids: Iterable[str], damaged: list[str]) -> list[Record]:
        compact = Compactor()
        return [compact(record) for record in self._whole(suite, ids, damaged)]

    def _whole(self, suite: str, ids: Iterable[str], damaged: list[str]) -> Iterator[Record]:
        for run_id in ids:
            try:
                record = self.read(suite, run_id)
            except UserError as error:
                damaged.append(str(error))
                continue
            yield record
        _warn(suite, damaged)

    def write(self, record: Record) -> Path:
        """Write a record, whole or not at all; it comes after those of the same RunSpec that are there, whatever the clock says."""
        path = self.path(record.suite, record.run_id)
        before = []
        for run_id in self.by_key(record.suite).get(record.spec.key, []):
            with suppress(UserError):
                before.append(order(self.read(record.suite, run_id)))
        place = max([int(1000 * time.time()), *(1 + one for one in before)])
        write_record(path, record.model_copy(update={"provenance": record.provenance | {"order": place}}))
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

    def check(self, suite: str) -> None:
        """UserError where a record of the suite is damaged or nothing can be written: before a run is paid for, not after."""
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
    """What lies in a folder; nothing where there is none."""
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error


def _warn(suite: str, damaged: Sequence[str]) -> None:
    """Warn of what is left out, in one line: how many files, the names of some, and what is wrong with the first."""
    if len(damaged) == 1:
        warnings.warn(one_line(f"left out: {damaged[0]}"), LeftOut, stacklevel=1)
    elif damaged:
        names = [one.partition(".json: ")[0].rpartition("/")[2] + ".json" for one in damaged[:3]]
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        said = f"{len(damaged)} files of suite {suite} are left out: {', '.join(names)}{more}; the first: {damaged[0]}"
        warnings.warn(one_line(said), LeftOut, stacklevel=1)
