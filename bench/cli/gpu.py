"""`bench gpu`: what only a GPU can measure, in minutes, in order of worth; each part is a command of its own with a time limit."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from tabulate import tabulate

from bench.cli.options import Data, Device, Results, parse_device
from bench.records.errors import UserError, unknown

_STATUS, _SUMMARY = "gpu.json", "GPU.md"
_TABLES_S = 25.0  # of the budget, kept for the tables
_LEAST_S = 5.0  # a part is not started with less
_SAVING_S = 20.0  # for a stopped command to save its state
_SCALES = ("full", "tiny")
_TESTS = Path(__file__).parents[2] / "tests" / "test_cuda.py"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command after `python -m`, its time limit, the file for its output, and what was found, as words for the summary."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    output: str
    found: Callable[[Path], str] = lambda results: ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended: done, failed, stopped (at its limit) or left (no time); `code`: the digest of the code that it ran."""

    name: str
    status: str
    reason: str
    seconds: float
    command: str
    code: str


def gpu(
    budget: Annotated[float, typer.Option(min=30, metavar="SECONDS", help="time for all parts")] = 540.0,
    results: Results = Path("results/gpu"),
    device: Device = "auto",
    scale: Annotated[str, typer.Option(help="full, or tiny: small sizes, to try the command on a CPU")] = "full",
    data: Data = None,
    jobs: Annotated[int, typer.Option(min=1, help="trainings that share the GPU")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="at most so many seeds of the trainings, one after the other")] = 3,
) -> None:
    """Measure on a GPU: instruments, tests, memory and times of the paper's models, solvers next to TorchDEQ, Penn Treebank.

    The same command goes on where one was stopped; what is done is not repeated. Exit status 0: no part failed; 1: one did.
    """
    from bench.records.identity import project_digest
    from bench.records.record import write_text

    begin = time.monotonic()
    if scale not in _SCALES:
        raise unknown("scale", scale, _SCALES)
    if scale == "full" and parse_device(device) == "cpu":
        from bench.instruments.environment import why_no_gpu

        raise UserError(f"gpu: {why_no_gpu()}; --scale tiny --device cpu tries the command without one")
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"gpu: cannot write {results}: {error.strerror}") from error
    parts, code = make_parts(parse_device(device), scale, results, data or [], jobs, seeds), project_digest()
    outcomes = _read(results)

    def note(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        write_text(results / _STATUS, json.dumps([asdict(one) for one in outcomes.values()], indent=1) + "\n")

    for part in parts:
        known, left = outcomes.get(part.name), budget - (time.monotonic() - begin)
        done = known is not None and (known.status, known.command, known.code) == ("done", " ".join(part.command), code)
        if done and part is not parts[-1]:  # the tables are of what is there now
            typer.echo(f"{part.name}: done before", err=True)
            continue
        limit = left if part is parts[-1] else min(part.limit_s, left - _TABLES_S)
        typer.echo(f"{part.name}: at most {max(0.0, limit):.0f} s", err=True)
        note(_run(part, results, limit, code))
    table = summary(parts, outcomes, results)
    write_text(results / _SUMMARY, f"# Measured on a GPU\n\n{tabulate(table, headers='keys', tablefmt='pipe')}\n")
    print(tabulate(table, headers="keys", tablefmt="simple", maxcolwidths=[None, None, None, 44]))
    raise typer.Exit(1 if any(outcomes[part.name].status == "failed" for part in parts) else 0)


def make_parts(device: str, scale: str, results: Path, data: list[str], jobs: int, seeds: int) -> list[Part]:
    """The parts in their order, the tables last."""
    full, on = scale == "full", ("--device", device)
    rows = () if full else ("--only", "Transformer-XL small, 4*")
    problems = ("--rounds", "3") if full else ("--problem", "tiny", "--rounds", "1")
    suite, given = ("ptb-gpu", data or ["ptb"]) if full else ("tiny", data)
    training = ["bench", "run", suite, *on, "--results", str(results), "--jobs", str(jobs if full else 1)]
    training += [word for pair in given for word in ("--data", pair)] + ([] if full else ["--only", "copy*/GRU"])
    tests = ("pytest", "-m", "cuda", "-p", "no:cacheprovider", str(_TESTS))

    def part(name: str, limit_s: float, output: str, *command: str, found: Callable[[Path], str] = lambda results: "") -> Part:
        return Part(name=name, command=command, limit_s=limit_s, output=output, found=found)

    return [
        part("instruments", 30, "doctor.txt", "bench", "doctor"),
        part("tests", 110, "tests.txt", *tests, found=_last_line),
        part("memory and times", 240, "memory.txt", "bench", "memory", *on, *rows, "--out", str(results / "memory"), found=_memory),
        part("solvers", 150, "solvers.txt", "bench", "peers", *on, *problems, "--out", str(results / "peers"), found=_solvers),
        *(
            part(f"trainings, seed {seed}", 600, f"trainings-{seed}.txt", *training, "--seeds", str(seed), found=_scores)
            for seed in range(seeds if full else 1)
        ),
        part("tables", 60, "report.txt", "bench", "report", "--results", str(results)),
    ]


def _read(results: Path) -> dict[str, Outcome]:
    try:
        found = json.loads((results / _STATUS).read_text(encoding="utf-8"))
        return {one["name"]: Outcome(**one) for one in found}
    except (OSError, ValueError, TypeError, KeyError):  # absent, or of another version: all is measured again
        return {}


def _run(part: Part, results: Path, limit: float, code: str) -> Outcome:
    """Run a part's command, stopped at the limit in seconds: first by SIGTERM, so that it can save its state."""
    begin, command = time.monotonic(), " ".join(part.command)

    def outcome(status: str, reason: str = "") -> Outcome:
        return Outcome(
            name=part.name, status=status, reason=reason, seconds=round(time.monotonic() - begin, 1), command=command, code=code
        )

    if limit < _LEAST_S:
        return outcome("left", "no time was left")
    with (results / part.output).open("w", encoding="utf-8") as output, _process(part, output) as process:
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return outcome("stopped", f"at its limit of {limit:.0f} s")
    if status == 0:
        return outcome("done")
    return outcome("failed", f"exit status {status}: {_last_line(results, part.output)}")


@contextlib.contextmanager
def _process(part: Part, output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The started command; where it is left running, also by Ctrl-C, it is asked to save its state, then killed."""
    command = [sys.executable, "-m", *part.command]
    # In a session of its own: Ctrl-C reaches this process alone, and the part gets one signal, since a second ends it at once.
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SAVING_S)
        process.kill()
        process.wait()


def summary(parts: list[Part], outcomes: dict[str, Outcome], results: Path) -> list[dict[str, str]]:
    """A line for each part: how it ended, its seconds, and what was found."""
    lines = []
    for part in parts:
        outcome = outcomes[part.name]
        words = outcome.reason
        if outcome.status in ("done", "stopped"):
            with contextlib.suppress(UserError, OSError, KeyError, ValueError, IndexError):  # a stopped part has perhaps no record
                words = "; ".join(filter(None, (outcome.reason, part.found(results))))
        lines.append({"part": part.name, "status": outcome.status, "seconds": f"{outcome.seconds:.0f}", "found": words})
    return lines


def _last_line(results: Path, output: str = "tests.txt") -> str:
    lines = (results / output).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _memory(results: Path) -> str:
    """The allocator's peak over its prediction, and a DEQ's time over the explicit network's."""
    from bench.memory import tables
    from bench.memory.record import NAME
    from bench.records.side_file import MEMORY

    record = MEMORY.read(results / "memory" / NAME) or {}
    if record["device"]["reason"] is not None:
        return str(record["device"]["reason"])
    ratios = [row[-2].value for row in tables.on_device(record).rows if row[-2].value is not None]
    times = [f"{row[2].text} {row[6].text}" for row in tables.times(record).rows]
    return f"allocated / predicted {min(ratios):.3f} to {max(ratios):.3f}; DEQ / explicit, time: {', '.join(times)}"


def _solvers(results: Path) -> str:
    """TorchDEQ's time over ours, by problem."""
    from bench.peers import show
    from bench.records.side_file import PEERS

    record = PEERS.read(results / "peers" / "peers.json") or {}
    found: dict[str, list[float]] = {}
    for row in show.tables(record)["overhead"].rows:
        found.setdefault(row[0].text, []).append(float(row[-1].value or 0))
    spans = [f"{problem} {min(ratios):.2f} to {max(ratios):.2f}" for problem, ratios in found.items()]
    return f"TorchDEQ's step over ours, time: {', '.join(spans)}"


def _scores(results: Path) -> str:
    """The test score of every model, the mean over seeds."""
    from bench.analysis.frame import load

    runs = load(results)
    runs = runs[(runs.role == "final") & (runs.status == "ok") & (runs.suite.isin(["ptb-gpu", "tiny"]))]
    score = "test_perplexity" if "test_perplexity" in runs and runs.test_perplexity.notna().any() else "test_loss"
    means = runs.groupby("label")[score].agg(["mean", "count"]).sort_values("mean")
    scores = ", ".join(f"{label} {row['mean']:.4g} ({row['count']:.0f})" for label, row in means.iterrows())
    return f"{score.replace('_', ' ')} (runs): {scores}"
