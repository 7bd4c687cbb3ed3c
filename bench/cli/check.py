"""`python -m bench check`: test a cell, model, solver or task of your own before it is run."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.records.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a Python file with a Cell, Core, Solver or Task")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="check only this one; may be repeated")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a setting, for what takes it; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for scripts")] = False,
) -> None:
    """Test what a file defines: shapes, causality, gradients, memory, determinism, fixed points, chance and floor.

    Seconds, on one core. Exit status 0: nothing failed; 1: a check failed; 2: a wrong call, or a file that cannot be imported."""
    given = parse_settings(settings or [])
    import torch

    from bench.conformance.load import check_definition, find, load, settings_for
    from bench.conformance.result import render

    torch.set_num_threads(1)
    found = find(load(file), only or [])
    reports = []
    for one, own in zip(found, settings_for(found, given), strict=True):
        reports.append(check_definition(one, own, file))
        if not as_json:
            print(render(reports[-1].title, reports[-1].findings), flush=True)
    failed = any(report.failed for report in reports)
    if as_json:
        checked = [dataclasses.asdict(report) for report in reports]
        print(json.dumps({"file": str(file), "failed": failed, "checked": checked}, indent=1))
    raise typer.Exit(1 if failed else 0)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; numbers, true, false and none are parsed."""
    from bench.cli.memory import _value

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set {pair!r}: give NAME=VALUE")
        if name in found:
            raise UserError(f"--set: {name!r} is given twice")
        found[name] = _value(value)
    return found
