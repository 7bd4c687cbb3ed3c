"""`python -m bench claims`: every claim of the paper, and what the records say of it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.records.errors import UserError, unknown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def claims(
    results: Annotated[Path, typer.Option("--results", help="folder of records, tables and figures")] = Path("results"),
    only: Annotated[str | None, typer.Option(metavar="CLAIM", help="one claim, by its id, with its parts")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="a suite of your own in the results folder, to be judged too; may be given again")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="first measure the studies (12 minutes)")] = False,
    data: Annotated[
        list[str] | None, typer.Option(help="with --measure, a corpus: NAME=PATH; tinyshakespeare is asked for")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="with --measure: processes (default: one a core)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for scripts")] = False,
) -> None:
    """Judge the ledger by the records in the results folder, and write CLAIMS.md, its table for LaTeX and all parts as CSV there.

    A claim whose runs are missing says which. `--measure` looks at models that it trains for that: what tolerance, cap, solver,
    batch and adjoint do to them, and maps that have no fixed point. It goes on where it was interrupted."""
    from bench.claims import copying, tables
    from bench.claims.audit import audit_table, audits
    from bench.claims.claim import judge_claims
    from bench.claims.entries import CLAIMS, SUITES
    from bench.claims.evidence import Evidence
    from bench.records.record import write_text
    from bench.records.store import Store
    from bench.report.report import MARK, csv_text, latex, markdown, plain

    if only is not None and only not in {claim.id for claim in CLAIMS}:
        raise unknown("claim", only, [claim.id for claim in CLAIMS])
    if measure:
        _measure(results, data or [], jobs)
    elif data or jobs:
        raise UserError("claims: --data and --jobs are for --measure")
    own = tuple(dict.fromkeys(suite or ()))
    there = [name for name in Store(results).suites() if name not in SUITES]
    for name in own:
        if not there:
            raise UserError(f"claims: no suite of your own in {results / 'runs'}, only the package's: run {name} first")
        if name not in there:
            raise unknown("own suite", name, there)
    evidence = Evidence(results, own)
    found = judge_claims([claim for claim in CLAIMS if only in (None, claim.id)], evidence)
    if as_json:
        print(json.dumps([one.as_data() for one in found], indent=1))
        return
    if only is not None:
        print(plain(tables.parts(found[0])))
        return
    summary, copied = tables.summary(found), copying.table(evidence)
    printed = [summary] if copied is None else [summary, copied]
    audited = list(audits(evidence, (*SUITES, *own)))
    write_text(results / "CLAIMS.md", f"<!-- {MARK} -->\n{tables.page(found, copied, audited)}")
    write_text(results / "claims" / "audit.csv", csv_text(audit_table(audited)))
    for table in printed:
        stem = results / "claims" / table.ending
        write_text(stem.with_suffix(".md"), markdown(table))
        write_text(stem.with_suffix(".tex"), latex(table, f"tab:{table.ending}"))
        write_text(stem.with_suffix(".csv"), csv_text(table))
        print(plain(table))


def _measure(results: Path, data: list[str], jobs: int | None) -> None:
    from bench.cli.data import parse_data
    from bench.instruments.environment import usable_cores
    from bench.studies.store import measure_studies, write_studies

    out = results / "claims"
    record = measure_studies(jobs or usable_cores() or 1, parse_data(data), out, report=lambda text: print(text, file=sys.stderr))
    write_studies(record, out)
