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

from bench.analysis.aggregate import Group, groups, slug, unequal_terms
from bench.claims.claim import Claim, Finding, judge_claims, tally
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.records.escape import visible
from bench.records.record import Record
from bench.report.html.figures import claim_figures, group_figures, memory_figures
from bench.report.html.peer_sources import peer_tables
from bench.report.html.sources import CellSource
from bench.report.html.table_sources import memory_tables, sourced_group_tables
from bench.report.html.text import render
from bench.report.report import read_suites, revision_told

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
    environment.globals |= {"key": key, "sort_value": _sort_value, "slug": slug}
    style, script = _file("page.css"), _file("page.js")
    page = environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        summary=_summary(list(suites.values()), findings),
        findings=findings,
        tally=tally(findings),
        claim_figures=claim_figures(results),
        suites={suite: [_comparison(results, group) for group in found] for suite, found in suites.items()},
        memory={"tables": memory_tables(results), "figures": memory_figures(results)},
        peers={"tables": peer_tables(results), "figures": []},
        environments=_environments(records),
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
    if source is None or source.value is None or math.isnan(source.value):
        return ""
    return f"{source.value:.10g}" if math.isfinite(source.value) else "Infinity" if source.value > 0 else "-Infinity"


def _comparison(results: Path, group: Group) -> dict[str, Any]:
    """What the page shows of a group."""
    terms = "Trials only: no final run has ended yet."
    unequal: list[str] = []
    if group.rows:
        shared, unequal = unequal_terms(group)
        task = ", ".join(f"{name[5:].replace('_', ' ')} {value}" for name, value in shared.items() if name.startswith("task."))
        train = [f"{name[6:].replace('_', ' ')} {value}" for name, value in shared.items() if name.startswith("train.")]
        terms = f"Task {shared.get('task', 'differs')}{f' ({task})' if task else ''}. Training, equal for all rows: "
        terms += f"{', '.join(train)}; {shared.get('device', 'device differs')}, threads {shared.get('threads', 'differ')}."
    return {
        "name": group.name,
        "anchor": f"{slug(group.suite)}-{group.slug}",
        "terms": terms,
        "unequal": ", ".join(unequal),
        "tables": sourced_group_tables(group),
        "figures": group_figures(results, group),
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


def _environments(records: Sequence[Record]) -> list[dict[str, str]]:
    """The machines and versions, with the runs that were made there, their revisions and the hashes of their data."""
    members: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        members.setdefault(tuple(_environment(record.environment).items()), []).append(record)
    found = []
    for environment, mine in sorted(members.items()):
        suites = [record.suite for record in mine]
        data = {f"{record.spec.task.name} {str(record.identity.data)[:8]}" for record in mine}
        revisions = {revision_told(record.environment, 12) or "unknown" for record in mine}
        runs = {"runs": ", ".join(f"{suite} {suites.count(suite)}" for suite in sorted(set(suites)))}
        found.append({**runs, **dict(environment), "code at": ", ".join(sorted(revisions)), "data": ", ".join(sorted(data))})
    return found


def _environment(recorded: dict[str, Any]) -> dict[str, str]:
    names = {"cpu": "processor", "cpu_capability": "kernels", "usable_cores": "usable cores", "threads": "threads a run"}
    names |= {"torch": "torch", "python": "Python", "system": "system"}
    memory, gpu = recorded.get("memory_bytes"), recorded.get("gpu")
    return {
        **{head: str(recorded.get(name) or "unknown") for name, head in names.items()},
        "memory": f"{memory / 2**30:.0f} GiB" if isinstance(memory, int | float) else "unknown",
        "GPU": f"{gpu.get('name', 'unknown')}, driver {gpu.get('driver', 'unknown')}" if isinstance(gpu, dict) else "none used",
    }
