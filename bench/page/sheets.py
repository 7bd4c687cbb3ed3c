"""The tables that are not means over seeds: each cell with the lines of data that it is made of."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import side_file
from bench.claims import copying
from bench.columns import MEMORY, Group
from bench.grid import Line as Row
from bench.page.evidence import MEASURED, Origin, Reading, Sheet, command, measured_sheet
from bench.quality_table import quality_table
from bench.statistics import significant
from bench.tables import Entry, Table, group_tables

Line = Mapping[str, Any]
# Heads of the leading columns that tell the rows of a table apart.
_KEYS = {
    *("model", "method", "bytes ↓", "nudge", "beta", "DEQ", "against", "explicit network", "of", "phase", "claim"),
    *("problem", "library", "shape"),
}
_NAMES = {
    **{"1 - cosine": "one_less_cosine", "distance / norm": "distance"},
    **{"FLOPs at the caps": "flops", "bytes at the caps": "bytes"},
    **{column.head: column.name for column in MEMORY},
}
_PRINTED = ("paper", "table 4", "the paper's tables", "paper: parameters", "paper: loss")
_OF = {"seed": "seed", "learning_rate": "rate", "depth": "depth", "beta": "beta"}
_FIELDS = {"whole training": "trained_s", "final valid": "final"}  # of the quality table: what a column is read from
_WHAT = {
    "trials": "one trial a learning rate, on the validation split",
    "depth": "exact counts of one training step at each depth",
    "gradient": "one gradient of the trained model on the first training batch",
    "quality": "median over seeds",
}
_MEMORY = "python -m bench memory --suite paper"
_MARKS = re.compile(r"\s*[↓↑]$")


def name_of(head: str) -> str:
    """A column's name without its arrow."""
    return _MARKS.sub("", head)


def number(text: str) -> float | None:
    """The number that a text begins with, for a column that has no other: infinite for `never`, None where there is none."""
    found = re.match(r"[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?", text)
    if found:
        return float(found[0].replace(",", ""))
    return math.inf if text == "never" else None


def leading(table: Table) -> int:
    """How many of a table's first columns name the row."""
    count = 0
    while count < len(table.heads) and table.heads[count][0] in _KEYS:
        count += 1
    return max(count, 1)


def row_name(table: Table, entries: Sequence[Entry]) -> str:
    """What a row is called in an address."""
    return ", ".join(entry.text for entry in entries[: leading(table)])


def narrowed(lines: Sequence[Line], head: str, words: set[str]) -> list[Line]:
    """The lines that are of a column, or else of a row's further words, where any is."""
    found = list(lines)
    for field in ("method", "beta"):
        found = [line for line in found if field in line and _said(line[field], words)] or found
    kinds = {word == "training" for word in words & {"training", "inference"}}
    found = [line for line in found if line.get("training") in kinds] or found
    of_column = [line for line in found if line.get("column") in (head, _NAMES.get(head))]
    return of_column or [line for line in found if _said(line.get("column"), words)] or found


def _said(value: Any, words: set[str]) -> bool:
    return (significant(value, 2) if isinstance(value, float) else value) in words


def lines_of(table: Table, entries: Row, head: str) -> list[Line]:
    """The lines of a table's data that a cell is made of."""
    texts = [entry.text for entry in entries[: leading(table)]]
    mine = [line for line in table.tidy if line.get("label") in (entries.label, " / ".join(texts), " / ".join(texts[:2]))]
    return narrowed(mine, head, {*texts[1:], *(_NAMES[text] for text in texts[1:] if text in _NAMES)})


def reading(line: Line, head: str) -> Reading:
    """A line of data as a reading."""
    field = next((field for words, field in _FIELDS.items() if head.startswith(words) and field in line), "value")
    about = [f"{word} {_plain(line[name])}" for name, word in _OF.items() if line.get(name) is not None]
    status = line.get("status", "ok")
    why = str(line.get("why") or "") if status == "ok" else f"{status}: {line.get('why')}"
    if field == "value" and line.get("value") is None and line.get("column") == "seconds_to_target":
        why = "never reached the target"
    return Reading(
        about=", ".join(about) or str(line.get("column", "")), value=line.get(field), run=str(line.get("run_ids", "")), why=why
    )


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(lines: Sequence[Line], head: str, shown: str, words: bool) -> float | None:
    """What a cell is sorted by: the one number that it is made of, or else what it says; None for words."""
    if words:
        return None
    if head == "slope" and lines and "slope" in lines[0]:
        return float(lines[0]["slope"])
    if head in ("least depth", "greatest depth", "least deep", "deepest") and lines:
        return float(lines[0 if head.startswith("least") else -1]["value"])
    exact = [line["value"] for line in lines if line.get("column") in (head, _NAMES.get(head))]
    if len(exact) == 1 and isinstance(exact[0], int | float):
        return float(exact[0])
    return number(shown)


def lines_sheet(
    table: Table, suite: str, group: str, statistic: str, how: str | Callable[[str], str], facts: tuple[tuple[str, str], ...] = ()
) -> Sheet:
    """A table whose cells are made of the lines of its own data; `how` is the command, or makes it from a row's label."""
    origins: list[tuple[Origin | None, ...]] = []
    first = leading(table)
    for entries in table.lines:
        line: list[Origin | None] = [None] * first
        for index, entry in list(enumerate(entries))[first:]:
            head, unit = table.heads[index]
            name = name_of(head)
            printed = name in _PRINTED
            found = [] if printed else lines_of(table, entries, name)
            units = {str(one.get("unit", "")) for one in found}
            line.append(
                Origin(
                    suite=suite,
                    group=group,
                    row=row_name(table, entries),
                    column=name,
                    shown=entry.text,
                    shown_unit=unit,
                    unit=units.pop() if len(units) == 1 else "",
                    value=_value(found, name, entry.text, index in table.words),
                    statistic="printed in the paper: not measured here" if printed else statistic,
                    readings=tuple(reading(one, name) for one in found),
                    facts=tuple(fact for fact in facts if fact[0] != "Means" or fact[1].startswith(f"{name}: ")),
                    command=how if isinstance(how, str) else how(entries.label),
                )
            )
        origins.append(tuple(line))
    return Sheet(table=table, origins=tuple(origins))


def group_sheets(group: Group) -> list[Sheet]:
    """All tables of a comparison with their origins; those that are not of measures have an address of their own."""

    def how(label: str) -> str:
        row = next((row for row in group.rows if row.label == label), None)
        records = row.finals if row is not None else [record for record in group.trials if record.spec.label == label]
        return command(group.suite, records)

    timed = quality_table(group)
    made = []
    for table in [*group_tables(group), *([timed] if timed is not None else [])]:
        if table.ending in MEASURED:
            made.append(measured_sheet(group, table))
        else:
            statistic = _WHAT.get(table.ending, table.caption)
            facts = (("Rule", table.rule),) if table.rule else ()
            made.append(lines_sheet(table, group.suite, f"{group.name}: {table.ending}", statistic, how, facts))
    if group.suite == copying.SUITE and group.rows:
        table = copying.table_of(group)
        made.append(lines_sheet(table, group.suite, f"{group.name}: {table.ending}", table.caption, how))
    return made


def memory_sheets(results: Path) -> list[Sheet]:
    """The tables of the memory record; none without one."""
    record = side_file.MEMORY.read(results / "memory" / "paper.json")
    if record is None:
        return []
    from bench.memory.tables import paper_tables

    return [_memory_sheet(table, record) for table in paper_tables(record)]


def _memory_sheet(table: Table, record: Line) -> Sheet:
    if table.ending == "phases":
        table = replace(table, data=tuple(_phases(record["rows"])))
    facts = tuple(("Means", remark) for remark in table.remarks)
    facts = (("Rule", table.rule), *facts) if table.rule else facts
    return lines_sheet(table, "memory", table.ending, table.caption, _MEMORY, facts)


def _phases(rows: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Every kind of bytes in every phase, of which the table's own data have the sums."""
    for row in rows:
        step = row["steps"].get("core")
        for phase, kinds in (step["phases"] if step is not None else {}).items():
            for kind, size in kinds.items():
                yield {"label": f"{row['label']} / {phase}", "column": kind, "value": size, "unit": "B"}
