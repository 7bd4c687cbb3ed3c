"""A table is a grid of cells; Markdown, LaTeX, CSV, terminal and HTML are renderers of it (bench.report)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from bench.analysis.statistics import Interval
from bench.records.record import Record

_K = TypeVar("_K")
_T = TypeVar("_T")
ARROWS = {"lower": "↓", "higher": "↑", None: ""}
_LONGEST = 300  # characters of a reason: a traceback's last line can be a page


@dataclass(frozen=True)
class Sample:
    """One value that a cell is computed from: its seed, depth or round, its run, and the reason where it does not count."""

    about: str
    value: float | int | str | None
    run: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell: its unescaped text, footnote numbers, and the value with all that it comes from.

    `value`, `interval` and `samples` are in `unit`; the text may be in another. `methods` are pairs (method, scope), `measure` the
    name that records give the column.
    """

    text: str
    bold: bool = False
    notes: tuple[int, ...] = ()
    value: float | str | None = None
    interval: Interval | None = None
    unit: str = ""
    samples: tuple[Sample, ...] = ()
    methods: tuple[tuple[str, str], ...] = ()
    measure: str = ""

    @property
    def run_ids(self) -> str:
        """The runs that count, for CSV."""
        return " ".join(sample.run for sample in self.samples if sample.value is not None)


class Line(tuple[Cell, ...]):
    """A row of cells; `label` names it in data, whatever its first cell adds to that; family "reference": no model."""

    label: str
    family: str
    method: str


def line(*cells: Cell | str, label: str = "", family: str = "", method: str = "") -> Line:
    """Make a Line of cells or plain texts; without a label, the first text is it."""
    made = Line(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
    made.label, made.family, made.method = label or made[0].text, family, method
    return made


@dataclass(frozen=True, kw_only=True)
class Table:
    """A grid of cells with its words.

    `kind` names the table within its group; `heads` are (name and arrow, unit); `text_columns` hold words; `label_columns` is how
    many leading columns name the row. `legend` is what a page of several tables states once. `data` is what the CSV file holds
    where that is more than the grid: hidden columns, single runs, single depths.
    """

    kind: str
    title: str
    caption: str
    legend: str = ""
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    data: tuple[dict[str, object], ...] = ()
    text_columns: tuple[int, ...] = (0,)
    label_columns: int = 1
    group: tuple[str, str] = ("", "")

    @property
    def tidy(self) -> tuple[dict[str, object], ...]:
        """One dictionary a cell, or `data` where it is given."""
        return self.data or tuple(
            {
                **{"suite": self.group[0], "group": self.group[1], "label": row.label, "method": row.method},
                **{"column": self.heads[index][0], "value": cell.text if index in self.text_columns else cell.value},
                **{"unit": cell.unit, "run_ids": cell.run_ids},
            }
            for row in self.rows
            for index, cell in enumerate(row)
            if index >= self.label_columns
        )


def footnote(notes: list[str], text: str) -> int:
    """The number of a footnote, which is added where it is new: one reason has one number."""
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def cut(text: str) -> str:
    """Shorten a reason to what a footnote can hold."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def gathered(pairs: Iterable[tuple[_K, _T]]) -> dict[_K, list[_T]]:
    """The second items by the first, both in the order in which they come."""
    found: dict[_K, list[_T]] = {}
    for key, item in pairs:
        found.setdefault(key, []).append(item)
    return found


def failures(records: Iterable[Record]) -> list[str]:
    """One note a status and reason, however many seeds share it; the CSV files name the runs."""
    seeds = gathered((f"{record.status}: {cut(record.reason or '')}", str(record.spec.seed)) for record in records)
    return [f"{what} (seed{'s' if len(shared) > 1 else ''} {', '.join(shared)})" for what, shared in seeds.items()]
