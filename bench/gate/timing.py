"""The timing tier: base and head in turns on one machine, in fresh processes, by the micro-benchmarks of pytest-benchmark.

No time is compared with a stored one. Both sides run head's benchmarks, so that a benchmark that was changed is no regression.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from pathlib import Path

from bench.errors import UserError
from bench.gate.decide import Effect, decide

_SHORT = ("--benchmark-min-rounds=5", "--benchmark-max-time=0.1", "--benchmark-warmup=on", "--benchmark-warmup-iterations=2")
_PROCESS_S = 300.0
Times = Mapping[str, float]  # seconds by benchmark


@dataclass
class Comparison:
    """The rounds so far: seconds by benchmark of base, head, and base again."""

    base: str
    head: str
    rounds: list[tuple[Times, Times, Times]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def names(self) -> list[str]:
        """The benchmarks that both sides ran in every round."""
        common = set.intersection(*({*a} & {*b} & {*c} for a, b, c in self.rounds)) if self.rounds else set()
        return sorted(common)

    @property
    def missing(self) -> list[str]:
        """Benchmarks that head has and base cannot run."""
        return sorted({name for _, head, _ in self.rounds for name in head} - {*self.names})

    @property
    def lost(self) -> list[str]:
        """Benchmarks that base ran and head did not, every time: they fail there, or are gone."""
        return sorted({name for base, _, _ in self.rounds for name in base} - {name for _, head, _ in self.rounds for name in head})

    def effect(self, name: str) -> Effect:
        """What the rounds say of one benchmark."""
        effects = [log(head[name]) - (log(base[name]) + log(again[name])) / 2 for base, head, again in self.rounds]
        noise = [log(again[name] / base[name]) for base, _, again in self.rounds]
        return decide(effects, noise)

    def effects(self) -> dict[str, Effect]:
        """What they say of each."""
        return {name: self.effect(name) for name in self.names}

    def median_s(self, side: int, name: str) -> float:
        """Median over the rounds of base (0) or head (1)."""
        return statistics.median(one[side][name] for one in self.rounds)

    @property
    def decided(self) -> bool:
        """Whether no benchmark is left that more rounds could decide."""
        return bool(self.names) and all(effect.verdict != "inconclusive" for effect in self.effects().values())


def compare(
    base: str,
    head: str,
    run: Callable[[str], Times],
    *,
    budget_s: float,
    most: int = 40,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    told: Callable[[Comparison], None] = lambda _: None,
) -> Comparison:
    """Rounds of base, head and base again, their order random, until all is decided or the budget would be overrun.

    `run` times all benchmarks of a side, by the side's name, in a fresh process.
    """
    chance = random.Random(seed)
    found = Comparison(base, head)
    begun = clock()
    while len(found.rounds) < most and not found.decided:
        each = (clock() - begun) / len(found.rounds) if found.rounds else 0.0
        if found.rounds and clock() - begun + each > budget_s:
            break
        order = [0, 1, 2]
        chance.shuffle(order)
        times: dict[int, Times] = {turn: run(head if turn == 1 else base) for turn in order}
        found.rounds.append((times[0], times[1], times[2]))
        found.seconds = clock() - begun
        told(found)
    return found


@contextmanager
def checkout(repository: Path, revision: str | None) -> Iterator[Path]:
    """The code of a revision in a folder of its own, removed in the end; the repository itself, as it is, for None."""
    if revision is None:
        yield repository
        return
    with tempfile.TemporaryDirectory(prefix="deq-bench-gate-") as folder:
        place = Path(folder) / "code"
        _git(repository, "worktree", "add", "--detach", str(place), revision)
        try:
            yield place
        finally:
            _git(repository, "worktree", "remove", "--force", str(place))


def repository_of(folder: Path) -> Path:
    """The top of the git repository that a folder lies in."""
    return Path(_git(folder, "rev-parse", "--show-toplevel"))


def name_of(repository: Path, revision: str | None) -> str:
    """A revision's short hash; of the working tree for None, with a mark where it differs from its commit."""
    short = _git(repository, "rev-parse", "--short", f"{revision or 'HEAD'}^{{commit}}")
    return short + ("" if revision is not None or not _git(repository, "status", "--porcelain", "-uno") else " with changes")


def _git(folder: Path, *arguments: str) -> str:
    # GIT_DIR and the like, as set inside a hook, would answer for another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, env=variables)
    except OSError as error:
        raise UserError(f"gate: git cannot be run ({error})") from error
    if said.returncode:
        raise UserError(f"gate: git {arguments[0]} {arguments[-1]}: {said.stderr.strip() or 'failed'}")
    return said.stdout.strip()


class Benchmarks:
    """A folder (or file) of pytest-benchmark's benchmarks, copied, so that both sides run the same; `only` as pytest's -k."""

    def __init__(self, source: Path, folder: Path, only: str | None = None) -> None:
        if not source.exists():
            raise UserError(f"gate: no benchmarks at {source}")
        self._folder, self._only = folder, only
        self._place = folder / "benchmarks"
        if source.is_dir():
            shutil.copytree(source, self._place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            self._place.mkdir()
            shutil.copy(source, self._place)

    def run(self, code: Path) -> dict[str, float]:
        """Median seconds of each benchmark with that code, in a fresh process with one thread; UserError where none ran."""
        file = self._folder / "times.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-B", "-m", "pytest", str(self._place), "-c", os.devnull, f"--rootdir={self._place}", "-q"]
        command += ["-p", "no:cacheprovider", "--benchmark-only", f"--benchmark-json={file}", *_SHORT]
        command += ["-k", self._only] if self._only else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # What a surrounding pytest was told is not for this one: as a worker of pytest-xdist it would time nothing.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment = inherited | threads | {"PYTHONPATH": str(code), "PYTHONHASHSEED": "0"}
        try:
            said = subprocess.run(
                command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=_PROCESS_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = error if isinstance(error, OSError) else "timed out"
            raise UserError(f"gate: no benchmark ran with the code in {code.name}: {why}") from error
        try:
            found = json.loads(file.read_text())["benchmarks"]
            return {one["fullname"].rpartition("/")[2]: float(one["stats"]["median"]) for one in found}
        except (OSError, ValueError, KeyError, TypeError) as error:
            last = said.stdout.strip().splitlines()[-1:]
            raise UserError(f"gate: no benchmark ran with the code in {code.name}: {' '.join(last) or error}") from error
