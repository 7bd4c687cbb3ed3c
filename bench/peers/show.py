"""Tables of the comparison with peers, as Markdown."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from scipy.stats import quantile_test
from tabulate import tabulate

from bench.analysis.grid import Cell, Line, Sample, Table, gathered, line
from bench.peers.measure import STOPPING

Row = dict[str, Any]
_NAMES = {"picard": "Picard", "anderson": "Anderson", "broyden": "Broyden"}
_MIB = 2**20
_TIMED = ("overhead", "stopping", "baselines", "inference", "graphs")  # in one window, whose contention is recorded
_INTERVAL = "Median over rounds taken in turns; in brackets its 95 % interval by order statistics, or the range of fewer than six."
_COUNTED = "Counted once: the same in every run."


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, free of the distribution; the range of fewer than six values."""
    middle = statistics.median(values)
    if len(values) < 6:
        return middle, min(values), max(values)
    bounds = quantile_test(values, q=middle, p=0.5).confidence_interval(0.95)
    return middle, float(bounds.low), float(bounds.high)


def _rounds(values: Sequence[float]) -> tuple[Sample, ...]:
    return tuple(Sample(f"round {number}", value) for number, value in enumerate(values, 1))


def _ratio(row: Sequence[float], reference: Sequence[float], measure: str = "") -> Cell:
    values = [mine / theirs for mine, theirs in zip(row, reference, strict=True)]
    middle, low, high = median(values)
    return Cell(f"{middle:.2f} [{low:.2f}, {high:.2f}]", value=middle, samples=_rounds(values), measure=measure)


def _ms(seconds: Sequence[float], digits: int = 3, measure: str = "") -> Cell:
    middle = 1e3 * statistics.median(seconds)
    return Cell(f"{middle:.{digits}g}", value=middle, unit="ms", samples=_rounds([1e3 * one for one in seconds]), measure=measure)


def overhead(rows: Sequence[Row], libraries: Sequence[str]) -> Table:
    """A training step over its floor, a line for each problem and method."""
    title = "A training step by each library, over its floor"
    return _timed("overhead", title, "step", "f + VJP", rows, libraries, lambda row: f"{row['evaluations']} + {row['products']}")


def stopping(rows: Sequence[Row], libraries: Sequence[str]) -> Table:
    """A forward solve that stops by itself over its floor, a line for each problem and method."""
    title = f"A forward solve to {STOPPING:g} by each library, over its floor"
    return _timed("stopping", title, "solve", "f", rows, libraries, lambda row: str(row["evaluations"]))


def _timed(
    kind: str, title: str, what: str, counted: str, rows: Sequence[Row], libraries: Sequence[str], count: Callable[[Row], str]
) -> Table:
    """Times over their floors: each library's ratio, milliseconds and counts, and the time of the second over the first."""
    lines = []
    for (problem, method), mine in gathered(((row["problem"], row["method"]), row) for row in rows).items():
        found = {row["library"]: row for row in mine}
        cells: list[Cell] = []
        for library in libraries:
            row, seconds = found[library], found[library][f"{what}_s"]
            cells += [_ratio(seconds, row["floor_s"]), _ms(seconds, measure=f"ms ({library})")]
            cells.append(Cell(count(row), measure=f"{counted} ({library})"))
        first, other = (found[library][f"{what}_s"] for library in libraries[:2])
        lines.append(line(problem, _NAMES[method], *cells, _ratio(other, first)))
    heads = ["problem", "method"]
    for library in libraries:
        heads += [f"{library}: {what} / floor", "ms", counted]
    heads.append(f"{libraries[1]} / {libraries[0]}, time")
    text_columns = (0, 1, *range(4, len(heads) - 1, 3))
    return _table(kind, title, _INTERVAL, heads, lines, text_columns=text_columns, label_columns=2)


def steps(rows: Sequence[Row]) -> Table:
    """Evaluations that each solve took to a tolerance, and the residual of its result where that is above it."""
    lines = []
    for (problem, method, library), mine in gathered(
        ((row["problem"], row["method"], row["library"]), row) for row in rows
    ).items():
        found = {(row["dtype"], row["rtol"]): _reached(row) for row in mine}
        cells = (found.get(key, Cell("")) for key in (("float32", 1e-3), ("float32", 1e-6), ("float64", 1e-9)))
        lines.append(line(problem, _NAMES[method], library, *cells))
    heads = ["problem", "method", "library", "1e-3 (float32)", "1e-6 (float32)", "1e-9 (float64)"]
    return _table("steps", "Evaluations of a solve to a tolerance", _COUNTED, heads, lines, text_columns=(0, 1, 2), label_columns=3)


def _reached(row: Row) -> Cell:
    """A residual counts as below the tolerance within a few roundings of its own evaluation; a larger one is shown."""
    slack = 1 + 1e-2 if row["dtype"] == "float64" or row["rtol"] > 1e-5 else 1.5
    left = "" if row["residual"] <= slack * row["rtol"] else f", left at {row['residual']:.0e}"
    samples = (Sample("evaluations", row["evaluations"]), Sample("residual", row["residual"]))
    return Cell(f"{row['evaluations']}{left}", value=row["evaluations"], samples=samples)


def launches(rows: Sequence[Row], libraries: Sequence[str]) -> Table:
    """Operators that a GPU launches for an evaluation, a line for each problem and method."""
    lines = []
    for (problem, method), mine in gathered(((row["problem"], row["method"]), row) for row in rows).items():
        found = {row["library"]: row for row in mine}
        cells = [Cell(f"{mine[0]['f']}", value=mine[0]["f"])]
        for library in libraries:
            waits = found[library].get("waits")  # older records have none
            cells.append(Cell(f"{found[library]['launches']:.4g}", value=found[library]["launches"]))
            cells.append(Cell("n/a" if waits is None else f"{waits:.3g}", value=waits))
        lines.append(line(problem, _NAMES[method], *cells))
    heads = ["problem", "method", "f alone", *(head for library in libraries for head in (library, f"{library}: waits"))]
    title = "Operators that a GPU launches for one more evaluation of a solve, and waits of the host"
    caption = f"{_COUNTED} On a CPU ours takes the path that it takes on a GPU."
    return _table("launches", title, caption, heads, lines, text_columns=(0, 1), label_columns=2)


def memory(rows: Sequence[Row]) -> Table:
    """Bytes saved for backward and the peak of a step, over that of one evaluation and its backward plus one state."""
    lines = []
    for problem, mine in gathered((row["problem"], row) for row in rows).items():
        one = next(row for row in mine if row["method"] == "one evaluation")
        floor = one["peak_bytes"] + one["state_bytes"]
        for row in mine:
            method = str(_NAMES.get(row["method"], row["method"]))
            sizes = (Cell(f"{row[name] / _MIB:.4g}", value=row[name], unit="B") for name in ("saved_bytes", "peak_bytes"))
            ratio = Cell(f"{row['peak_bytes'] / floor:.2f}", value=row["peak_bytes"] / floor)
            lines.append(line(problem, method, row["library"], *sizes, ratio))
    heads = ["problem", "method", "library", "saved (MiB)", "peak (MiB)", "peak / (one evaluation's + a state)"]
    return _table(
        "memory", "Memory of a training step by each library", _COUNTED, heads, lines, text_columns=(0, 1, 2), label_columns=3
    )


def baselines(rows: Sequence[Row]) -> Table:
    """Training steps of the explicit baselines over those of plain torch."""
    lines = []
    for row in rows:
        mine, theirs = row["model_s"], row["reference_s"]
        lines.append(line(row["shape"], row["model"], _ms(mine), _ms(theirs), row["reference"], _ratio(mine, theirs)))
    heads = ["shape", "model", "ms", "reference (ms)", "reference", "model / reference, time"]
    title = "Training steps of the explicit baselines against plain torch"
    return _table("baselines", title, _INTERVAL, heads, lines, text_columns=(0, 1, 4), label_columns=2)


def harness(rows: Sequence[Row]) -> Table:
    """A training step in the harness over the same in a bare loop."""
    lines = []
    for row in rows:
        more = [100 * (mine / theirs - 1) for mine, theirs in zip(row["harness_s"], row["bare_s"], strict=True)]
        middle, low, high = median(more)
        share = Cell(f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]", value=middle, unit="%", samples=_rounds(more))
        lines.append(line(row["model"], _ms(row["harness_s"], 4), _ms(row["bare_s"], 4), share))
    heads = ["model", "a step in the harness (ms)", "in a bare loop (ms)", "more (%)"]
    return _table("harness", "The time that the harness adds to a training step", _INTERVAL, heads, lines)


def inference(rows: Sequence[Row]) -> Table:
    """Forward passes of DEQs over those of their cell applied as often."""
    lines = []
    for row in rows:
        deq, more, tied = (row[f"{name}_s"] for name in ("deq", "more", "tied"))
        times = (_ms(deq, measure="DEQ"), _ms(tied, measure="layers"))
        lines.append(line(str(row["evaluations"]), _NAMES[row["solver"]], *times, _ratio(deq, tied), _ratio(more, tied)))
    heads = ["evaluations, layers", "solver", "DEQ (ms)", "layers (ms)", "DEQ / layers, time", "with one evaluation more"]
    title = "Inference by a solver that stops at a cap, over as many layers of the same cell"
    return _table("inference", title, _INTERVAL, heads, lines, text_columns=(0, 1), label_columns=2)


def graphs(rows: Sequence[Row]) -> Table:
    """Training steps and evaluations of DEQs with CUDA graphs of f over those without."""
    lines = []
    for row in rows:
        cells: list[Cell] = []
        for what in ("step", "evaluation"):
            eager, recorded = row[f"eager_{what}_s"], row[f"graphs_{what}_s"]
            cells += [_ms(eager, measure=f"{what}, eager"), _ms(recorded, measure=f"{what}, CUDA graphs")]
            cells.append(_ratio(recorded, eager, f"{what}, ratio"))
        sizes = (Cell(f"{row[f'{kind}_bytes'] / _MIB:.4g}", value=row[f"{kind}_bytes"], unit="B") for kind in ("eager", "graphs"))
        lines.append(line(row["size"], row["model"], *cells, *sizes))
    heads = ["size", "model"]
    for what in ("step", "evaluation"):
        heads += [f"{what} (ms)", "with CUDA graphs", "ratio"]
    heads += ["peak of a step (MiB)", "with CUDA graphs"]
    return _table(
        "cuda-graphs", "DEQs with f and its gradients as CUDA graphs", _INTERVAL, heads, lines, text_columns=(0, 1), label_columns=2
    )


def _table(
    kind: str,
    title: str,
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Line],
    text_columns: tuple[int, ...] = (0,),
    label_columns: int = 1,
) -> Table:
    named = tuple((head, "") for head in heads)
    return Table(
        kind=kind,
        title=title,
        caption=caption,
        heads=named,
        rows=tuple(rows),
        text_columns=text_columns,
        label_columns=label_columns,
    )


def pipe(table: Table) -> str:
    """A table as Markdown without its title, and its notes."""
    rows = [[cell.text for cell in row] for row in table.rows]
    text = tabulate(rows, headers=[head for head, _ in table.heads], tablefmt="pipe", disable_numparse=True) + "\n"
    return text + "".join(f"\n{note}\n" for note in table.notes)


def tables(record: dict[str, Any]) -> dict[str, Table]:
    """Every table of a record, by its name."""
    libraries = list(record["libraries"])
    found = {
        "overhead": overhead(record["overhead"], libraries),
        "stopping": stopping(record["stopping"], libraries),
        "steps": steps(record["steps"]),
        "launches": launches(record["launches"], libraries),
        "memory": memory(record["memory"]),
        "baselines": baselines(record["baselines"]),
        "harness": harness(record["harness"]),
        **({"inference": inference(record["inference"])} if record.get("inference") else {}),
        **({"graphs": graphs(record["graphs"])} if record.get("graphs") else {}),
    }
    contended, unchecked = record.get("contended"), record.get("unchecked")
    notes = (
        *([f"These times are unreliable: meanwhile {contended}."] if contended else []),
        *([f"Of these times {unchecked}."] if unchecked else []),
    )
    return found | {name: replace(found[name], notes=notes) for name in _TIMED if name in found}
