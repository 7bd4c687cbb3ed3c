"""The comparison with peers as tables, from its record."""

import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import quantile_test
from tabulate import tabulate

Row = dict[str, Any]
_NAMES = {"picard": "Picard", "anderson": "Anderson", "broyden": "Broyden"}
_MIB = 2**20


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, which asks nothing of the distribution; with fewer than six values
    there is none, and the interval is the range."""
    if len(values) < 6:
        return statistics.median(values), min(values), max(values)
    bounds = quantile_test(values, q=statistics.median(values), p=0.5).confidence_interval(0.95)
    return statistics.median(values), float(bounds.low), float(bounds.high)


def _interval(values: Sequence[float]) -> str:
    middle, low, high = median(values)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _pipe(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True) + "\n"


def overhead(rows: Sequence[Row], libraries: Sequence[str]) -> str:
    """A training step over its floor, a line for each problem and method."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for method in _NAMES:
            found = {row["library"]: row for row in rows if (row["problem"], row["method"]) == (problem, method)}
            line = [problem, _NAMES[method]]
            for library in libraries:
                row = found[library]
                line += [_interval([step / floor for step, floor in zip(row["step_s"], row["floor_s"], strict=True)])]
                line += [f"{1e3 * statistics.median(row['step_s']):.3g}", f"{row['evaluations']} + {row['products']}"]
            first, other = (found[library]["step_s"] for library in libraries[:2])
            lines.append([*line, _interval([theirs / ours for ours, theirs in zip(first, other, strict=True)])])
    header = ["problem", "method"]
    for library in libraries:
        header += [f"{library}: step / floor", "ms", "f + VJP"]
    return _pipe([*header, f"{libraries[1]} / {libraries[0]}, time"], lines)


def steps(rows: Sequence[Row], libraries: Sequence[str]) -> str:
    """Evaluations that each solve took to a tolerance, and the residual of what it returned where that is above it."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for method in _NAMES:
            mine = [row for row in rows if (row["problem"], row["method"]) == (problem, method)]
            for library in libraries:
                cells = []
                for dtype, rtol in (("float32", 1e-3), ("float32", 1e-6), ("float64", 1e-9)):
                    found = [row for row in mine if (row["library"], row["dtype"], row["rtol"]) == (library, dtype, rtol)]
                    cells.append(_reached(found[0]) if found else "")
                lines.append([problem, _NAMES[method], library, *cells])
    return _pipe(["problem", "method", "library", "1e-3 (float32)", "1e-6 (float32)", "1e-9 (float64)"], lines)


def _reached(row: Row) -> str:
    """What came back is below the tolerance to a few roundings of the residual's own evaluation, or it says how far it is."""
    slack = 1 + 1e-2 if row["dtype"] == "float64" or row["rtol"] > 1e-5 else 1.5
    if row["residual"] <= slack * row["rtol"]:
        return f"{row['evaluations']}"
    return f"{row['evaluations']}, left at {row['residual']:.0e}"


def memory(rows: Sequence[Row], libraries: Sequence[str]) -> str:
    """Bytes saved for backward and the peak of a step, over that of one evaluation and its backward plus one state."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == problem]
        one = next(row for row in mine if row["method"] == "one evaluation")
        floor = one["peak_bytes"] + one["state_bytes"]
        for row in mine:
            method = _NAMES.get(row["method"], row["method"])
            saved, peak = row["saved_bytes"] / _MIB, row["peak_bytes"] / _MIB
            lines.append([problem, method, row["library"], f"{saved:.4g}", f"{peak:.4g}", f"{row['peak_bytes'] / floor:.2f}"])
    return _pipe(["problem", "method", "library", "saved (MiB)", "peak (MiB)", "peak / (one evaluation's + a state)"], lines)


def against_plain(rows: Sequence[Row]) -> str:
    """Training steps of the explicit baselines over those of plain torch."""
    lines = []
    for row in rows:
        times = (f"{1e3 * statistics.median(row[name]):.3g}" for name in ("model_s", "reference_s"))
        ratio = _interval([mine / theirs for mine, theirs in zip(row["model_s"], row["reference_s"], strict=True)])
        lines.append([row["shape"], row["model"], *times, row["reference"], ratio])
    return _pipe(["shape", "model", "ms", "reference (ms)", "reference", "model / reference, time"], lines)


def harness(rows: Sequence[Row]) -> str:
    """A training step in the harness over the same in a bare loop."""
    lines = []
    for row in rows:
        times = (f"{1e3 * statistics.median(row[name]):.4g}" for name in ("harness_s", "bare_s"))
        ratio = [mine / theirs for mine, theirs in zip(row["harness_s"], row["bare_s"], strict=True)]
        middle, low, high = (100 * (value - 1) for value in median(ratio))
        lines.append([row["model"], *times, f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"])
    return _pipe(["model", "a step in the harness (ms)", "in a bare loop (ms)", "more (%)"], lines)


def tables(record: dict[str, Any]) -> dict[str, str]:
    """Every table of a record as Markdown, by its name."""
    libraries = list(record["libraries"])
    return {
        "overhead": overhead(record["overhead"], libraries),
        "steps": steps(record["steps"], libraries),
        "memory": memory(record["memory"], libraries),
        "baselines": against_plain(record["baselines"]),
        "harness": harness(record["harness"]),
    }
