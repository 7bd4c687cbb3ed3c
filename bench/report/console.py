"""The terminal: nothing that records or users wrote is markup, an emoji's name, or moves the cursor."""

import itertools
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench.records.escape import visible

_GAP = 2
_NO_BREAK = "\N{NO-BREAK SPACE}"


class PlainConsole(Console):
    """A rich Console that prints text as it is; characters that are not seen are shown as escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string passes here, also a table's cells."""
        return super().render_str(visible(text), **settings)


def terminal_width() -> int | None:
    """The columns of the terminal, or of COLUMNS where it is set; None for a file or a pipe, which get a line a row."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def invocation() -> str:
    """How this program is called from this folder, also outside its virtual environment: `.venv/bin/python -m bench`."""
    python, here = sys.executable or "python", f"{Path.cwd()}/"
    if python == shutil.which(Path(python).name):
        python = Path(python).name
    return f"{shlex.quote(python.removeprefix(here))} -m bench"


def for_terminal(text: str, width: int | None = None) -> str:
    """The text with its commands as they are called here, every character visible, wrapped between words to a width."""
    lines = visible(text).replace("python -m bench", invocation()).split("\n")
    return "\n".join(line for one in lines for line in _wrapped(one, width))


def say(text: str) -> None:
    """Print a text, wrapped between words where the output is a terminal."""
    print(for_terminal(text, terminal_width()))


def text_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int], width: int | None = None, source: str = "--json"
) -> str:
    """Columns of text (`words`, left) and of numbers (right), wrapped between words until the table fits a width.

    Where the longest words are wider than that, the last columns are left out: a line names them and the `source` of all.
    """
    columns = [[_keep_intervals(text) for text in column] for column in zip(heads, *rows, strict=True)]
    if width is not None and _total(map(_least, columns)) > width:
        broken = [list(column) for column in zip(heads, *rows, strict=True)]
        columns = broken if _total(map(_least, broken)) <= width else columns
    least, shown = list(map(_least, columns)), len(columns)
    while width is not None and shown > 1 and _total(least[:shown]) > width:
        shown -= 1
    widths = [max(len(line) for text in column for line in text.split("\n")) for column in columns[:shown]]
    while width is not None and _total(widths) > width:
        shrinkable = [index for index in range(shown) if widths[index] > least[index]]
        if not shrinkable:
            break  # one word is as wide
        widths[max(shrinkable, key=lambda index: widths[index])] -= 1
    head, *body = (_aligned(row, widths, words) for row in zip(*columns[:shown], strict=True))
    lines = [*head, (" " * _GAP).join("-" * size for size in widths), *itertools.chain(*body)]
    if left_out := [" ".join(head.split()) for head in heads[shown:]]:
        lines.append(f"{len(left_out)} more column{'s' if len(left_out) > 1 else ''} in {source}: {', '.join(left_out)}")
        lines += _wrapped(lines.pop(), width)
    return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int], words: Collection[int]) -> list[str]:
    """The lines of a row, its cells wrapped to the widths of their columns."""
    cells = [[part for line in text.split("\n") for part in _wrapped(line, size)] for text, size in zip(row, widths, strict=True)]
    lines = []
    for parts in itertools.zip_longest(*cells, fillvalue=""):
        aligned = (part.ljust(widths[at]) if at in words else part.rjust(widths[at]) for at, part in enumerate(parts))
        lines.append((" " * _GAP).join(aligned).rstrip())
    return lines


def _total(widths: Iterable[int]) -> int:
    """The width of a table whose columns are that wide."""
    return sum(width + _GAP for width in widths) - _GAP


def _least(column: Sequence[str]) -> int:
    """The width of a column's longest word."""
    return max(len(word) for text in column for word in re.split("[ \n]", text))


def _keep_intervals(text: str) -> str:
    """The text with spaces that do not break in an interval's brackets and before an arrow."""
    return re.sub(r"\[[^\[\]]{,24}\]| [↓↑]", lambda found: found[0].replace(" ", _NO_BREAK), text)


def _wrapped(line: str, width: int | None) -> list[str]:
    if width is not None and len(line) > width:
        indent = line[: len(line) - len(line.lstrip(" "))]
        found = textwrap.wrap(line, max(1, width), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    else:
        found = [line]
    return [part.replace(_NO_BREAK, " ") for part in found]
