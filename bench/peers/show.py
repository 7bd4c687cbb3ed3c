"""Tables of the comparison with peers, as Markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import quantile_test
from tabulate import tabulate

Row = dict[str, Any]
_NAMES = {"picard": "Picard", "anderson": "Anderson", "broyden": "Broyden"}
_MIB = 2**20


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, free of the distribution; the range of fewer than six values."""
    middle = statistics.median(values)
    if len(values) < 6:
        return middle, min(values), max(values)
    bounds = quantile_test(values, q=middle, p=0.5).confidence_interval(0.95)
    return middle, float(bounds.low), float(bounds.high)


def _ratio(some: Sequence[float], others: Sequence[float]) -> str:
    middle, low, high = median([one / other for one, other in zip(some, others, strict=True)])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _ms(seconds: Sequence[float], digits: int = 3) -> str:
    return f"{1e3 * statistics.median(seconds):.{digits}g}"


def _pipe(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True) + "\n"


def overhead(rows: Sequence[Row], libraries: Sequence[str]) -> str:
    """A training step over its floor, by problem and method."""
    by_key = {(row["problem"], row["method"], row["library"]): row for row in rows}
    lines = []
    for problem, method in dict.fromkeys(key[:2] for key in by_key):
        found = [by_key[problem, method, library] for library in libraries]
        line = [problem, _NAMES[method]]
        for row in found:
            line += [_ratio(row["step_s"], row["floor_s"]), _ms(row["step_s"]), f"{row['evaluations']} + {row['products']}"]
        lines.append([*line, _ratio(found[1]["step_s"], found[0]["step_s"])])
    columns = [name for library in libraries for name in (f"{library}: step / floor", "ms", "f + VJP")]
    return _pipe(["problem", "method", *columns, f"{libraries[1]} / {libraries[0]}, time"], lines)


def steps(rows: Sequence[Row]) -> str:
    """Evaluations that each solve took to a tolerance, and the residual of its result where that is above it."""
    cells = {(row["problem"], row["method"], row["library"], row["rtol"]): _evaluations(row) for row in rows}
    lines = [
        [problem, _NAMES[method], library, *(cells.get((problem, method, library, rtol), "") for rtol in (1e-3, 1e-6, 1e-9))]
        for problem, method, library in dict.fromkeys(key[:3] for key in cells)
    ]
    return _pipe(["problem", "method", "library", "1e-3 (float32)", "1e-6 (float32)", "1e-9 (float64)"], lines)


def _evaluations(row: Row) -> str:
    """The evaluations, with the residual where it exceeds the tolerance by more than a few roundings."""
    slack = 1 + 1e-2 if row["dtype"] == "float64" or row["rtol"] > 1e-5 else 1.5
    reached = row["residual"] <= slack * row["rtol"]
    return f"{row['evaluations']}" if reached else f"{row['evaluations']}, left at {row['residual']:.0e}"


def memory(rows: Sequence[Row]) -> str:
    """Bytes saved for backward and the peak of a step, over that of one evaluation and its backward plus one state."""
    ones = {row["problem"]: row["peak_bytes"] + row["state_bytes"] for row in rows if row["method"] == "one evaluation"}
    lines = []
    for row in rows:
        sizes = (f"{row[name] / _MIB:.4g}" for name in ("saved_bytes", "peak_bytes"))
        method = _NAMES.get(row["method"], row["method"])
        lines.append([row["problem"], method, row["library"], *sizes, f"{row['peak_bytes'] / ones[row['problem']]:.2f}"])
    return _pipe(["problem", "method", "library", "saved (MiB)", "peak (MiB)", "peak / (one evaluation's + a state)"], lines)


def baselines(rows: Sequence[Row]) -> str:
    """Training steps of the explicit baselines over those of plain torch."""
    lines = []
    for row in rows:
        mine, plain = row["model_s"], row["reference_s"]
        lines.append([row["shape"], row["model"], _ms(mine), _ms(plain), row["reference"], _ratio(mine, plain)])
    return _pipe(["shape", "model", "ms", "reference (ms)", "reference", "model / reference, time"], lines)


def harness(rows: Sequence[Row]) -> str:
    """A training step in the harness over the same step in a plain loop."""
    lines = []
    for row in rows:
        ratio = [mine / theirs for mine, theirs in zip(row["harness_s"], row["bare_s"], strict=True)]
        middle, low, high = (100 * (value - 1) for value in median(ratio))
        times = (_ms(row[name], 4) for name in ("harness_s", "bare_s"))
        lines.append([row["model"], *times, f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"])
    return _pipe(["model", "a step in the harness (ms)", "in a bare loop (ms)", "more (%)"], lines)


def tables(record: dict[str, Any]) -> dict[str, str]:
    """Every table of a record as Markdown, by its name."""
    return {
        "overhead": overhead(record["overhead"], list(record["libraries"])),
        "steps": steps(record["steps"]),
        "memory": memory(record["memory"]),
        "baselines": baselines(record["baselines"]),
        "harness": harness(record["harness"]),
    }
