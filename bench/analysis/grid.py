"""A table is a grid of cells; every format is a renderer of it (bench.report.report), and none reads another's text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import overload

from bench.analysis.statistics import Interval
from bench.records.record import Record

ARROWS = {"lower": "↓", "higher": "↑", None: ""}
_LONGEST = 300  # characters of a reason: a traceback's last line can be a page


@dataclass(frozen=True)
class Cell:
    """One cell: its text, unescaped; the value, interval, number of runs, unit and run ids behind it; its footnotes' numbers.

    `value` and `interval` are in `unit`, which may be another than the one that the text is written in.
    """

    text: str
    bold: bool = False
    notes: tuple[int, ...] = ()
    value: float | str | None = None
    interval: Interval | None = None
    n: int | None = None
    unit: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line(Sequence[Cell]):
    """One row of cells, and what it is about: `label` names it in data, whatever its first cell adds to that."""

    cells: tuple[Cell, ...]
    label: str
    family: str = ""
    method: str = ""

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Cell, ...]: ...
    def __getitem__(self, index: int | slice) -> Cell | tuple[Cell, ...]:
        return self.cells[index]


def line(*cells: Cell | str, label: str = "", family: str = "", method: str = "") -> Line:
    """A Line of cells or plain texts; without a label, the first text is it."""
    made = tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
    return Line(cells=made, label=label or made[0].text, family=family, method=method)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A grid of cells; Markdown, LaTeX, CSV and terminal are renderers of it (bench.report.report).

    `ending` tells the tables of one group apart; `heads` are (name and arrow, unit); `words` are the columns that hold words, not
    numbers; `keys` is how many leading columns name the row. `rule` is what a reader of several tables need be told once.
    `data` is what the CSV file holds where that is more than the grid: hidden columns, single runs, single depths.
    """

    ending: str
    title: str
    caption: str
    rule: str = ""
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Sequence[Cell], ...]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    data: tuple[dict[str, object], ...] = ()
    words: tuple[int, ...] = (0,)
    keys: int = 1
    group: tuple[str, str] = ("", "")

    @property
    def lines(self) -> tuple[Line, ...]:
        """The rows as Lines."""
        return tuple(row if isinstance(row, Line) else line(*row) for row in self.rows)

    @property
    def tidy(self) -> tuple[dict[str, object], ...]:
        """One dictionary a cell, or `data` where it is given."""
        return self.data or tuple(
            {
                **{"suite": self.group[0], "group": self.group[1], "label": row.label, "method": row.method},
                **{"column": self.heads[index][0], "value": cell.text if index in self.words else cell.value},
                **{"unit": cell.unit, "run_ids": " ".join(cell.sources)},
            }
            for row in self.lines
            for index, cell in enumerate(row.cells)
            if index >= self.keys
        )


@dataclass
class Notes:
    """Footnotes by text, so that one reason has one number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        """The number of a footnote, which is added where it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def cut(text: str) -> str:
    """A reason, shortened to what a footnote can hold."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The second items by the first, both in the order in which they come."""
    found: dict[str, list[str]] = {}
    for key, item in pairs:
        found.setdefault(key, []).append(item)
    return found


def failures(records: Iterable[Record]) -> list[str]:
    """One note a status and reason, however many runs share it."""
    runs = gathered((f"{record.status}: {cut(record.reason or '')}", record.run_id) for record in records)
    return [f"{what} ({', '.join(ids)})" for what, ids in runs.items()]
