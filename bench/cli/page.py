"""`python -m bench page` writes the results as one HTML page; `python -m bench explain` says where a number comes from."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Results = Annotated[Path, typer.Option("--results", help="folder of records, tables and figures")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]


@app.command()
def page(
    results: Results = Path("results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="the page (default: report.html in the results)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file of all verdicts, tables and figures, in which every number opens its source; runs nothing."""
    from bench.records.record import write_bytes
    from bench.report.html.page import render_page

    file, content = out or results / "report.html", render_page(results).encode()
    write_bytes(file, content)
    size = len(content)
    print(json.dumps({"file": str(file), "bytes": size}) if as_json else f"wrote {file} ({size / 1e6:.1f} MB)")


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="suite/group/row/column, beginnings will do; or a claim's id")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Where a number comes from: its runs, their values, the statistic, method and scope, and the command that reproduces it."""
    from bench.report.html.lookup import find
    from bench.report.html.text import render

    found = find(results, cell)
    print(json.dumps(found.as_data(), indent=1) if as_json else render(found), end="\n" if as_json else "")
