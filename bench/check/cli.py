"""`python -m bench check`: a cell, model, solver or task of your own, held to its contract before it costs a run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a Python file with a Cell, Core, Solver or Task")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="of what it defines, this; may be repeated")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a setting, for what takes it; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for scripts")] = False,
) -> None:
    """Hold what a file defines to the contract: shapes, causality, gradients, memory, determinism, fixed points, chance and floor.

    Seconds, on one core. Exit status 0: nothing failed; 1: something did; 2: a wrong call, or a file that cannot be imported."""
    given = parse_settings(settings or [])
    import torch

    from bench.check import show
    from bench.check.find import checked, find, load, settings_for

    torch.set_num_threads(1)
    found = find(load(file), only or [])
    things = []
    for one, own in zip(found, settings_for(found, given), strict=True):
        things.append(checked(one, own, file))
        if not as_json:
            print(show.text(things[-1]), flush=True)
    if as_json:
        print(json.dumps(show.data(file, things), indent=1))
    if show.failed(things):
        raise typer.Exit(1)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; numbers, true, false and none are read as such."""
    from bench.memory.cli import _value

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set {pair!r}: give NAME=VALUE")
        if name in found:
            raise UserError(f"--set: {name!r} is given twice")
        found[name] = _value(value)
    return found
