"""Equal time and equal memory: each DEQ next to the best explicit network that costs no more."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.analysis.aggregate import Group, ResultRow, aggregate, measure_cell
from bench.analysis.columns import PEAK, STEP, Column, unit
from bench.analysis.grid import ARROWS, Cell, Line, Table, footnote, line
from bench.analysis.selection import best_row, headline_column, inadmissible, mixed_processors, outcome_of, value

_CAPTION = (
    "Each DEQ, and the explicit network with the best validation score of those that train in no more time (by the clock of the "
    "training where it ran alone for all of them, else steps, times a step timed alone, which has a recipe's last caps), or whose "
    "step has no larger peak of live bytes. Ahead, behind: the 95 % interval of the ratio of the test "
    "scores, paired by seed, does not hold 1 (of the difference, where a score is no ratio, 0)."
)
_CLOCKS = (Column(name="warmup_s", head="warm-up"), Column(name="train_s", head="training"))
_WORDS = (0, 2, 4, 5, 7)


def budget_table(group: Group) -> Table | None:
    """Each DEQ next to the best explicit network of at most its time a step, and of at most its peak; None without both kinds."""
    score = headline_column(group)
    deqs = [row for row in group.rows if row.family == "deq" and score is not None and value(row, score) is not None]
    explicit = [row for row in group.rows if row.explicit]
    if score is None or not deqs or not explicit:
        return None
    notes: list[str] = []
    rows = [_line(row, explicit, score, notes) for row in deqs]
    heads = [("DEQ", ""), (head := f"{score.head} {ARROWS[score.better]}".strip(), unit(score, aggregate(deqs[0], score).measures))]
    for name in _BUDGETS:
        heads += [(f"in its {name}: explicit", ""), (f"in its {name}: {head}", ""), (f"in its {name}: the DEQ is", "")]
    return Table(
        kind="budgets",
        title=f"{group.name}: the best explicit network in the time and the memory of a DEQ",
        caption=_CAPTION + mixed_processors(group.rows),
        heads=tuple(heads),
        rows=tuple(rows),
        notes=tuple(notes),
        data=tuple(
            {
                **{"suite": group.suite, "group": group.name, "label": row.label, "column": name},
                **{"value": cell.text if index in _WORDS else cell.value, "unit": cell.unit, "run_ids": cell.run_ids},
            }
            for row in rows
            for index, (cell, (name, _)) in enumerate(zip(row, heads, strict=True))
            if index
        ),
        text_columns=_WORDS,
    )


def _seconds(rows: Sequence[ResultRow]) -> list[float | None]:
    """Seconds of training of each row: by its clock where it ran alone for all rows, else its steps times a step timed alone."""
    if all(record.value(clock.name) is not None for row in rows for record in row.ok for clock in _CLOCKS):
        return [sum(value(row, clock) or 0.0 for clock in _CLOCKS) for row in rows]
    steps = [(row.finals[0].spec.train.steps, value(row, STEP)) for row in rows]
    return [None if one is None else one / 1e3 * count for count, one in steps]


def _peak(rows: Sequence[ResultRow]) -> list[float | None]:
    return [value(row, PEAK) for row in rows]


_BUDGETS: dict[str, Callable[[Sequence[ResultRow]], list[float | None]]] = {"time": _seconds, "memory": _peak}


def best_within(deq: ResultRow, explicit: Sequence[ResultRow], score: Column) -> dict[str, ResultRow | None]:
    """The best of the explicit rows, by validation, that cost no more than a DEQ: in `time`, in `memory`; None: there is none."""
    found = {}
    for name, costs_of in _BUDGETS.items():
        most, *each = costs_of([deq, *explicit])
        costs = list(zip(explicit, each, strict=True))
        found[name] = best_row([row for row, cost in costs if cost is not None and most is not None and cost <= most], score)
    return found


def _line(deq: ResultRow, explicit: Sequence[ResultRow], score: Column, notes: list[str]) -> Line:
    fault = inadmissible(deq)
    marks = () if fault is None else (footnote(notes, fault[0].upper() + fault[1:] + "."),)
    cells = [Cell(deq.label), _score(deq, score, marks)]
    for name, rival in best_within(deq, explicit, score).items():
        if rival is None:
            cells += [Cell("n/a" if _BUDGETS[name]([deq]) == [None] else "none"), Cell("—"), Cell("—")]
        else:
            cells += [Cell(rival.label), _score(rival, score), Cell(outcome_of(deq, rival, score))]
    return line(*cells, family=deq.family)


def _score(row: ResultRow, score: Column, notes: tuple[int, ...] = ()) -> Cell:
    return replace(measure_cell(row, score, aggregate(row, score)), notes=notes, methods=())
