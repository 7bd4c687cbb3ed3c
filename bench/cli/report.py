"""Commands that write results: report, page, claims."""

import json
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import RESULTS, Json, Results, parse_data
from bench.records.errors import UserError, unknown
from bench.report.console import say

# Columns of these tables for a terminal, those that count first: a narrow one has no room for the last.
_SHOWN = {**dict.fromkeys(("claims", "since", "questions", "identities"), (0, 3, 5, 1)), "table-1": (0, 1, 4, 5, 6, 2, 3)}


def report(results: Results = RESULTS, as_json: Json = False) -> None:
    """Write tables and figures from the records; runs nothing."""
    from bench.report.report import write_report

    files = write_report(results, processes=os.cpu_count() or 1)
    if as_json:
        print(json.dumps([str(file) for file in files], indent=1))
    else:
        say(f"wrote {len(files)} files below {results}")


def page(
    results: Results = RESULTS,
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
    if as_json:
        print(json.dumps({"file": str(file), "bytes": len(content)}))
    else:
        say(f"wrote {file} ({len(content) / 1e6:.1f} MB)")


def claims(
    results: Results = RESULTS,
    only: Annotated[str | None, typer.Option(metavar="CLAIM", help="one claim, by its id, with its parts")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="a suite of your own in the results folder, judged too; may be repeated")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="first run the studies that some claims need (20 minutes)")] = False,
    study: Annotated[
        list[str] | None, typer.Option(help="with --measure, only this study; the others stay as recorded; may be repeated")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="with --measure, a corpus: NAME=PATH; tinyshakespeare is needed")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="with --measure: processes (default: one a core)")] = None,
    as_json: Json = False,
) -> None:
    """Judge the paper's claims by the records; write CLAIMS.md, its tables for LaTeX, and all parts as CSV to the results folder.

    A claim whose runs are missing names them. `--measure` trains small models and measures how tolerance, cap, solver, batch and
    adjoint change them, and solves maps without a fixed point. An interrupted measurement resumes."""
    from bench.claims import copying, gradients, tables
    from bench.claims.audit import audit_table
    from bench.claims.claim import judge_claims
    from bench.claims.entries import CLAIMS, SUITES
    from bench.claims.evidence import Evidence
    from bench.claims.guide import guide
    from bench.claims.quotes import quoted_sentences, quotes
    from bench.records.record import write_text
    from bench.records.store import Store
    from bench.report.report import MARK, csv_text, markdown, plain, write_table

    if only is not None and only not in {claim.id for claim in CLAIMS}:
        raise unknown("claim", only, [claim.id for claim in CLAIMS])
    if measure:
        _measure(results, data, jobs, study or ())
    elif data or jobs or study:
        raise UserError("claims: --data, --jobs and --study are for --measure")
    if not any((results / folder).is_dir() for folder in ("runs", "claims", "memory")):
        raise UserError(f"no records in {results}: run a suite first")
    own = tuple(dict.fromkeys(suite or ()))
    recorded = [name for name in Store(results).suites() if name not in SUITES]
    for name in own:
        if not recorded:
            raise UserError(f"claims: no suite of your own in {results / 'runs'}, only the package's: run {name} first")
        if name not in recorded:
            raise unknown("own suite", name, recorded)
    evidence = Evidence(results, own)
    found = judge_claims([claim for claim in CLAIMS if only in (None, claim.id)], evidence)
    if as_json:
        print(json.dumps([one.as_data() for one in found], indent=1))
        return
    if only is not None:
        print(plain(tables.parts(found[0]), "--json"))
        return
    copied = copying.table(evidence)
    audited = audit_table(evidence, (*SUITES, *own))
    write_text(results / "CLAIMS.md", f"<!-- {MARK} -->\n{tables.page(found, copied, audited)}")
    write_text(results / "claims" / "audit.csv", csv_text(audited))
    guided = tables.advice(guide(evidence, found))
    for table in filter(None, [*tables.summaries(found), copied, gradients.table(evidence), guided]):
        stem = results / "claims" / table.kind
        write_table(stem, table, f"tab:{table.kind}")
        shown = replace(table, rows=tuple(row for row in table.rows if all(cell.text != "not tested" for cell in row)))
        if shown.rows:
            print(plain(shown, f"{stem}.md", _SHOWN.get(table.kind)))
    quoted = quoted_sentences(quotes(evidence, found))
    write_text(results / "claims" / "quotes.md", f"<!-- {MARK} -->\n{quoted}")
    _refresh(results / "README.md", "quotes", quoted)
    if guided is not None:
        _refresh(results / "README.md", "guide", markdown(guided, whole=False).partition("\n\n")[2])
    if untested := sum(one.verdict == "not tested" for one in found):
        say(f"{untested} of {len(found)} claims are not tested: CLAIMS.md says what to run")
    say(f"wrote {results / 'CLAIMS.md'}, and its tables to {results / 'claims'}")


def _refresh(path: Path, name: str, text: str) -> None:
    """Replace the block below a mark, where the folder's own page has one: no number there is copied by hand."""
    from bench.records.record import write_text

    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, mark, after = page.partition(f"<!-- claims/{name}.md -->\n\n")
    if mark:
        block, rest = text.partition("\n\n")[0].rstrip(), after.partition("\n\n")[2]
        write_text(path, f"{before}{mark}{block}\n\n{rest}")


def _measure(results: Path, data: list[str] | None, jobs: int | None, only: Collection[str]) -> None:
    from bench.instruments.environment import usable_cores
    from bench.studies.store import measure_studies, write_studies

    out = results / "claims"
    jobs = jobs or usable_cores() or 1
    record = measure_studies(jobs, parse_data(data), out, report=lambda text: print(text, file=sys.stderr), only=only)
    write_studies(record, out)
