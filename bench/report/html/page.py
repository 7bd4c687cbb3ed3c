"""The page: one HTML file that loads nothing from a network, the same bytes for the same records.

The template escapes every text of a record, and a content security policy lets the browser run and show only what is in the file.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bench.analysis.aggregate import Group, groups, slug
from bench.claims.claim import Claim, Finding, judge_claims, tally
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.records.escape import visible
from bench.report.html.figures import embedded_figures
from bench.report.html.sources import CellSource, memory_tables, peer_tables, sourced_group_tables
from bench.report.html.text import render
from bench.report.report import environments, read_suites, terms

_VERDICTS = (
    ("holds", "hold"),
    ("does not hold", "do not hold"),
    ("is inconclusive", "are inconclusive"),
    ("is not tested", "are not tested"),
)


def render_page(results: Path, claims: Sequence[Claim] | None = None) -> str:
    """The page of a results folder, judged by these claims (None: all of the package); UserError where there are no records."""
    suites = {suite: groups(suite, records) for suite, records in read_suites(results).items()}
    records = [record for found in suites.values() for group in found for record in group.records]
    findings = judge_claims(CLAIMS if claims is None else claims, Evidence(results, read=suites))
    keys: dict[str, int] = {}  # by the text of a source: its number on the page

    def key(source: CellSource) -> int:
        return keys.setdefault(visible(render(source)), len(keys))

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"key": key, "sort_value": _sort_value, "slug": slug, "zip": zip}
    style, script = _file("page.css"), _file("page.js")
    page = environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        summary=_summary(list(suites.values()), findings),
        findings=findings,
        tally=tally(findings),
        claim_figures=embedded_figures(results / "claims", "experiments", "python -m bench claims --measure"),
        suites={suite: [_comparison(results, group) for group in found] for suite, found in suites.items()},
        memory={
            "tables": memory_tables(results),
            "figures": embedded_figures(results / "memory", "memory", "python -m bench memory"),
        },
        peers={"tables": peer_tables(results), "figures": []},
        environments=environments(records),
        failures=[record for record in records if record.status != "ok"],
        packed_sources=lambda: _pack(list(keys)),  # called at the end, when all keys are known
    )
    return visible(page)


def _file(name: str) -> str:
    return files("bench.report.html").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _pack(texts: Sequence[str]) -> str:
    return base64.b64encode(gzip.compress(json.dumps(texts).encode(), mtime=0)).decode()


def _sort_value(source: CellSource | None) -> str:
    """The number that a cell is sorted by, as JavaScript reads it; empty where there is none."""
    value = source.cell.value if source else None
    if not isinstance(value, int | float) or math.isnan(value):
        return ""
    return f"{value:.10g}" if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _comparison(results: Path, group: Group) -> dict[str, Any]:
    """What the page shows of a group."""
    text, unequal = terms(group)
    labels = ", ".join(row.label for row in group.rows)
    return {
        "name": group.name,
        "anchor": f"{slug(group.suite)}-{group.slug}",
        "terms": text,
        "unequal": unequal,
        "tables": sourced_group_tables(group),
        "figures": embedded_figures(
            results / "figures" / group.suite, "comparison", "python -m bench report", f"{group.slug}-", f"{group.name}: {labels}"
        ),
    }


def _summary(suites: Sequence[Sequence[Group]], findings: Sequence[Finding]) -> str:
    """What was run, and what it says of the claims."""
    found = [group for members in suites for group in members]
    rows = [row for group in found for row in group.rows]
    tasks = {json.dumps(row.finals[0].spec.task.model_dump(), sort_keys=True) for row in rows}
    text = f"Deep equilibrium models and explicit networks: {sum(len(row.finals) for row in rows):,} training runs of "
    text += f"{len({row.label for row in rows})} models on {len(tasks)} tasks, and {sum(len(g.trials) for g in found):,} trials of "
    text += "learning rates. "
    counts = [f"{n} {one if n == 1 else many}" for (_, n), (one, many) in zip(tally(findings), _VERDICTS, strict=True) if n]
    return text + (f"Of {len(findings)} claims of the paper, {', '.join(counts)}." if findings else "No claims are judged here.")
