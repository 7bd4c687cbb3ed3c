"""Sources of the tables that are not means over seeds: each cell with the lines of the table's data that it comes from.

This is the only module that matches cells to data by their text; a table whose cells carry their own sources does not need it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.analysis.aggregate import MEMORY, Group
from bench.analysis.grid import Cell, Table
from bench.analysis.quality_table import quality_table
from bench.analysis.statistics import significant
from bench.analysis.tables import group_tables
from bench.claims import copying
from bench.records import side_file
from bench.report.html.sources import MEASURE_TABLES, CellSource, Sample, SourcedTable, command, measure_table

Line = Mapping[str, Any]
# Heads of the leading columns, which tell the rows of a table apart.
_KEYS = {
    *("model", "method", "bytes ↓", "nudge", "beta", "DEQ", "against", "explicit network", "of", "phase", "claim"),
    *("problem", "library", "shape"),
}
# The name in the data of a column whose head differs.
_NAMES = {
    **{"1 - cosine": "one_less_cosine", "distance / norm": "distance"},
    **{"FLOPs at the caps": "flops", "bytes at the caps": "bytes"},
    **{column.head: column.name for column in MEMORY},
}
_PRINTED = ("paper", "table 4", "the paper's tables", "paper: parameters", "paper: loss")
_ABOUT = {"seed": "seed", "learning_rate": "rate", "depth": "depth", "beta": "beta"}
_FIELDS = {"whole training": "trained_s", "final valid": "final"}  # columns of the quality table that are not its `value`
_STATISTICS = {
    "trials": "one trial a learning rate, on the validation split",
    "depth": "exact counts of one training step at each depth",
    "gradient": "one gradient of the trained model on the first training batch",
    "quality": "median over seeds",
}


def number(text: str) -> float | None:
    """The number that a text begins with, to sort by: infinity for `never`, None where there is none."""
    found = re.match(r"[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?", text)
    if found:
        return float(found[0].replace(",", ""))
    return math.inf if text == "never" else None


def key_columns(heads: Sequence[str]) -> int:
    """How many of the first columns name the row."""
    return max(1, next((index for index, head in enumerate(heads) if head not in _KEYS), len(heads)))


def _matching(lines: Sequence[Line], head: str, keys: set[str]) -> list[Line]:
    """The lines of a row that are of a column; where none has a column, those that match the row's further keys."""

    def one_of_keys(value: Any) -> bool:
        return (significant(value, 2) if isinstance(value, float) else value) in keys

    found = list(lines)
    for field in ("method", "beta"):
        found = [line for line in found if field in line and one_of_keys(line[field])] or found
    kinds = {word == "training" for word in keys & {"training", "inference"}}
    found = [line for line in found if line.get("training") in kinds] or found
    of_column = [line for line in found if line.get("column") in (head, _NAMES.get(head))]
    return of_column or [line for line in found if one_of_keys(line.get("column"))] or found


def _sample(line: Line, head: str) -> Sample:
    field = next((field for start, field in _FIELDS.items() if head.startswith(start) and field in line), "value")
    about = [
        f"{word} {line[name]:g}" if isinstance(line[name], float) else f"{word} {line[name]}"
        for name, word in _ABOUT.items()
        if line.get(name) is not None
    ]
    failed = line.get("status", "ok") != "ok"
    reason = f"{line['status']}: {line.get('reason')}" if failed else str(line.get("reason") or "")
    if field == "value" and line.get("value") is None and line.get("column") == "seconds_to_target":
        reason = "never reached the target"
    about_text = ", ".join(about) or str(line.get("column", ""))
    return Sample(about=about_text, value=line.get(field), run=str(line.get("run_ids", "")), reason=reason)


def _sort_value(lines: Sequence[Line], head: str, shown: str) -> float | None:
    """The exact number of a cell where its lines have one, else the number that its text begins with."""
    if head == "slope" and lines and "slope" in lines[0]:
        return float(lines[0]["slope"])
    if head in ("least depth", "least deep", "greatest depth", "deepest") and lines:
        return float(lines[0 if head.startswith("least") else -1]["value"])
    exact = [line["value"] for line in lines if line.get("column") in (head, _NAMES.get(head))]
    return float(exact[0]) if len(exact) == 1 and isinstance(exact[0], int | float) else number(shown)


def _data_table(
    table: Table, suite: str, group: str, statistic: str, how: Callable[[str], str], facts: Sequence[tuple[str, str]] = ()
) -> SourcedTable:
    """A table with its sources; `how` gives the command from a row's label."""
    heads = [re.sub(r"\s*[↓↑]$", "", name) for name, _ in table.heads]
    first = key_columns([name for name, _ in table.heads])

    def source(entries: Sequence[Cell], index: int) -> CellSource:
        keys, head, shown = [entry.text for entry in entries[:first]], heads[index], entries[index].text
        label, printed = keys[0].removesuffix(" (the target)"), head in _PRINTED
        labels = (label, " / ".join(keys), " / ".join(keys[:2]))
        further = {*keys[1:], *(_NAMES[key] for key in keys[1:] if key in _NAMES)}
        mine = [line for line in table.data if line.get("label") in labels]
        lines = [] if printed else _matching(mine, head, further)
        units = {str(line.get("unit", "")) for line in lines}
        return CellSource(
            suite=suite,
            group=group,
            row=", ".join(keys),
            column=head,
            shown=shown,
            shown_unit=table.heads[index][1],
            unit=units.pop() if len(units) == 1 else "",
            value=None if index in table.words else _sort_value(lines, head, shown),
            statistic="printed in the paper: not measured here" if printed else statistic,
            samples=tuple(_sample(line, head) for line in lines),
            facts=tuple(fact for fact in facts if fact[0] != "Means" or fact[1].startswith(f"{head}: ")),
            command=how(label),
        )

    sources = ((*[None] * first, *(source(entries, i) for i in range(first, len(entries)))) for entries in table.rows)
    return SourcedTable(table=table, sources=tuple(sources))


def sourced_group_tables(group: Group) -> list[SourcedTable]:
    """All tables of a comparison; a table that is not of measures has a group of its own in its addresses."""

    def how(label: str) -> str:
        row = next((row for row in group.rows if row.label == label), None)
        records = row.finals if row is not None else [record for record in group.trials if record.spec.label == label]
        return command(group.suite, records)

    quality = quality_table(group)
    tables = [*group_tables(group), *([quality] if quality is not None else [])]
    tables += [copying.table_of(group)] if group.suite == copying.SUITE and group.rows else []
    made = []
    for table in tables:
        if table.ending in MEASURE_TABLES:
            made.append(measure_table(group, table))
        else:
            facts = [("Rule", table.rule)] if table.rule and table.ending in _STATISTICS else []
            statistic = _STATISTICS.get(table.ending, table.caption)
            made.append(_data_table(table, group.suite, f"{group.name}: {table.ending}", statistic, how, facts))
    return made


def memory_tables(results: Path) -> list[SourcedTable]:
    """The tables of the memory record; none without one."""
    record = side_file.MEMORY.read(results / "memory" / "paper.json")
    if record is None:
        return []
    from bench.memory.tables import paper_tables

    made = []
    for table in paper_tables(record):
        if table.ending == "phases":  # its own data are sums over the kinds of bytes
            table = replace(table, data=tuple(_phases(record["rows"])))
        facts = [("Rule", table.rule)] if table.rule else []
        facts += [("Means", remark) for remark in table.remarks]
        made.append(_data_table(table, "memory", table.ending, table.caption, _memory_command, facts))
    return made


def _memory_command(label: str) -> str:
    return "python -m bench memory --suite paper"


def _phases(rows: Sequence[Line]) -> list[dict[str, Any]]:
    """Each kind of bytes in each phase of a training step."""
    return [
        {"label": f"{row['label']} / {phase}", "column": kind, "value": size, "unit": "B"}
        for row in rows
        if row["steps"].get("core") is not None
        for phase, kinds in row["steps"]["core"]["phases"].items()
        for kind, size in kinds.items()
    ]
