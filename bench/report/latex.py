"""A table for a paper in LaTeX, cut into parts that fit the column and the page of a plain article.

Widths are those of Computer Modern, in which an article without other fonts is set.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib

from bench.analysis.grid import Cell, Line, Table
from bench.records.escape import latex_escape

COLUMN = 395.0  # points: the text of ICLR and NeurIPS is 397 wide, less what the widths below may miss
_ROWS = 400.0  # points of height for the rows; the rest of the page is for the caption and the notes
_GAP, _LINE = 3.0, 9.5  # points: \tabcolsep, a line of \footnotesize
_WIDEST = 110.0  # points of a column of words, unless a word is wider
_SMALL = 0.008 * 1.07  # of AFM's units: \footnotesize is 8 points, whose letters are 7 % wider than the scaled ones of 10 points


@dataclass(frozen=True)
class _Column:
    """A column's place, head in lines, natural width, and the width that it gets; `wraps`: its text may take several lines."""

    index: int
    head: tuple[str, ...]
    natural: float
    width: float
    wraps: bool


def floats(table: Table, label: str, mark: str) -> str:
    """Float environments with the packages array and booktabs: the first has the label and the whole caption."""
    parts = list(_parts(table))
    texts = [f"% {mark}", r"% \usepackage{array,booktabs}"]
    for number, (columns, rows) in enumerate(parts, 1):
        title, name = f"{table.title}. {table.caption} {table.legend}", label
        if number > 1:
            title, name = f"{table.title}, part {number} of {len(parts)}.", f"{label}-{number}"
        texts += [r"\begin{table}", r"\centering", r"\footnotesize", rf"\setlength{{\tabcolsep}}{{{_GAP:g}pt}}"]
        texts += [rf"\caption{{{latex_escape(title)}}}", rf"\label{{{name}}}", *_tabular(table, columns, rows)]
        for note in sorted({note for row in rows for column in columns for note in row[column.index].notes}):
            texts += ["", rf"{{\footnotesize \textsuperscript{{{note}}}{_breakable(table.notes[note - 1])}\par}}"]
        texts.append(r"\end{table}")
    return "\n".join(texts) + "\n"


def _tabular(table: Table, columns: Sequence[_Column], rows: Sequence[Line]) -> Iterator[str]:
    kinds = [_kind(column, column.index in table.text_columns) for column in columns]
    yield rf"\begin{{tabular}}{{@{{}}{''.join(kinds)}@{{}}}}"
    yield r"\toprule"
    yield " & ".join(_head(column, column.index in table.text_columns) for column in columns) + r" \\"
    yield r"\midrule"
    for row in rows:
        yield " & ".join(_shown(row[column.index], column.wraps) for column in columns) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _kind(column: _Column, left: bool) -> str:
    if column.wraps:
        return rf">{{\raggedright\arraybackslash}}p{{{column.width:.0f}pt}}"
    return "l" if left else "r"


def _head(column: _Column, left: bool) -> str:
    lines = r"\\".join(map(latex_escape, column.head))
    return rf"\begin{{tabular}}[b]{{@{{}}{'l' if left else 'r'}@{{}}}}{lines}\end{{tabular}}"


def _shown(cell: Cell, wraps: bool) -> str:
    mean, ends = _split(cell)
    text = _breakable(mean) if wraps else latex_escape(mean)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text += rf" {{\scriptsize {latex_escape(ends)}}}" if ends else ""
    return text + (rf"\textsuperscript{{{','.join(map(str, cell.notes))}}}" if cell.notes else "")


def _split(cell: Cell) -> tuple[str, str]:
    """The mean and the interval of a cell's text "mean [low, high]"; of any other, the text and nothing."""
    if cell.interval is None or cell.interval.has_no_spread:
        return cell.text, ""
    mean, _, ends = cell.text.partition(" ")
    return mean, ends


def _breakable(text: str) -> str:
    """The escaped text, which may also break behind a slash, an underscore, an equals sign or a comma."""
    return re.sub(r"(\\_|[/=,])(?=[^\s}])", r"\1\\allowbreak{}", latex_escape(text))


def _parts(table: Table) -> Iterator[tuple[list[_Column], list[Line]]]:
    """Columns that fit next to the table's keys, and rows that fit on a page, in reading order."""
    columns = [_column(table, index) for index in range(len(table.heads))]
    keys, others = columns[: table.label_columns], columns[table.label_columns :]
    blocks: list[list[_Column]] = [[]]
    for column in others:
        if blocks[-1] and _width([*keys, *blocks[-1], column]) > COLUMN:
            blocks.append([])
        blocks[-1].append(column)
    for block in blocks:
        chosen = _widened([*keys, *block])
        rows: list[Line] = []
        height = 0.0
        for row in table.rows:
            lines = max(_lines(row[column.index], column) for column in chosen)
            if rows and height + lines * _LINE > _ROWS:
                yield chosen, rows
                rows, height = [], 0.0
            rows.append(row)
            height += lines * _LINE
        yield chosen, rows


def _column(table: Table, index: int) -> _Column:
    cells = [row[index] for row in table.rows]
    natural = max((_cell_width(cell) for cell in cells), default=0.0)
    limit = min(_WIDEST, COLUMN / 2 / table.label_columns) if index < table.label_columns else _WIDEST
    wraps = index in table.text_columns and natural > limit
    longest = max((_length(word) for cell in cells for word in re.split(r"(?<=[\s/_=,-])", cell.text)), default=0.0)
    width = max(limit, longest) if wraps else natural
    head, unit = table.heads[index]
    words = re.split(r" (?![↓↑])", head) + ([f"({unit})"] if unit else [])
    width = max(width, *(_length(word) for word in words), 0.0)
    return _Column(index, tuple(_filled(words, width)), natural, width, wraps)


def _filled(words: Sequence[str], width: float) -> Iterator[str]:
    """The words in lines of at most the width."""
    text = ""
    for word in words:
        if text and _length(f"{text} {word}") > width:
            yield text
            text = word
        else:
            text = f"{text} {word}".strip()
    yield text


def _widened(columns: Sequence[_Column]) -> list[_Column]:
    """Share the room that is left among the columns that wrap."""
    wrapping = sum(column.wraps for column in columns)
    more = (COLUMN - _width(columns)) / wrapping if wrapping else 0.0
    return [replace(c, width=min(c.natural, c.width + max(0.0, more))) if c.wraps else c for c in columns]


def _width(columns: Sequence[_Column]) -> float:
    return sum(column.width for column in columns) + 2 * _GAP * (len(columns) - 1)


def _lines(cell: Cell, column: _Column) -> int:
    return math.ceil(1.15 * _cell_width(cell) / column.width) if column.wraps and column.width else 1


def _cell_width(cell: Cell) -> float:
    mean, ends = _split(cell)
    marks = 0.9 * _length(",".join(map(str, cell.notes)))
    return (1.17 if cell.bold else 1.0) * _length(mean) + (0.95 * _length(f" {ends}") if ends else 0.0) + marks


def _length(text: str) -> float:
    """Points of a text in \\footnotesize; an unknown character is as wide as a capital."""
    widths = _widths()
    return _SMALL * sum(widths.get(ord(letter), 778.0) for letter in text)


@cache
def _widths() -> dict[int, float]:
    """Widths of the characters of Computer Modern, from the file that matplotlib brings, in thousandths of the font's size."""
    text = (Path(matplotlib.get_data_path()) / "fonts" / "afm" / "cmr10.afm").read_text(encoding="ascii")
    found = {int(code): float(width) for code, width in re.findall(r"^C (\d+) ; WX ([\d.]+) ", text, re.MULTILINE)}
    return {code: width for code, width in found.items() if 33 <= code < 127} | {32: 333.0}
