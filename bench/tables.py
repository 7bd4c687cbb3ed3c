"""Every number of a table names its method and its runs; what is built here is text and data, for bench.report to write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import fsum

from bench.columns import (
    COST,
    COST_MORE,
    MEMORY,
    MEMORY_MORE,
    PARAMETERS,
    SOLVER,
    SOLVER_MORE,
    Cell,
    Column,
    DepthPoint,
    Group,
    Row,
    best,
    beta_probe,
    cell,
    depth_probe,
    metric_columns,
    metrics,
    shown_unit,
    unit,
)
from bench.record import Record
from bench.statistics import GROWTH_RULE, growth, interval, significant, written

ARROWS = {"lower": "↓", "higher": "↑", None: ""}
_BOLD = (
    "No brackets: one run, or equal values. Bold: the best of its column, if its interval overlaps no other row's "
    "(two runs or more each, five or more where all are equal, none of its own failed), or if all are exact counts."
)
_LONGEST = 300  # characters of a reason: a traceback's last line can be a page


@dataclass(frozen=True)
class Entry:
    """One cell's text, unescaped, with the numbers of its footnotes."""

    text: str
    bold: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """What all formats are written from.

    `ending` tells the tables of one group apart; `heads` are (name and arrow, unit); `words` are the columns that hold words, not
    numbers; `rule` is what a reader of several tables need be told once.
    """

    ending: str
    title: str
    caption: str
    rule: str = ""
    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    data: tuple[dict[str, object], ...] = ()
    words: tuple[int, ...] = (0,)


@dataclass
class _Notes:
    """Footnotes by text, so that one reason has one number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def group_tables(group: Group) -> list[Table]:
    """All tables of a comparison: scores, cost, memory, solver, trials, depth and beta, those that have something to say."""
    scores = (*PARAMETERS, *metric_columns(group))
    made = [
        _score_table(group, "", "scores on the test split", scores, metric_columns(group, "valid")),
        _score_table(group, "cost", "time and arithmetic", COST, COST_MORE),
        _score_table(group, "memory", "memory", MEMORY, MEMORY_MORE),
        _score_table(group, "solver", "solver", SOLVER, SOLVER_MORE),
        _trials_table(group),
        _depth_table(group),
        _beta_table(group),
    ]
    return [table for table in made if table is not None]


def _score_table(group: Group, ending: str, what: str, columns: Sequence[Column], more: Sequence[Column]) -> Table | None:
    grid = {column.name: [cell(row, column) for row in group.rows] for column in (*columns, *more)}
    data = [line for column in (*columns, *more) for line in _lines(group, column, grid[column.name])]
    absent = [column for column in columns if all(one.estimate is None for one in grid[column.name])]
    shown = [column for column in columns if column not in absent]
    if (not shown and ending) or not group.rows:
        return None
    notes = _Notes()
    # An explicit model has no solver; a model whose runs all failed stays, its absence being the result.
    silent = [
        row
        for i, row in enumerate(group.rows)
        if ending == "solver" and row.ok and not any(grid[c.name][i].estimate for c in shown if c.name != "future_leak_nats")
    ]
    if len(silent) == len(group.rows):
        return None
    rows = {index: [Entry(row.label), _count(row, notes)] for index, row in enumerate(group.rows) if row not in silent}
    heads = [("model", ""), ("n", "ok/all")]
    for column in shown:
        cells = grid[column.name]
        factor, name = shown_unit(column, unit(column, cells), cells)
        heads.append((f"{column.head} {ARROWS[column.better]}".strip(), name))
        bold = best(column, group.rows, cells)
        for index, (row, one) in enumerate(zip(group.rows, cells, strict=True)):
            if row not in silent:
                rows[index].append(_entry(row, one, column, factor, index in bold, notes))
    return Table(
        ending=ending,
        title=f"{group.name}: {what}",
        caption=" ".join([_caption(shown, grid), *_absences(group, shown, absent, silent, grid)]),
        rule=_BOLD,
        heads=tuple(heads),
        rows=tuple(tuple(entries) for entries in (*_references(shown), *rows.values())),
        notes=tuple(notes.texts),
        remarks=(*_methods(group, shown, grid), *_runs(group)),
        data=tuple(data),
    )


def _count(row: Row, notes: _Notes) -> Entry:
    marks = [notes.mark(note) for note in _failures(row.failed)]
    if len(row.ok) == 1:
        marks.append(notes.mark("One run: no interval."))
    words = "" if row.ok else " " + ", ".join(sorted({record.status for record in row.failed}))
    return Entry(f"{len(row.ok)}/{len(row.finals)}{words}", notes=tuple(dict.fromkeys(marks)))


def _failures(records: Sequence[Record]) -> list[str]:
    """One note a status and reason, however many runs share it."""
    runs: dict[str, list[str]] = {}
    for record in records:
        runs.setdefault(f"{record.status}: {_cut(record.why or '')}", []).append(record.run_id)
    return [f"{what} ({', '.join(ids)})" for what, ids in runs.items()]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _entry(row: Row, one: Cell, column: Column, factor: float, bold: bool, notes: _Notes) -> Entry:
    if one.estimate is None:
        return Entry("n/a", notes=tuple(notes.mark(_cut(reason)) for reason in one.reasons)) if row.ok else Entry("—")
    marks = [notes.mark(f"{one.estimate.n} of {len(row.ok)} ok runs; the others: {_cut(reason)}") for reason in one.reasons]
    if one.estimate.scale != column.scale:
        marks.append(notes.mark(f"A value is off the {column.scale} scale: mean and interval are on the linear scale."))
    return Entry(written(one.estimate, factor, column.counted), bold, tuple(marks))


def _references(columns: Sequence[Column]) -> list[list[Entry]]:
    """Rows for what a guess and the optimum score, where the task knows."""
    rows = []
    for name, values in (("chance", [c.chance for c in columns]), ("floor", [c.floor for c in columns])):
        if any(value is not None for value in values):
            texts = ["" if value is None else significant(value, 3) for value in values]
            rows.append([Entry(f"({'optimum' if name == 'floor' else name})"), Entry(""), *map(Entry, texts)])
    return rows


def _caption(columns: Sequence[Column], grid: dict[str, list[Cell]]) -> str:
    scales: dict[str, list[str]] = {"log": [], "linear": [], "fraction": []}
    for column in columns:
        if any(one.estimate is not None and not one.estimate.exact for one in grid[column.name]):
            scales[column.scale].append(column.head)
    how = {
        "log": "on the log scale (geometric mean): ",
        "linear": "on the linear scale: ",
        "fraction": "on the linear scale, clipped to [0, 1]: ",
    }
    said = "; ".join(how[scale] + ", ".join(heads) for scale, heads in scales.items() if heads)
    brackets = f"In brackets 95 % t-intervals, {said}." if said else "No intervals: one run a row, or equal values in all its runs."
    return f"Means over the seeds that ended ok. {brackets}"


def _lines(group: Group, column: Column, cells: Sequence[Cell]) -> list[dict[str, object]]:
    written_unit = unit(column, cells)
    lines: list[dict[str, object]] = []
    for row, one in zip(group.rows, cells, strict=True):
        estimate = one.estimate
        lines.append(
            {
                "suite": group.suite,
                "group": group.name,
                "label": row.label,
                "column": column.name,
                "mean": None if estimate is None else estimate.mean,
                "low": None if estimate is None else estimate.low,
                "high": None if estimate is None else estimate.high,
                "n": 0 if estimate is None else estimate.n,
                "ok": len(row.ok),
                "runs": len(row.finals),
                "unit": written_unit,
                "better": column.better or "",
                "scale": "" if estimate is None else estimate.scale,
                "chance": column.chance,
                "floor": column.floor,
                "method": " / ".join(sorted({f"{m.method}; {m.scope}" for m in one.measures})),
                "run_ids": " ".join(one.runs),
                "why": " / ".join([*one.reasons, *(f"{record.run_id} {record.status}: {record.why}" for record in row.failed)]),
            }
        )
    return lines


def _absences(
    group: Group, shown: Sequence[Column], absent: Sequence[Column], silent: Sequence[Row], grid: dict[str, list[Cell]]
) -> list[str]:
    """What the table leaves out, rows and columns, and why."""
    rows: dict[str, list[str]] = {}
    for index, row in enumerate(group.rows):
        if row in silent:
            reasons = sorted({_cut(reason) for column in shown for reason in grid[column.name][index].reasons})
            rows.setdefault("; ".join(reasons), []).append(row.label)
    columns: dict[str, list[str]] = {}
    for column in absent:
        reasons = sorted({_cut(reason) for one in grid[column.name] for reason in one.reasons})
        columns.setdefault("; ".join(reasons) or "no run ended ok", []).append(column.head)
    said = [f"Without a solver: {'; '.join(labels)} ({why})." for why, labels in rows.items()]
    return said + [f"Not measured: {', '.join(heads)} ({why})." for why, heads in columns.items()]


def _methods(group: Group, columns: Sequence[Column], grid: dict[str, list[Cell]]) -> list[str]:
    said = []
    for column in columns:
        users: dict[str, list[str]] = {}
        for row, one in zip(group.rows, grid[column.name], strict=True):
            for method in dict.fromkeys(f"{measure.method}; {measure.scope}" for measure in one.measures):
                users.setdefault(method, []).append(row.label)
        ways = [f"{how} [{', '.join(labels)}]" if len(users) > 1 else how for how, labels in users.items()]
        said.append(f"Method, {column.head}: {' / '.join(ways)}.")
    return said


def _runs(group: Group) -> list[str]:
    said = []
    for row in group.rows:
        trials = row.finals[0].spec.trials
        chosen = f"; learning rate {row.finals[0].spec.train.learning_rate:g} "
        chosen += f"chosen from {', '.join(trials)}" if trials else "given, not chosen from trials"
        said.append(f"Runs, {row.label}: {', '.join(record.run_id for record in row.finals)}{chosen}.")
    return said


def _trials_table(group: Group) -> Table | None:
    """Which learning rates each row was tried at, and whether the one chosen lies at an end of the sweep."""
    headline, known = metrics(group.records)
    better = known[headline].better if headline in known else "lower"
    by_key = {record.spec.key: record for record in group.trials}
    sources: list[tuple[str, str, float | None, list[Record], int]] = []  # row, its label, rate, trials, missing ones
    for row in group.rows:
        spec = row.finals[0].spec
        tried = [by_key[key] for key in spec.trials if key in by_key]
        sources.append((row.label, spec.label, spec.train.learning_rate, tried, len(spec.trials) - len(tried)))
    used = {record.run_id for *_, tried, _ in sources for record in tried}
    for label in sorted({record.spec.label for record in group.trials if record.run_id not in used}):
        left = [record for record in group.trials if record.spec.label == label and record.run_id not in used]
        sources.append((label, label, None, left, 0))
    if not group.trials:
        return None
    notes = _Notes()
    rows, data = [], []
    for row_label, label, chosen, tried, missing in sources:
        tried = sorted(tried, key=lambda record: (record.spec.train.learning_rate, record.run_id))
        remark = _audit(label, chosen, tried, missing, headline, better)
        by_rate = groupby(tried, key=lambda record: record.spec.train.learning_rate)
        texts = [f"{rate:g}: {', '.join(_score(record, headline) for record in same)}" for rate, same in by_rate]
        marks = tuple(notes.mark(note) for note in _failures([record for record in tried if record.status != "ok"]))
        scores = Entry("; ".join(texts) or "none", notes=marks)
        rows.append((Entry(row_label), scores, Entry("—" if chosen is None else f"{chosen:g}"), Entry(remark)))
        data += [_trial_line(group, row_label, chosen, record, headline, better, remark) for record in tried]
    head = f"rate: valid {headline.replace('_', ' ')} {ARROWS[better]}"
    return Table(
        ending="trials",
        title=f"{group.name}: learning-rate trials",
        caption="Trials at seeds that no final run uses, judged on the validation split; of several at a rate the mean decides.",
        heads=(("model", ""), (head, known[headline].unit if headline in known else ""), ("chosen", ""), ("audit", "")),
        words=(0, 1, 3),
        rows=tuple(rows),
        notes=tuple(notes.texts),
        remarks=tuple(f"Trials, {label}: {', '.join(r.run_id for r in tried)}." for label, _, _, tried, _ in sources if tried),
        data=tuple(data),
    )


def _score(record: Record, headline: str) -> str:
    value = record.value(f"valid_{headline}")
    return record.status if record.status != "ok" else "n/a" if value is None else significant(value, 4)


def _audit(label: str, chosen: float | None, tried: Sequence[Record], missing: int, headline: str, better: str) -> str:
    """What a reader should know of a choice: unfinished, at an end of the sweep, not the best, shared, records missing."""
    if chosen is None:
        return "no final run uses these trials"
    if not tried:
        return f"{missing} trial records are missing" if missing else "not tuned: the rate was given"
    said = []
    rates = [record.spec.train.learning_rate for record in tried]
    if len(set(rates)) > 1 and chosen in (min(rates), max(rates)):
        said.append("AT AN END of the sweep: a better rate may lie outside")
    scored: dict[float, list[float | None]] = {}
    for record in tried:
        value = record.value(f"valid_{headline}") if record.status == "ok" else None
        scored.setdefault(record.spec.train.learning_rate, []).append(value)
    means = {rate: fsum(values) / len(values) for rate, values in scored.items() if None not in values}  # type: ignore[arg-type]
    if means and means.get(chosen) != (min if better == "lower" else max)(means.values()):
        said.append("NOT THE BEST of its trials")
    shared = sorted({record.spec.label for record in tried} - {label})
    if shared:
        said.append(f"shares the trials of {', '.join(shared)}")
    if missing:
        said.append(f"{missing} trial records are missing")
    return "; ".join(said) or "inside the sweep"


def _trial_line(
    group: Group, label: str, chosen: float | None, record: Record, headline: str, better: str, audit: str
) -> dict[str, object]:
    rate = record.spec.train.learning_rate
    measure = record.measures.get(f"valid_{headline}")
    return {
        "suite": group.suite,
        "group": group.name,
        "label": label,
        "column": f"valid_{headline}",
        "learning_rate": rate,
        "value": record.value(f"valid_{headline}") if record.status == "ok" else None,
        "unit": measure.unit if measure else "",
        "better": better,
        "chosen": "" if chosen is None else "yes" if rate == chosen else "no",
        "audit": audit,
        "status": record.status,
        "why": record.why or "",
        "run_ids": record.run_id,
    }


_BYTES: dict[str, tuple[str, Callable[[DepthPoint], int | None]]] = {
    "saved_bytes": ("saved for backward", lambda point: point.saved_bytes),
    "peak_live_bytes": ("peak live", lambda point: point.peak_live_bytes),
    "solver_bytes": ("solver storage", lambda point: point.solver_bytes),
}


def _depth_table(group: Group) -> Table | None:
    """Bytes against depth for each method: the first and the last depth, the slope and the law."""
    rows: list[tuple[Entry, ...]] = []
    data: list[dict[str, object]] = []
    runs: list[str] = []
    for row in group.rows:
        methods, run = depth_probe(row)
        if run is not None:
            runs.append(f"Run, {row.label}: {run}.")
        for method, points in methods.items():
            for name, (head, read) in _BYTES.items():
                known = [(point.depth, amount) for point in points if (amount := read(point)) is not None]
                if len({depth for depth, _ in known}) < 2:
                    continue
                law = growth([depth for depth, _ in known], [amount for _, amount in known])
                ends = [f"{_size(amount)} at {depth}" for depth, amount in (known[0], known[-1])]
                slope = "0" if law.verdict == "constant" and abs(law.slope) < 1 else significant(law.slope, 4)
                rows.append(tuple(map(Entry, (row.label, method, head, *ends, slope, law.verdict))))
                data += [
                    {"suite": group.suite, "group": group.name, "label": row.label, "column": name, "method": method}
                    | {"depth": depth, "value": amount, "unit": "B", "better": "lower"}
                    | {"slope": law.slope, "verdict": law.verdict, "run_ids": run}
                    for depth, amount in known
                ]
    if not rows:
        return None
    return Table(
        ending="depth",
        title=f"{group.name}: memory against depth",
        caption="One training step at each depth (solver steps for a DEQ), exact counts of one run a row.",
        rule=GROWTH_RULE,
        words=(0, 1, 2, 6),
        heads=(("model", ""), ("method", ""), ("bytes ↓", ""), ("least depth", ""), ("greatest depth", "")) + _LAW,
        rows=tuple(rows),
        remarks=tuple(runs),
        data=tuple(data),
    )


_LAW = (("slope ↓", "B/step"), ("verdict", ""))


def _size(amount: int) -> str:
    column = Column(name="bytes", head="", counted=True)
    estimate = interval([float(amount)], "linear")
    factor, name = shown_unit(column, "B", [Cell(estimate=estimate, reasons=(), measures=(), runs=())])
    return f"{written(estimate, factor, counted=True)} {name}"


def _beta_table(group: Group) -> Table | None:
    """Equilibrium propagation's gradient beside the implicit one."""
    rows: list[tuple[Entry, ...]] = []
    data: list[dict[str, object]] = []
    runs: list[str] = []
    for row in group.rows:
        points, run = beta_probe(row)
        if run is not None:
            runs.append(f"Run, {row.label}: {run}.")
        for point in points:
            nudge = "to both sides" if point.symmetric else "to one side"
            texts = (significant(point.beta, 2), significant(point.one_less_cosine, 3), significant(point.distance, 3))
            rows.append(tuple(map(Entry, (row.label, nudge, *texts))))
            data += [
                {"suite": group.suite, "group": group.name, "label": row.label, "column": name, "method": nudge}
                | {"beta": point.beta, "value": value, "unit": "1", "better": "lower", "run_ids": run}
                for name, value in (("one_less_cosine", point.one_less_cosine), ("distance", point.distance))
            ]
    if not rows:
        return None
    return Table(
        ending="gradient",
        title=f"{group.name}: gradient by equilibrium propagation",
        caption="Beside the implicit gradient of the trained model on the first training batch, solves in float64 to 1e-10.",
        words=(0, 1),
        heads=(("model", ""), ("nudge", ""), ("beta", ""), ("1 - cosine ↓", ""), ("distance / norm ↓", "")),
        rows=tuple(rows),
        remarks=tuple(runs),
        data=tuple(data),
    )
