"""Options that several commands share, and the parsers of their values."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.records.errors import UserError, unknown

RESULTS = Path("results")
Results = Annotated[Path, typer.Option("--results", help="folder of records, tables and figures")]
Data = Annotated[list[str] | None, typer.Option(help="a corpus: NAME=PATH to a UTF-8 file or folder; may be repeated")]
Only = Annotated[str | None, typer.Option(help="rows: a glob over label, group or group/label")]
Seeds = Annotated[str | None, typer.Option(help="seeds instead of the suite's: 0-2 or 0,3,5")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
Jobs = Annotated[int | None, typer.Option(min=1, help="runs at a time (default: by cores; timings always run alone)")]
Processes = Annotated[int, typer.Option(min=1, help="processes that share each batch of a run (torchrun)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]

_DRIVER = Path("/dev/nvidiactl")  # there, where NVIDIA's driver is
_WORDS = {"true": True, "false": False, "none": None}


def parse_seeds(text: str) -> list[int]:
    """`0-2` or `0,3,5` as a list of seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise UserError(f"--seeds {text!r}: give numbers and ranges, such as 0-2 or 0,3,5")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
        if len(seeds) > 1000:
            raise UserError(f"--seeds {text!r}: at most 1000 seeds")
    if len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {text!r}: a seed is named twice")
    return seeds


def parse_device(name: str) -> Literal["cpu", "cuda"]:
    """The device; `auto` is cuda where torch finds one."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name != "cpu" and not torch.cuda.is_available():
        from bench.instruments.environment import why_no_gpu

        if name == "cuda":
            raise UserError(f"--device cuda: {why_no_gpu()}; see `python -m bench doctor`")
        if _DRIVER.exists():  # a GPU that torch cannot use is perhaps meant
            print(f"--device auto: on the CPU, since {why_no_gpu()}", file=sys.stderr)
        return "cpu"
    return "cpu" if name == "cpu" else "cuda"


def parse_data(pairs: list[str] | None) -> dict[str, Path]:
    """`NAME=PATH` pairs as a dictionary; each path must exist. A published corpus is fetched where its name stands alone."""
    data: dict[str, Path] = {}
    for pair in pairs or ():
        name, equals, path = pair.partition("=")
        if not equals:
            from bench.tasks.corpora import CORPORA, fetch

            if name not in CORPORA:
                raise UserError(f"--data {pair!r}: give NAME=PATH, or one of {', '.join(sorted(CORPORA))} to fetch it")
            path = str(fetch(CORPORA[name]))
        if name and not path:
            raise UserError(f"--data {pair!r}: the path is missing: give NAME=PATH, a UTF-8 file or folder")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*", name):
            raise UserError(f"--data {pair!r}: give NAME=PATH, the name of letters, digits, _, + and -")
        if name in data:
            raise UserError(f"--data: {name!r} is named twice")
        data[name] = _readable(name, Path(path))
    return data


def _readable(name: str, path: Path) -> Path:
    """The path of a file or a folder; not of a named pipe or a device, which might never end."""
    try:
        if path.is_file() or path.is_dir():
            return path
        reason = "is neither a regular file nor a folder: save its text to a file first" if path.exists() else "does not exist"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    raise UserError(f"--data {name}: {path} {reason}")


def parse_settings(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    """`NAME=VALUE` pairs as a dictionary; numbers, true, false and none are parsed."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"{option}: settings are NAME=VALUE, got {pair!r}")
        if name in found:
            raise UserError(f"{option}: {name!r} is given twice")
        found[name] = _parse_value(value)
    return found


def _parse_value(text: str) -> bool | int | float | str | None:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)(e[+-]?\d+)?", text, re.I) else text
