"""The page: one HTML file that loads nothing from a network, the same bytes for the same records.

The template escapes every text of a record, and a content security policy lets the browser run and show only what is in the file.
What is behind a fold is data until the fold opens (data.py); Vega-Lite's runtime is unpacked when the first figure is drawn.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import vl_convert
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bench.analysis.aggregate import Group, groups, slug
from bench.analysis.grid import Table, gathered, line
from bench.claims.claim import Claim, Finding, Fixed, Ledger, deciding, judge_claims, tally
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.claims.guide import guide
from bench.claims.tables import counted
from bench.records.escape import visible
from bench.records.record import Record
from bench.report.html.answer import answer, as_json
from bench.report.html.charts import templates
from bench.report.html.data import Part, claim_data, pack
from bench.report.html.evidence_figures import memory_figures, study_figures
from bench.report.html.figures import comparison_figures
from bench.report.html.sources import SourcedTable, memory_tables, peer_tables, sourced_group_tables, study_tables
from bench.report.machines import environments
from bench.report.report import read_suites, terms
from bench.report.style import assign_styles

_SCRIPTS = ("core.js", "tables.js", "plots.js", "page.js")
# Patterns of claims' ids by theme, the first that fits; a claim that none fits is shown last.
THEMES = {
    "Time": ("*-time", "checkpointing-cost", "computation", "steps-grow", "backward-shorter", "warm-start"),
    "Memory": ("memory*", "checkpointing*"),
    "Quality": ("perplexity", "copy*", "cell", "stacking", "one-step", "few-steps", "shared-inverse", "reversible", "jacobian"),
    "Solver": ("converges", "solver", "tolerance", "cap", "tied-rest", "root", "same-state", "more-steps"),
    "Generalisation": ("tracks-state", "solver-and-length", "fixed-depth", "negative-decay", "steps-and-length"),
}
_ORDER = ("Memory", "Time", "Quality", "Solver", "Generalisation")


@cache
def _runtime() -> str:
    """Vega-Lite's scripts, the same for every page; two seconds to bundle."""
    return "(() => {" + vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") + "})();"


def render_page(results: Path, claims: Sequence[Claim] | None = None) -> str:
    """The page of a results folder, judged by these claims (None: all of the package); UserError where there are no records."""
    suites = {suite: groups(suite, records) for suite, records in read_suites(results).items()}
    records = [record for found in suites.values() for group in found for record in group.records]
    evidence = Evidence(results, read=suites)
    findings = judge_claims(CLAIMS if claims is None else claims, evidence)
    first = answer(evidence, findings)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"slug": slug, "deciding": deciding}
    style, script = _file("page.css"), _script()
    runtime = _runtime()
    parts = dict(_parts(suites, findings, evidence, records)) | {
        "index": {"templates": templates(), "cards": as_json(first)},
        "claims": {finding.claim.id: claim_data(finding) for finding in findings},
    }
    page = environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)} {_digest(runtime)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        answer=first,
        guide=guide(evidence, findings),
        summary=_summary(list(suites.values()), findings),
        themes=by_theme(findings),
        tally=tally(findings),
        fixed=get_args(Fixed),
        suites=suites,
        largest=max((one for found in suites.values() for one in found), key=lambda one: (len(one.rows), one.name)),
        parts={name: pack(content) for name, content in parts.items()},
        runtime=base64.b64encode(gzip.compress(runtime.encode(), 9, mtime=0)).decode(),
    )
    return visible(page)


def _file(name: str) -> str:
    return files("bench.report.html").joinpath(name).read_text(encoding="utf-8")


def _script() -> str:
    """The script's files in one scope."""
    return "\n".join(["(() => {", '"use strict";', *map(_file, _SCRIPTS), "})();"])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def by_theme(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """The findings by theme, in the page's order."""
    found = gathered((theme(one.claim.id) if one.claim.ledger != "identities" else "Identities", one) for one in findings)
    return {name: found[name] for name in (*_ORDER, "Other", "Identities") if name in found}


def theme(claim: str) -> str:
    """The theme of a claim by its id; Other where no pattern fits."""
    return next((name for name, ids in THEMES.items() if any(fnmatchcase(claim, one) for one in ids)), "Other")


def _parts(
    suites: Mapping[str, Sequence[Group]], findings: Sequence[Finding], evidence: Evidence, records: Sequence[Record]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts by name: a comparison is suite/name."""
    for suite, found in suites.items():
        styles = assign_styles(found)
        for group in found:
            text, unequal = terms(group)
            text += f" Not on equal terms: the rows differ in {unequal}." if unequal else ""
            tables, figures = sourced_group_tables(group), comparison_figures(group, styles)
            yield f"{suite}/{group.name}", Part().data(tables, figures, group.records, terms=text)
    memory = evidence.memory
    yield "memory", Part().data(memory_tables(evidence.results), memory_figures(memory) if memory else [])
    yield "solver", Part().data(study_tables(evidence.results), study_figures(evidence.studies))
    yield "peers", Part().data(peer_tables(evidence.results))
    yield "runs", Part().data(_provenance(records))


def _provenance(records: Sequence[Record]) -> Iterator[SourcedTable]:
    """The environments of the runs, and those that failed, as tables without evidence."""
    machines = environments(records)
    lost = [(one.run_id, one.suite, one.spec.role, one.status, one.reason or "") for one in records if one.status != "ok"]
    for title, heads, rows in (
        ("Environments of the runs", tuple(machines[0]), [tuple(one.values()) for one in machines]),
        ("Runs that did not end ok", ("run", "suite", "role", "status", "reason"), lost),
    ):
        lines = tuple(line(*row) for row in rows)
        caption = "Times from different environments do not compare." if rows is not lost else f"{len(lost)} runs."
        words = tuple(range(len(heads)))
        table = Table(
            kind=slug(title), title=title, caption=caption, heads=tuple((h, "") for h in heads), rows=lines, text_columns=words
        )
        yield SourcedTable(table=table, sources=tuple((None,) * len(row) for row in lines))


def _summary(suites: Sequence[Sequence[Group]], findings: Sequence[Finding]) -> str:
    """What was run, and what it says of the claims."""
    found = [group for members in suites for group in members]
    rows = [row for group in found for row in group.rows]
    tasks = {json.dumps(row.finals[0].spec.task.model_dump(), sort_keys=True) for row in rows}
    runs, models = sum(len(row.finals) for row in rows), len({row.label for row in rows})
    text = f"{runs:,} training runs of {models} models on {len(tasks)} tasks, "
    text += f"and {sum(len(g.trials) for g in found):,} trials of learning rates. "
    claims, since, questions, identities = ([one for one in findings if one.claim.ledger == ledger] for ledger in get_args(Ledger))
    if not claims:
        return text + "No claims are judged here."
    met = sum(one.verdict == "holds" for one in identities)
    more = f" Of {len(identities)} identities, which mathematics or a count decides, {met} hold." if identities else ""
    later = f" Of {len(since)} claims made since, {counted(since)}." if since else ""
    asked = f" Of {len(questions)} question{'s' * (len(questions) != 1)} besides, {counted(questions)}." if questions else ""
    return f"{text}Of {len(claims)} claims of the paper, {counted(claims)}.{later}{asked}{more}"
