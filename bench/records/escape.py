"""Make the text of records and users safe to show: every renderer passes it through here.

Terminal, Markdown, LaTeX, HTML, CSV and figures get no character that is not seen or that moves others.
"""

import re
from typing import Any

# Controls (line feed and tab apart), surrogates, separators of lines and paragraphs, and the format characters that show nothing:
# those of text direction (U+202E), zero-width ones, tags. U+200C and U+200D stay: Persian, Hindi and emoji are written with them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LATEX = {
    **{
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    },
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"[": "{[}", "]": "{]}"},  # after \\ a bracket would be its optional argument
    **{
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "—": "---",
        "…": r"\ldots{}",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
    },
}
_FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet computes
# Numbers, their intervals in brackets and words: what tables write, and nothing that can be computed.
_NUMBER = r"[+-]?[\d.,]+(?:e[+-]?\d+)?"
_AMOUNT = re.compile(rf"{_NUMBER}(?: (?:{_NUMBER}|\[{_NUMBER}, {_NUMBER}\]|[A-Za-z%]+))*")


def visible(text: str) -> str:
    r"""The text with every unseen character as its escape: ESC is `\x1b`, U+202E `\u202e`. Line feeds and tabs stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text as one visible line."""
    return visible(" ".join(text.splitlines())).replace("\t", " ")


def _spaced_once(text: str) -> str:
    return " ".join(one_line(text).split())


def markdown_escape(text: str) -> str:
    """Any text as one line that Markdown, its tables, HTML and GitHub's mathematics leave alone."""
    line = _spaced_once(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}|$~#])", r"\\\1", line)


def latex_escape(text: str) -> str:
    """Any text as LaTeX text; what pdfLaTeX has no character for becomes its code point, U+4E2D."""
    return "".join(_LATEX.get(c, c if c.isascii() else rf"\texttt{{U+{ord(c):04X}}}") for c in _spaced_once(text))


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would take for a formula gets an apostrophe, numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) and not _AMOUNT.fullmatch(text) else text
