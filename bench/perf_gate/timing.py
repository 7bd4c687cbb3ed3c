"""The timing tier: base and head timed alternately on one machine, in fresh processes, by pytest-benchmark.

No time is compared with a stored one, and both sides run head's benchmarks. Each round times base, head and base again, in random
order. The log-ratio of head to base (the mean of its two) is the effect, that of base to itself the noise; its 95 % half-width is
the floor: the difference that identical code can show. A regression is slower by more than the threshold (3 %, or twice the
floor), its interval above 0; a pass is surely not slower by 3 %; between them, more rounds decide. 20 % trimmed means ignore single
slow processes.
"""

import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import mstats

from bench.records.errors import UserError

Verdict = Literal["pass", "regression", "faster", "inconclusive"]
Times = Mapping[str, float]  # seconds by benchmark
LEAST = math.log1p(0.03)
ROUNDS = 6  # before anything is decided
_SHORT = ("--benchmark-min-rounds=5", "--benchmark-max-time=0.1", "--benchmark-warmup=on", "--benchmark-warmup-iterations=2")
_PROCESS_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Log-ratio of head to base with its 95 % interval, the floor and the threshold (log-ratios too), and the verdict."""

    mean: float
    low: float
    high: float
    floor: float
    threshold: float
    verdict: Verdict


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the 20 % trimmed mean; infinite with fewer than three values."""
    if len(values) < 3:
        return -math.inf, math.inf
    low, high = mstats.trimmed_mean_ci(values, limits=(0.2, 0.2), alpha=0.05)
    return float(low), float(high)


def decide(effects: Sequence[float], noise: Sequence[float]) -> Effect:
    """The Effect from each round's log-ratios: of head to base, and of base to itself."""
    (low, high), (noise_low, noise_high) = interval(effects), interval(noise)
    mean = (low + high) / 2 if math.isfinite(high) else statistics.fmean(effects or [0.0])
    floor = (noise_high - noise_low) / 2
    threshold = max(LEAST, 2 * floor)
    verdict: Verdict = "inconclusive"
    if len(effects) >= ROUNDS and math.isfinite(high) and math.isfinite(floor):
        if mean > threshold and low > 0:
            verdict = "regression"
        elif mean < -threshold and high < 0:
            verdict = "faster"
        elif high < LEAST:
            verdict = "pass"
    return Effect(mean=mean, low=low, high=high, floor=floor, threshold=threshold, verdict=verdict)


@dataclass
class TimingComparison:
    """The rounds so far: seconds by benchmark of base, head, and base again."""

    base: str
    head: str
    rounds: list[tuple[Times, Times, Times]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def names(self) -> list[str]:
        """The benchmarks that both sides ran in every round."""
        return sorted(set.intersection(*({*times} for one in self.rounds for times in one))) if self.rounds else []

    @property
    def missing(self) -> list[str]:
        """Benchmarks that head has and base cannot run."""
        return sorted({name for _, head, _ in self.rounds for name in head} - {*self.names})

    @property
    def lost(self) -> list[str]:
        """Benchmarks that base ran and head never did: they fail there, or are gone."""
        return sorted({name for base, _, _ in self.rounds for name in base} - {name for _, head, _ in self.rounds for name in head})

    def effects(self) -> dict[str, Effect]:
        """The effect on each benchmark."""
        found = {}
        for name in self.names:
            base, head, again = np.log([[times[name] for times in one] for one in self.rounds]).T
            found[name] = decide((head - (base + again) / 2).tolist(), (again - base).tolist())
        return found

    def median_s(self, side: int, name: str) -> float:
        """Median over the rounds of base (0) or head (1)."""
        return statistics.median(one[side][name] for one in self.rounds)

    @property
    def decided(self) -> bool:
        """Whether every benchmark has a verdict."""
        effects = self.effects().values() if len(self.rounds) >= ROUNDS else ()
        return bool(effects) and all(effect.verdict != "inconclusive" for effect in effects)


def compare(
    run: Callable[[Literal["base", "head"]], Times],
    *,
    budget_s: float,
    max_rounds: int = 40,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[TimingComparison], None] = lambda _: None,
) -> TimingComparison:
    """Rounds of base, head and base again, in random order, until all is decided or another round would exceed the budget.

    `run` times all benchmarks of a side in a fresh process.
    """
    generator, found, start = random.Random(seed), TimingComparison("base", "head"), clock()
    while len(found.rounds) < max_rounds and not found.decided:
        if found.rounds and found.seconds * (1 + 1 / len(found.rounds)) > budget_s:
            break
        order = [0, 1, 2]
        generator.shuffle(order)
        times = {turn: run("head" if turn == 1 else "base") for turn in order}
        found.rounds.append((times[0], times[1], times[2]))
        found.seconds = clock() - start
        report(found)
    return found


@contextmanager
def checkout(repository: Path, revision: str | None) -> Iterator[Path]:
    """The code of a revision in a temporary worktree; for None, the repository itself."""
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
    """A revision's short hash; of the working tree for None, marked where it differs from its commit."""
    short = _git(repository, "rev-parse", "--short", f"{revision or 'HEAD'}^{{commit}}")
    return short + ("" if revision is not None or not _git(repository, "status", "--porcelain", "-uno") else " with changes")


def _git(folder: Path, *arguments: str) -> str:
    # GIT_DIR and the like, as set inside a hook, would name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, env=variables)
    except OSError as error:
        raise UserError(f"gate: git cannot be run ({error})") from error
    if done.returncode:
        raise UserError(f"gate: git {arguments[0]} {arguments[-1]}: {done.stderr.strip() or 'failed'}")
    return done.stdout.strip()


class Benchmarks:
    """A copy of a folder (or file) of pytest-benchmark's benchmarks, so that both sides run the same; `only` as pytest's -k."""

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
        # Without the options of a surrounding pytest: a worker of pytest-xdist would time nothing.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(code), "PYTHONHASHSEED": "0"}
        last: list[str] = []
        try:
            done = subprocess.run(
                command, cwd=self._folder, env=inherited | fixed, capture_output=True, text=True, timeout=_PROCESS_S, check=False
            )
            last = done.stdout.strip().splitlines()[-1:]
            found = json.loads(file.read_text())["benchmarks"]
            return {one["fullname"].rpartition("/")[2]: float(one["stats"]["median"]) for one in found}
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            raise UserError(f"gate: no benchmark ran with the code in {code.name}: {' '.join(last) or error}") from error
