"""`python -m bench page` and `python -m bench explain`: what was measured as one page, and what one number comes from."""

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
    """Write one HTML file of all verdicts, tables and figures, in which every number opens its evidence; runs nothing."""
    from bench.page.page import write_page

    file = out or results / "report.html"
    size = write_page(results, file)
    print(json.dumps({"file": str(file), "bytes": size}) if as_json else f"wrote {file} ({size / 1e6:.1f} MB)")


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="suite/group/row/column, beginnings will do; or a claim's id")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """What a number comes from: its runs, their values, the statistic, method and scope, and the command that makes it anew."""
    from bench.claims.claim import Finding
    from bench.page import evidence
    from bench.page.find import find
    from bench.page.told import told

    found = find(results, cell)
    if as_json:
        data = found.as_data() if isinstance(found, Finding) else evidence.as_data(found)
        print(json.dumps(data, indent=1))  # ASCII: JSON in any encoding
    else:
        print(told(found), end="")
