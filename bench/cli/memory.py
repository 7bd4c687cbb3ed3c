"""`python -m bench memory`: where a training step's bytes go, at the paper's size or any, on a machine that need not have them."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.records.errors import UserError, one_line, unknown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_WORDS = {"true": True, "false": False, "none": None}


@app.callback(invoke_without_command=True)
def memory(
    suite: Annotated[str, typer.Option(help="paper: every memory figure of its tables 2 and 3")] = "paper",
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also", metavar="MODEL", help="one more row: 'NAME setting=value …', NAME a model's or package.module:Class"
        ),
    ] = None,
    constant_in: Annotated[
        str | None,
        typer.Option(metavar="SETTING", help="of the models named by --also: exit with status 1 if memory grows with it"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="where the record, tables and figure go")] = Path(
        "results/memory"
    ),
    jobs: Annotated[int | None, typer.Option(min=1, help="processes (default: one a core)")] = None,
    device: Annotated[str, typer.Option(help="cuda: take every row for real too, beside its prediction")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the record, for scripts")] = False,
) -> None:
    """Follow a training step of every row on fake tensors: what its bytes are for, phase by phase, and what the paper prints.

    About three minutes on two cores, no GPU and next to no memory."""
    from bench.instruments.environment import usable_cores
    from bench.memory import record, scaling, tables
    from bench.memory.device import absent
    from bench.records.spec import ComponentConfig
    from bench.report.report import plain
    from bench.training.language_model import count_parameters

    if suite != "paper":
        raise UserError(f"memory: suite {suite!r}: the paper's memory figures are those of suite paper")
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))
    if device == "cuda" and (reason := absent()) is not None:
        raise UserError(f"memory: --device cuda: {reason}")
    own = {text: parse_model(text) for text in also or ()}
    if constant_in is not None and not own:
        raise UserError("memory: --constant-in is for models named by --also")
    for model in own.values():  # now, not after minutes
        count_parameters(
            model if constant_in is None else ComponentConfig(name=model.name, settings={**model.settings, constant_in: 2}), 100
        )
    found = record.make(own, constant_in, jobs or usable_cores() or 1, device)
    record.write(found, out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for table in tables.paper_tables(found):
            print(plain(table))
    failed = [
        row["label"] for row in found["laws"] if row["axis"] == "depth" and scaling.judged(row) == "FAIL" and row["label"] in own
    ]
    for label in failed:
        print(f"{one_line(label)}: memory is not constant in {constant_in}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def parse_model(text: str) -> Any:
    """`NAME setting=value …` as a Named model: numbers, true, false and none are read as such."""
    from bench.records.spec import ComponentConfig

    name, *settings = text.split() or [""]
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"memory: --also {text!r}: settings are NAME=VALUE, got {setting!r}")
        found[key] = _value(value)
    if not isinstance(found.get("width"), int):
        raise UserError(f"memory: --also {text!r}: give a model and a width, such as width=480")
    try:
        return ComponentConfig(name=name, settings=found)
    except ValueError as error:
        raise UserError(f"memory: --also {text!r}: {one_line(str(error))}") from error


def _value(text: str) -> bool | int | float | str | None:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)(e[+-]?\d+)?", text, re.I) else text
