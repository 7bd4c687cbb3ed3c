"""The timing tier: base and head timed alternately on one machine, in fresh processes, by pytest-benchmark.

No time is compared with a stored one, and both sides run head's benchmarks. Each round times base, head and base again, in random
order, by processor time and by wall time: on a loaded machine the first still decides, and the second sees waiting. The log-ratio
of head to base (the mean of its two) is the effect, that of base to itself the noise; its 95 % half-width is the floor: the
difference that identical code can show. 20 % trimmed means ignore single slow processes.

A regression is an interval wholly above the threshold (3 %, or twice the floor), after ROUNDS rounds one above 0 whose mean is
above the threshold; or, at any number of rounds, processor times whose lower quartile in head is in every round 50 % above both
upper quartiles of base. A pass is surely not slower by 3 %. Else it is inconclusive, for too few rounds or too much noise, and more
rounds decide. Either clock makes a regression.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import mstats

from bench.records.errors import UserError

Verdict = Literal["pass", "regression", "faster", "inconclusive"]
Clock = Literal["cpu", "wall"]
LEAST = math.log1p(0.03)
GROSS = math.log(1.5)  # between quartiles: more than a busy neighbour on the same core does to processor time
ROUNDS = 6  # before anything is passed
_SHORT = ("--benchmark-min-rounds=5", "--benchmark-max-time=0.1", "--benchmark-warmup=on", "--benchmark-warmup-iterations=2")
_PROCESS_S = 300.0
_CLOCK = "gate_clock"  # the plugin


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A benchmark in one process: medians of processor and wall time, and the quartiles of processor time, in seconds a call."""

    cpu_s: float
    wall_s: float
    cpu_low_s: float
    cpu_high_s: float


Times = Mapping[str, Reading]  # by benchmark


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Log-ratio of head to base with its 95 % interval, floor and threshold (log-ratios too), the verdict, and the clock that gave
    it; `reason`: why a verdict is inconclusive."""

    mean: float
    low: float
    high: float
    floor: float
    threshold: float
    verdict: Verdict
    clock: Clock = "cpu"
    reason: str = ""


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
    known = len(effects) >= ROUNDS and math.isfinite(high) and math.isfinite(floor)
    if math.isfinite(floor) and (low > threshold or (known and mean > threshold and low > 0)):
        verdict = "regression"
    elif known and mean < -threshold and high < 0:
        verdict = "faster"
    elif known and high < LEAST:
        verdict = "pass"
    reason = ""
    if verdict == "inconclusive":
        reason = f"noise of {100 * math.expm1(floor):.3g} %" if known else f"{len(effects)} of {ROUNDS} rounds"
    return Effect(mean=mean, low=low, high=high, floor=floor, threshold=threshold, verdict=verdict, reason=reason)


def judge(rounds: Sequence[tuple[Reading, Reading, Reading]]) -> Effect:
    """The Effect on one benchmark from its readings of base, head and base again in every round."""
    found: dict[Clock, Effect] = {}
    clocks: tuple[Clock, ...] = ("cpu", "wall")
    for clock in clocks:
        base, head, again = np.log([[getattr(reading, f"{clock}_s") for reading in one] for one in rounds]).T
        effect = decide((head - (base + again) / 2).tolist(), (again - base).tolist())
        found[clock] = replace(effect, clock=clock)
    cpu, wall = found["cpu"], found["wall"]
    gross = [math.log(head.cpu_low_s / max(base.cpu_high_s, again.cpu_high_s)) > GROSS for base, head, again in rounds]
    if gross and all(gross):
        return replace(cpu, verdict="regression", reason="")
    if wall.verdict == "regression" and cpu.verdict != "regression":
        return wall
    return wall if cpu.verdict == "inconclusive" != wall.verdict else cpu


@dataclass
class TimingComparison:
    """The rounds so far: readings by benchmark of base, head, and base again."""

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
        return sorted({name for _, head, _ in self.rounds for name in head} - {*self.names, *self.lost})

    @property
    def lost(self) -> list[str]:
        """Benchmarks that head did not run in a round in which base did: they fail there, or are gone."""
        return sorted({name for base, head, _ in self.rounds for name in base.keys() - head.keys()})

    def effects(self) -> dict[str, Effect]:
        """The effect on each benchmark."""
        return {name: judge([(one[0][name], one[1][name], one[2][name]) for one in self.rounds]) for name in self.names}

    def median_s(self, side: int, name: str) -> float:
        """Median of processor time over the rounds of base (0) or head (1)."""
        return statistics.median(one[side][name].cpu_s for one in self.rounds)

    @property
    def decided(self) -> bool:
        """Whether every benchmark has a verdict."""
        effects = self.effects().values()
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


def _reading(found: Mapping[str, Any]) -> Reading:
    """A benchmark in pytest-benchmark's JSON as a Reading."""
    stats = found["stats"]
    return Reading(
        cpu_s=float(stats["median"]),
        wall_s=float(found["extra_info"]["wall_s"]),
        cpu_low_s=float(stats["q1"]),
        cpu_high_s=float(stats["q3"]),
    )


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
        shutil.copy(Path(__file__).with_name(f"{_CLOCK}.py"), folder)

    def run(self, code: Path) -> dict[str, Reading]:
        """Each benchmark's reading with that code, in a fresh process with one thread; UserError where none ran."""
        file = self._folder / "times.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-B", "-m", "pytest", str(self._place), "-c", os.devnull, f"--rootdir={self._place}", "-q"]
        command += ["-p", "no:cacheprovider", "-p", _CLOCK, f"--benchmark-timer={_CLOCK}.clock"]
        command += ["--benchmark-only", f"--benchmark-json={file}", *_SHORT]
        command += ["-k", self._only] if self._only else []
        # Without the options of a surrounding pytest: a worker of pytest-xdist would time nothing.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        fixed = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": f"{code}{os.pathsep}{self._folder}",
            "PYTHONHASHSEED": "0",
        }
        last: list[str] = []
        try:
            done = subprocess.run(
                command, cwd=self._folder, env=inherited | fixed, capture_output=True, text=True, timeout=_PROCESS_S, check=False
            )
            last = done.stdout.strip().splitlines()[-1:]
            found = json.loads(file.read_text())["benchmarks"]
            return {one["fullname"].rpartition("/")[2]: _reading(one) for one in found}
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            raise UserError(f"gate: no benchmark ran with the code in {code.name}: {' '.join(last) or error}") from error
