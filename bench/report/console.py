"""The terminal: nothing that records or users wrote is markup, an emoji's name, or moves the cursor."""

from typing import Any

from rich.console import Console
from rich.text import Text

from bench.records.escape import visible


class PlainConsole(Console):
    """A rich Console that prints text as it is; characters that are not seen are shown as escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False} | settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string passes here, also a table's cells."""
        return super().render_str(visible(text), **settings)
