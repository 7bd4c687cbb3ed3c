"""Corpora named on the command line."""

import re
from pathlib import Path

from bench.records.errors import UserError


def parse_data(pairs: list[str]) -> dict[str, Path]:
    """`NAME=PATH` pairs as a dictionary; each path must exist. The name of a published corpus alone has it fetched."""
    data: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals:
            from bench.tasks.corpora import CORPORA, fetch

            if name not in CORPORA:
                raise UserError(f"--data {pair!r}: give NAME=PATH, or one of {', '.join(sorted(CORPORA))} to have it fetched")
            path = equals = str(fetch(CORPORA[name]))
        if not equals or not path or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*", name):
            raise UserError(f"--data {pair!r}: give NAME=PATH, the name of letters, digits, _, + and -")
        if name in data:
            raise UserError(f"--data: {name!r} is named twice")
        data[name] = _checked(name, Path(path))
    return data


def _checked(name: str, path: Path) -> Path:
    """The path, where a file or a folder is; not a named pipe or a device, which might never end."""
    try:
        if path.is_file() or path.is_dir():
            return path
        reason = "is neither a regular file nor a folder: save its text to a file first" if path.exists() else "does not exist"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    raise UserError(f"--data {name}: {path} {reason}")
