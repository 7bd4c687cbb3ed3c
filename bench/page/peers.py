"""The comparison with peers as tables whose cells know the rounds and counts that they are made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import side_file
from bench.page.evidence import Origin, Reading, Sheet
from bench.page.sheets import leading, number, row_name
from bench.tables import Entry, Table

_TITLES = {
    "overhead": "A training step by each library, over its floor",
    "steps": "Evaluations of a solve to a tolerance",
    "memory": "Memory of a training step by each library",
    "baselines": "Training steps of the explicit baselines beside plain torch",
    "harness": "What the harness adds to a training step",
}
_INTERVAL = "median over rounds taken in turns; in brackets its 95 % interval by order statistics, or the range of fewer than six"
_COUNTED = "counted once: the same in every run"
_STATISTICS = {"overhead": _INTERVAL, "steps": _COUNTED, "memory": _COUNTED, "baselines": _INTERVAL, "harness": _INTERVAL}
_SAID = ("library", "problem", "method", "rtol", "dtype")
_COMMAND = "python -m bench peers"
# What a column is read from, by the end of its head; a column that is not here is made of everything that its rows hold.
_FIELDS = {
    "step / floor": ("step_s", "floor_s"),
    "deq, time": ("step_s",),
    "reference, time": ("model_s", "reference_s"),
    "reference (ms)": ("reference_s",),
    "harness (ms)": ("harness_s",),
    "loop (ms)": ("bare_s",),
    "more (%)": ("harness_s", "bare_s"),
    "f + VJP": ("evaluations", "products"),
    "saved (MiB)": ("saved_bytes",),
    "a state)": ("peak_bytes", "state_bytes"),
    "peak (MiB)": ("peak_bytes",),
    "ms": ("step_s", "model_s"),
}


def peers_sheets(results: Path) -> list[Sheet]:
    """The tables of the peers' record; none without one."""
    record = side_file.PEERS.read(results / "peers" / "peers.json")
    if record is None:
        return []
    from bench.peers.show import tables

    return [_sheet(name, text, record) for name, text in tables(record).items()]


def _sheet(name: str, text: str, record: dict[str, Any]) -> Sheet:
    heads, rows = _cells(text)
    first = leading(Table(ending=name, title="", caption="", heads=tuple((head, "") for head in heads), rows=()))
    words = tuple(i for i in range(len(heads)) if i < first or all(number(row[i]) is None for row in rows))
    table = Table(
        ending=name,
        title=_TITLES.get(name, name),
        caption=f"Libraries: {', '.join(f'{library} {version}' for library, version in record['libraries'].items())}.",
        rule=_STATISTICS.get(name, "").capitalize() + ".",
        heads=tuple((head, "") for head in heads),
        rows=tuple(tuple(Entry(cell) for cell in row) for row in rows),
        words=words,
    )
    origins = tuple(_line(table, entries, first, record) for entries in table.rows)
    return Sheet(table=table, origins=origins)


def _cells(text: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table in Markdown."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.strip().splitlines()]
    heads, rows = lines[0], lines[2:]
    if any(len(row) != len(heads) for row in rows):
        raise ValueError("a name with a bar in it")
    return heads, rows


def _line(table: Table, entries: Sequence[Entry], first: int, record: dict[str, Any]) -> tuple[Origin | None, ...]:
    keys = {head: entry.text.lower() for (head, _), entry in list(zip(table.heads, entries, strict=True))[:first]}
    mine = [row for row in record[table.ending] if all(str(row.get(head, "")).lower() == text for head, text in keys.items())]
    line: list[Origin | None] = [None] * first
    seen: dict[str, int] = {}
    for entry, (head, _) in list(zip(entries, table.heads, strict=True))[first:]:
        seen[head] = seen.get(head, 0) + 1  # the first is of the first library, the second of the second
        library = _library(head, seen[head], table, list(record["libraries"]))
        fields = next((fields for end, fields in _FIELDS.items() if head.endswith(end)), None)
        found = [row for row in mine if library in (None, row.get("library")) and _solved_to(head, row)]
        line.append(
            Origin(
                suite="peers",
                group=table.ending,
                row=row_name(table, entries),
                column=head if seen[head] == 1 else f"{head} ({library})",
                shown=entry.text,
                shown_unit="",
                unit="",
                value=number(entry.text),
                statistic=_STATISTICS.get(table.ending, ""),
                readings=tuple(reading for row in found for reading in _readings(row, set(keys), fields)),
                command=_COMMAND,
            )
        )
    return tuple(line)


def _library(head: str, place: int, table: Table, libraries: Sequence[str]) -> str | None:
    """Whose a column is, where it is one library's."""
    told = next((library for library in libraries if head.startswith(f"{library}: ")), None)
    shared = sum(name == head for name, _ in table.heads) > 1
    return libraries[place - 1] if told is None and shared else told


def _solved_to(head: str, row: dict[str, Any]) -> bool:
    """Whether a solve is of a column that is named by its tolerance, such as `1e-3 (float32)`; rows without one always are."""
    return "rtol" not in row or (number(head) == row["rtol"] and head.endswith(f"({row['dtype']})"))


def _readings(row: dict[str, Any], keys: set[str], fields: Sequence[str] | None) -> list[Reading]:
    """What a row of the record holds in these fields, or in all, a list round by round."""
    whose = f"{row['library']}: " if "library" in row and "library" not in keys else ""
    found = []
    for name, value in row.items():
        if name in keys or name in _SAID or (fields is not None and name not in fields):
            continue
        if isinstance(value, list):
            found += [Reading(about=f"{whose}{name}, round {place}", value=one) for place, one in enumerate(value, 1)]
        else:
            found.append(Reading(about=f"{whose}{name}", value=value))
    return found
