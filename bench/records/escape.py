"""Escape the text of records and users for every output: terminal, Markdown, LaTeX, HTML, CSV and figures.

No output gets a character that is invisible or that moves others.
"""

import re
import unicodedata
from typing import Any

# Controls (except line feed and tab), surrogates, separators of lines and paragraphs, and format characters without a glyph: text
# direction (U+202E), zero width, tags. U+200C and U+200D stay: Persian, Hindi and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},
    **{"[": "{[}", "]": "{]}"},  # after \\ a bracket would be its optional argument
    **{"—": "---", "…": r"\ldots{}", "\N{MULTIPLICATION SIGN}": r"$\times$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"},
}
_ACCENTS = {  # of LaTeX, by the combining mark
    **{"\u0300": r"\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0308": r"\"", "\u0304": r"\="},
    **{"\u0327": r"\c", "\u030a": r"\r", "\u030c": r"\v", "\u0306": r"\u", "\u030b": r"\H"},
}
_FORMULA = ("=", "+", "-", "@", "\t")  # starts of what a spreadsheet computes
# Numbers, intervals in brackets and words, as tables write them: not a formula even after a sign.
_NUMBER = r"[+-]?[\d.,]+(?:e[+-]?\d+)?"
_AMOUNT = re.compile(rf"{_NUMBER}(?: (?:{_NUMBER}|\[{_NUMBER}, {_NUMBER}\]|[A-Za-z%]+))*")


def visible(text: str) -> str:
    r"""The text with every invisible character as its escape: ESC is `\x1b`, U+202E `\u202e`. Line feeds and tabs stay."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def one_line(text: str) -> str:
    """The text as one visible line."""
    return visible(" ".join(text.splitlines())).replace("\t", " ")


def _spaced_once(text: str) -> str:
    return " ".join(one_line(text).split())


def markdown_escape(text: str) -> str:
    """Escape text as one line for Markdown, its tables, HTML and GitHub's mathematics."""
    line = _spaced_once(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}|$~#])", r"\\\1", line)


def latex_escape(text: str) -> str:
    """Escape text for LaTeX; letters with an accent become its commands, other characters beyond ASCII their code point, U+4E2D."""
    return "".join(map(_latex, _spaced_once(text)))


def _latex(character: str) -> str:
    if (known := _LATEX.get(character)) is not None or character.isascii():
        return known or character
    letter, mark = (apart := unicodedata.normalize("NFD", character))[0], apart[1:]
    if letter.isalpha() and letter.isascii() and mark in _ACCENTS:
        return f"{{{_ACCENTS[mark]}{{{letter}}}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"


def csv_cell(value: Any) -> Any:
    """Escape a value for a CSV file: text that a spreadsheet would compute gets an apostrophe, numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) and not _AMOUNT.fullmatch(text) else text
