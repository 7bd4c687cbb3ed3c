"""The terminal: nothing that records or users wrote is markup, an emoji's name, or moves the cursor."""

import shutil
import sys
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from tabulate import tabulate

from bench.records.escape import visible

_GAP = 2


class PlainConsole(Console):
    """A rich Console that prints text as it is; characters that are not seen are shown as escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string passes here, also a table's cells."""
        return super().render_str(visible(text), **settings)


def terminal_width() -> int | None:
    """The columns of the terminal; None where the output is a file or a pipe, which get a line a row."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int], width: int | None = None) -> str:
    """Columns of text (`words`, left) and of numbers (right); the widest texts wrap between words until the table fits a width."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(len(line) for text in column for line in text.split("\n")) for column in columns]
    least = [max(len(word) for text in column for word in text.split() or [""]) for column in columns]
    while width is not None and sum(widths) + _GAP * (len(widths) - 1) > width:
        shrinkable = [index for index in words if widths[index] > least[index]]
        if not shrinkable:
            break  # the rest is as wide as its words and numbers
        widths[max(shrinkable, key=lambda index: widths[index])] -= 1
    limits: Any = [one if index in words else None for index, one in enumerate(widths)] if rows and width is not None else None
    align = ["left" if index in words else "right" for index in range(len(heads))]
    return str(
        tabulate(*(rows, heads, "simple"), disable_numparse=True, colalign=align, maxcolwidths=limits, maxheadercolwidths=limits)
    )
