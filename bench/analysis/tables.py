"""The tables of a comparison: scores, time and arithmetic, memory, solver; every number with its method and its runs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.analysis.aggregate import Aggregate, Group, ResultRow, aggregate, best, measure_cell
from bench.analysis.budgets import budget_table
from bench.analysis.columns import (
    COST,
    COST_MORE,
    MEMORY,
    MEMORY_MORE,
    PARAMETERS,
    SOLVER,
    SOLVER_MORE,
    Column,
    metric_columns,
    readable,
    unit,
)
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, cut, failures, footnote, gathered, line
from bench.analysis.probe_tables import beta_table, depth_table, trials_table
from bench.analysis.selection import SOLVES, inadmissible, mixed_processors, solved
from bench.analysis.statistics import proportion, significant
from bench.analysis.time_to_quality import quality_table

MEASURE_TABLES = {"": "scores on the test split", "cost": "time and arithmetic", "memory": "memory", "solver": "solver"}
_SOLVED = (
    f"Solved: runs with {SOLVES:g} or more of the answers right, of each kind that is scored, and the exact 95 % interval of their "
    "share of all runs (Clopper and Pearson 1934)."
)
_BOLD = (
    "No brackets: one run, or equal values. Bold: the best of its column, if its interval overlaps no other row's "
    "(two runs or more each, five or more where all are equal, none of its own failed), or if all are exact counts. "
    "No inadmissible score is bold."
)


def group_tables(group: Group) -> list[Table]:
    """All tables of a comparison that have rows."""
    further = (table(group) for table in (trials_table, depth_table, beta_table, quality_table, budget_table))
    return [*measure_tables(group), *(table for table in further if table is not None)]


def measure_tables(group: Group, hidden: bool = False) -> list[Table]:
    """The tables of means over seeds; `hidden` shows the columns and rows too that are only in the CSV files."""
    scores, valid = (metric_columns(group.records, split) for split in ("test", "valid"))
    columns: dict[str, tuple[Sequence[Column], Sequence[Column]]] = {
        "": ((*PARAMETERS, *scores), valid),
        "cost": (COST, COST_MORE),
        "memory": (MEMORY, MEMORY_MORE),
        "solver": (SOLVER, SOLVER_MORE),
    }
    found = (_measure_table(group, kind, *columns[kind], hidden) for kind in columns)
    return [table for table in found if table is not None]


def _measure_table(group: Group, kind: str, columns: Sequence[Column], more: Sequence[Column], hidden: bool) -> Table | None:
    grid = {column: [aggregate(row, column) for row in group.rows] for column in (*columns, *more)}
    absent = [] if hidden else [column for column in columns if not any(one.estimate for one in grid[column])]
    shown = [column for column in (grid if hidden else columns) if column not in absent]
    # An explicit model has no solver; a model whose runs all failed stays, its absence being the result.
    of_solver = [column for column in shown if column.name != "future_leak_nats"]
    silent = [
        row
        for i, row in enumerate(group.rows)
        if kind == "solver" and not hidden and row.ok and not any(grid[column][i].estimate for column in of_solver)
    ]
    if (not shown and kind) or len(silent) == len(group.rows):
        return None
    notes: list[str] = []
    rows = {index: [Cell(row.label), _count(row, notes)] for index, row in enumerate(group.rows) if row not in silent}
    heads = [("model", ""), ("n", "ok/all")]
    counts = not kind and any(solved(record) for row in group.rows for record in row.ok)
    if counts:
        heads.append((f"solved {ARROWS['higher']}", "runs"))
        for index, cells in rows.items():
            cells.append(_solved(group.rows[index], notes))
    for column in shown:
        means = [one.estimate.mean for one in grid[column] if one.estimate is not None]
        measures = [measure for one in grid[column] for measure in one.measures]
        factor, name = readable("count" if column.name.startswith("parameters_") else unit(column, measures), means)
        heads.append((f"{column.head} {ARROWS[column.better]}".strip(), name))
        bold = best(column, group.rows, grid[column])
        for index, cells in rows.items():
            row = group.rows[index]
            fault = inadmissible(row) if column.name.startswith("test_") else None
            made = measure_cell(row, column, grid[column][index], factor, index in bold and fault is None, notes)
            cells.append(made if fault is None or made.interval is None else _marked(made, fault, notes))
    caption = _caption(shown, grid) + (mixed_processors(group.rows) if kind == "cost" else "")
    references = _references(shown, len(heads) - len(shown))
    return Table(
        kind=kind,
        title=f"{group.name}: {MEASURE_TABLES[kind]}",
        caption=" ".join([caption, *([_SOLVED] if counts else []), *_absences(group, shown, absent, silent, grid)]),
        legend=_BOLD,
        heads=tuple(heads),
        rows=(*references, *(line(*cells, family=group.rows[index].family) for index, cells in rows.items())),
        notes=tuple(notes),
        remarks=(*_methods(group, shown, grid), *(["Runs: those of the scores."] if kind else _runs(group))),
        data=tuple(one for column in grid for one in _data(group, column, grid[column])),
    )


def _solved(row: ResultRow, notes: list[str]) -> Cell:
    """In how many of its runs a row solves the task: where some do, no run need be near their mean score."""
    right = [record for record in row.ok if solved(record)]
    estimate, fault = proportion(len(right), len(row.finals)), inadmissible(row)
    cell = Cell(
        f"{len(right)}/{estimate.n} [{estimate.low:.2f}, {estimate.high:.2f}]",
        value=estimate.mean,
        interval=estimate,
        samples=tuple(Sample(f"seed {one.spec.seed}", "yes" if one in right else "no", one.run_id) for one in row.finals),
        methods=((f"{SOLVES:g} or more of the answers right, of each kind that is scored", "test split"),),
        measure="solved",
    )
    return _marked(cell, fault, notes) if fault and right else cell


def _marked(cell: Cell, fault: str, notes: list[str]) -> Cell:
    return replace(cell, notes=(*cell.notes, footnote(notes, fault[0].upper() + fault[1:] + ".")))


def _count(row: ResultRow, notes: list[str]) -> Cell:
    marks = [footnote(notes, note) for note in failures(row.failed)]
    if len(row.ok) == 1:
        marks.append(footnote(notes, "One run: no interval."))
    words = "" if row.ok else " " + ", ".join(sorted({record.status for record in row.failed}))
    samples = tuple(Sample(f"seed {one.spec.seed}", one.status, one.run_id, one.reason or "") for one in row.finals)
    text = f"{len(row.ok)}/{len(row.finals)}{words}"
    return Cell(text, notes=tuple(dict.fromkeys(marks)), value=len(row.ok), samples=samples, measure="n")


def _references(columns: Sequence[Column], keys: int) -> list[Line]:
    """Rows for the scores of a guess and of the optimum, where the task knows them, after `keys` other columns."""
    rows = []
    for name in ("chance", "optimum"):
        values = [getattr(column, name) for column in columns]
        if any(value is not None for value in values):
            cells = (Cell("" if value is None else significant(value, 3), value=value) for value in values)
            rows.append(line(f"({name})", *[""] * (keys - 1), *cells, family="reference"))
    return rows


_Grid = dict[Column, list[Aggregate]]


def _caption(columns: Sequence[Column], grid: _Grid) -> str:
    how = {
        "log": "on the log scale (geometric mean): ",
        "linear": "on the linear scale: ",
        "fraction": "on the linear scale, clipped to [0, 1]: ",
    }
    spread = [
        column for column in columns if any(one.estimate is not None and not one.estimate.has_no_spread for one in grid[column])
    ]
    scales = gathered((column.scale, column.head) for column in spread)
    text = "; ".join(how[scale] + ", ".join(scales[scale]) for scale in how if scale in scales)
    brackets = f"In brackets 95 % t-intervals, {text}." if text else "No intervals: one run a row, or equal values in all its runs."
    return f"Means over the seeds that ended ok. {brackets}"


def _data(group: Group, column: Column, cells: Sequence[Aggregate]) -> Iterable[dict[str, object]]:
    """A line a row: the mean and its interval, unrounded, with method and runs."""
    name = unit(column, [measure for one in cells for measure in one.measures])
    for row, one in zip(group.rows, cells, strict=True):
        mean = one.estimate
        reasons = [*one.reasons, *(f"{record.run_id} {record.status}: {record.reason}" for record in row.failed)]
        yield {
            **{"suite": group.suite, "group": group.name, "label": row.label, "column": column.name},
            **{end: getattr(mean, end, None) for end in ("mean", "low", "high")},
            **{"n": len(one.measures), "ok": len(row.ok), "runs": len(row.finals), "unit": name, "better": column.better or ""},
            **{"scale": mean.scale if mean else "", "chance": column.chance, "optimum": column.optimum},
            **{"method": " / ".join(sorted({f"{m.method}; {m.scope}" for m in one.measures}))},
            **{"run_ids": " ".join(s.run for s in one.samples if s.value is not None), "reason": " / ".join(reasons)},
        }


def _absences(
    group: Group, shown: Sequence[Column], absent: Sequence[Column], silent: Sequence[ResultRow], grid: _Grid
) -> list[str]:
    """The rows and columns that the table leaves out, and why."""

    def reasons(found: Iterable[Aggregate]) -> str:
        return "; ".join(sorted({cut(reason) for one in found for reason in one.reasons}))

    rows = gathered((reasons(grid[column][i] for column in shown), row.label) for i, row in enumerate(group.rows) if row in silent)
    columns = gathered((reasons(grid[column]) or "no run ended ok", column.head) for column in absent)
    found = [f"Without a solver: {'; '.join(labels)} ({reason})." for reason, labels in rows.items()]
    return found + [f"Not measured: {', '.join(heads)} ({reason})." for reason, heads in columns.items()]


def _methods(group: Group, columns: Sequence[Column], grid: _Grid) -> list[str]:
    remarks = []
    for column in columns:
        users = gathered(
            (how, row.label)
            for row, one in zip(group.rows, grid[column], strict=True)
            for how in dict.fromkeys(f"{measure.method}; {measure.scope}" for measure in one.measures)
        )
        ways = [f"{how} [{', '.join(labels)}]" if len(users) > 1 else how for how, labels in users.items()]
        remarks.append(f"Method, {column.head}: {' / '.join(ways)}.")
    return remarks


def _runs(group: Group) -> list[str]:
    remarks = []
    for row in group.rows:
        spec = row.finals[0].spec
        source = f"chosen from {', '.join(spec.trials)}" if spec.trials else "given, not chosen from trials"
        runs = ", ".join(record.run_id for record in row.finals)
        remarks.append(f"Runs, {row.label}: {runs}; learning rate {spec.train.learning_rate:g} {source}.")
    return remarks
