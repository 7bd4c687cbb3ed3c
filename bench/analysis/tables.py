"""The tables of a comparison: scores, time and arithmetic, memory, solver; every number with its method and its runs."""

from collections.abc import Iterable, Sequence

from bench.analysis.aggregate import (
    COST,
    COST_MORE,
    MEMORY,
    MEMORY_MORE,
    PARAMETERS,
    SOLVER,
    SOLVER_MORE,
    Aggregate,
    Column,
    Group,
    ResultRow,
    best,
    cell,
    metric_columns,
    shown_unit,
    unit,
)
from bench.analysis.grid import ARROWS, Cell, Line, Notes, Table, cut, failures, gathered, line
from bench.analysis.probe_tables import beta_table, depth_table, trials_table
from bench.analysis.statistics import significant, written

_BOLD = (
    "No brackets: one run, or equal values. Bold: the best of its column, if its interval overlaps no other row's "
    "(two runs or more each, five or more where all are equal, none of its own failed), or if all are exact counts."
)


def group_tables(group: Group) -> list[Table]:
    """All tables of a comparison: scores, cost, memory, solver, trials, depth and beta, those that have something to say."""
    scores = (*PARAMETERS, *metric_columns(group))
    made = [
        _score_table(group, "", "scores on the test split", scores, metric_columns(group, "valid")),
        _score_table(group, "cost", "time and arithmetic", COST, COST_MORE),
        _score_table(group, "memory", "memory", MEMORY, MEMORY_MORE),
        _score_table(group, "solver", "solver", SOLVER, SOLVER_MORE),
        trials_table(group),
        depth_table(group),
        beta_table(group),
    ]
    return [table for table in made if table is not None]


def _score_table(group: Group, ending: str, what: str, columns: Sequence[Column], more: Sequence[Column]) -> Table | None:
    grid = {column.name: [cell(row, column) for row in group.rows] for column in (*columns, *more)}
    data = [one for column in (*columns, *more) for one in _lines(group, column, grid[column.name])]
    absent = [column for column in columns if all(one.estimate is None for one in grid[column.name])]
    shown = [column for column in columns if column not in absent]
    if (not shown and ending) or not group.rows:
        return None
    notes = Notes()
    # An explicit model has no solver; a model whose runs all failed stays, its absence being the result.
    silent = [
        row
        for i, row in enumerate(group.rows)
        if ending == "solver" and row.ok and not any(grid[c.name][i].estimate for c in shown if c.name != "future_leak_nats")
    ]
    if len(silent) == len(group.rows):
        return None
    cells = {index: [Cell(row.label), _count(row, notes)] for index, row in enumerate(group.rows) if row not in silent}
    heads = [("model", ""), ("n", "ok/all")]
    for column in shown:
        found = grid[column.name]
        factor, name = shown_unit(column, unit(column, found), found)
        heads.append((f"{column.head} {ARROWS[column.better]}".strip(), name))
        bold = best(column, group.rows, found)
        for index, (row, one) in enumerate(zip(group.rows, found, strict=True)):
            if row not in silent:
                cells[index].append(_cell(row, one, column, factor, index in bold, notes))
    return Table(
        ending=ending,
        title=f"{group.name}: {what}",
        caption=" ".join([_caption(shown, grid), *_absences(group, shown, absent, silent, grid)]),
        rule=_BOLD,
        heads=tuple(heads),
        rows=(*_references(shown), *(line(*found, family=group.rows[index].family) for index, found in cells.items())),
        notes=tuple(notes.texts),
        remarks=(*_methods(group, shown, grid), *_runs(group)),
        data=tuple(data),
    )


def _count(row: ResultRow, notes: Notes) -> Cell:
    marks = [notes.mark(note) for note in failures(row.failed)]
    if len(row.ok) == 1:
        marks.append(notes.mark("One run: no interval."))
    words = "" if row.ok else " " + ", ".join(sorted({record.status for record in row.failed}))
    runs = tuple(record.run_id for record in row.finals)
    text = f"{len(row.ok)}/{len(row.finals)}{words}"
    return Cell(text, notes=tuple(dict.fromkeys(marks)), value=len(row.ok), n=len(row.finals), sources=runs)


def _cell(row: ResultRow, one: Aggregate, column: Column, factor: float, bold: bool, notes: Notes) -> Cell:
    if one.estimate is None:
        return Cell("n/a", notes=tuple(notes.mark(cut(reason)) for reason in one.reasons)) if row.ok else Cell("—")
    marks = [notes.mark(f"{one.estimate.n} of {len(row.ok)} ok runs; the others: {cut(reason)}") for reason in one.reasons]
    if one.estimate.scale != column.scale:
        marks.append(notes.mark(f"A value is off the {column.scale} scale: mean and interval are on the linear scale."))
    return Cell(
        written(one.estimate, factor, column.counted),
        bold,
        tuple(marks),
        value=one.estimate.mean,
        interval=one.estimate,
        n=one.estimate.n,
        unit=unit(column, [one]),
        sources=one.runs,
    )


def _references(columns: Sequence[Column]) -> list[Line]:
    """Rows for what a guess and the optimum score, where the task knows."""
    rows = []
    for name, values in (("chance", [c.chance for c in columns]), ("optimum", [c.optimum for c in columns])):
        if any(value is not None for value in values):
            texts = ["" if value is None else significant(value, 3) for value in values]
            cells = (Cell(text, value=value) for text, value in zip(texts, values, strict=True))
            rows.append(line(f"({'optimum' if name == 'floor' else name})", "", *cells, family="reference"))
    return rows


def _caption(columns: Sequence[Column], grid: dict[str, list[Aggregate]]) -> str:
    how = {
        "log": "on the log scale (geometric mean): ",
        "linear": "on the linear scale: ",
        "fraction": "on the linear scale, clipped to [0, 1]: ",
    }
    spread = [c for c in columns if any(one.estimate is not None and not one.estimate.exact for one in grid[c.name])]
    scales = gathered((column.scale, column.head) for column in spread)
    text = "; ".join(how[scale] + ", ".join(scales[scale]) for scale in how if scale in scales)
    brackets = f"In brackets 95 % t-intervals, {text}." if text else "No intervals: one run a row, or equal values in all its runs."
    return f"Means over the seeds that ended ok. {brackets}"


def _lines(group: Group, column: Column, cells: Sequence[Aggregate]) -> list[dict[str, object]]:
    common = {"unit": unit(column, cells), "better": column.better or ""}
    lines: list[dict[str, object]] = []
    for row, one in zip(group.rows, cells, strict=True):
        mean = {name: None if one.estimate is None else getattr(one.estimate, name) for name in ("mean", "low", "high")}
        reasons = [*one.reasons, *(f"{record.run_id} {record.status}: {record.reason}" for record in row.failed)]
        lines.append(
            {
                **{"suite": group.suite, "group": group.name, "label": row.label, "column": column.name},
                **mean,
                **{"n": len(one.runs), "ok": len(row.ok), "runs": len(row.finals)},
                **common,
                **{"scale": "" if one.estimate is None else one.estimate.scale, "chance": column.chance, "optimum": column.optimum},
                **{"method": " / ".join(sorted({f"{m.method}; {m.scope}" for m in one.measures}))},
                **{"run_ids": " ".join(one.runs), "reason": " / ".join(reasons)},
            }
        )
    return lines


def _absences(
    group: Group, shown: Sequence[Column], absent: Sequence[Column], silent: Sequence[ResultRow], grid: dict[str, list[Aggregate]]
) -> list[str]:
    """What the table leaves out, rows and columns, and why."""

    def reasons(found: Iterable[Aggregate]) -> str:
        return "; ".join(sorted({cut(reason) for one in found for reason in one.reasons}))

    rows = gathered(
        (reasons(grid[column.name][index] for column in shown), row.label) for index, row in enumerate(group.rows) if row in silent
    )
    columns = gathered((reasons(grid[column.name]) or "no run ended ok", column.head) for column in absent)
    found = [f"Without a solver: {'; '.join(labels)} ({reason})." for reason, labels in rows.items()]
    return found + [f"Not measured: {', '.join(heads)} ({reason})." for reason, heads in columns.items()]


def _methods(group: Group, columns: Sequence[Column], grid: dict[str, list[Aggregate]]) -> list[str]:
    remarks = []
    for column in columns:
        users = gathered(
            (how, row.label)
            for row, one in zip(group.rows, grid[column.name], strict=True)
            for how in dict.fromkeys(f"{measure.method}; {measure.scope}" for measure in one.measures)
        )
        ways = [f"{how} [{', '.join(labels)}]" if len(users) > 1 else how for how, labels in users.items()]
        remarks.append(f"Method, {column.head}: {' / '.join(ways)}.")
    return remarks


def _runs(group: Group) -> list[str]:
    said = []
    for row in group.rows:
        trials = row.finals[0].spec.trials
        chosen = f"; learning rate {row.finals[0].spec.train.learning_rate:g} "
        chosen += f"chosen from {', '.join(trials)}" if trials else "given, not chosen from trials"
        said.append(f"Runs, {row.label}: {', '.join(record.run_id for record in row.finals)}{chosen}.")
    return said
