"""The page: one HTML file that asks nothing of any network, the same bytes for the same records.

What records and figures hold is escaped or left out; a policy in the page's head lets the browser run and load only what was
written here, so that a text that slipped through could do nothing.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from bench.claims.claim import Claim, Finding, judged, tally
from bench.claims.evidence import Evidence
from bench.claims.ledger import CLAIMS
from bench.columns import Group, groups, slug, unequal_terms
from bench.escape import visible
from bench.page.drawing import Shapes
from bench.page.evidence import Origin, Sheet
from bench.page.figures import Picture, claims_pictures, group_pictures, memory_pictures, split
from bench.page.peers import peers_sheets
from bench.page.places import failures, places
from bench.page.sheets import group_sheets, memory_sheets
from bench.report import read_suites
from bench.tables import Table

MOST_BYTES = 5_000_000


@dataclass
class Block:
    """The evidence of all cells, by the number that a cell carries; every text once."""

    words: dict[str, int] = field(default_factory=dict)
    cells: list[list[Any]] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def key(self, origin: Origin) -> int:
        """The number of a cell's evidence; cells of one address share it."""
        if origin.address not in self._known:
            self._known[origin.address] = len(self.cells)
            self.cells.append(self._packed(origin))
        return self._known[origin.address]

    def _word(self, text: str) -> int:
        return self.words.setdefault(visible(text), len(self.words))

    def _packed(self, origin: Origin) -> list[Any]:
        """The fields in the order in which page.js reads them."""
        one = origin.estimate
        names = ("suite", "group", "row", "column", "shown", "shown_unit", "unit", "statistic", "command")
        return [
            *(self._word(getattr(origin, name)) for name in names),
            0 if one is None else [one.mean, one.low, one.high, one.n],
            [
                part
                for r in origin.readings
                for part in (
                    self._word(r.about),
                    [self._word(r.value)] if isinstance(r.value, str) else r.value,
                    self._word(r.run),
                    self._word(r.why),
                )
            ],
            [self._word(text) for pair in origin.methods for text in pair],
            [self._word(text) for pair in origin.facts for text in pair],
        ]

    def script(self) -> Markup:
        """The block as JSON in which nothing ends a script element."""
        text = json.dumps(
            {"words": list(self.words), "cells": self.cells}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return Markup(text)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the page shows of a group."""

    group: Group
    anchor: str
    terms: str
    unequal: str
    first: Sheet | None
    more: list[Sheet]
    pictures: list[Picture]
    more_pictures: list[Picture]
    remarks: tuple[str, ...]


def write_page(results: Path, out: Path, claims: Sequence[Claim] | None = None) -> int:
    """Write the page of a results folder; how many bytes it has."""
    from bench.record import write_bytes

    content = page(results, claims).encode()
    write_bytes(out, content)
    return len(content)


def page(results: Path, claims: Sequence[Claim] | None = None) -> str:
    """The page of a results folder, judged by these claims (None: the ledger's); UserError where it holds no records."""
    suites = {suite: groups(suite, records) for suite, records in read_suites(results).items()}
    records = [record for found in suites.values() for group in found for record in group.records]
    shapes, block = Shapes(), Block()
    shown = {suite: [_comparison(results, group, shapes) for group in found] for suite, found in suites.items()}
    memory, peers = memory_sheets(results), peers_sheets(results)
    found = judged(CLAIMS if claims is None else claims, Evidence(results, read=suites))
    memory_drawn, claims_drawn = memory_pictures(results, shapes), claims_pictures(results, shapes)
    style, head, script = _own("page.css") + shapes.sheet(), _own("theme.js"), _own("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"key": block.key, "evidence": block.script, "sorted_by": _sorted_by, "slug": slug}
    environment.globals |= {"rows_of": _rows_of, "methods_of": _methods_of}
    environment.filters["coded"] = _coded
    written = environment.from_string(_own("page.html")).render(
        policy=_policy(style, head, script),
        style=Markup(style),
        head=Markup(head),
        script=Markup(script),
        summary=_summary(suites, found),
        findings=found,
        tally=tally(found),
        suites=shown,
        memory=memory,
        memory_pictures=memory_drawn,
        claims_pictures=claims_drawn,
        peers=peers,
        places=places(records),
        failures=failures(records),
        shared=Markup(shapes.shared()),
    )
    return visible(written)


def _own(name: str) -> str:
    return importlib.resources.files("bench.page").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, *scripts: str) -> str:
    """What the browser may do: these styles and scripts, pictures that are part of the page, nothing else."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(map(digest, scripts))
    return (
        f"default-src 'none'; style-src {digest(style)}; script-src {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _sorted_by(origin: Origin | None) -> str:
    """The number by which a cell is sorted, as JavaScript reads it; empty where there is none."""
    if origin is None or origin.value is None or math.isnan(origin.value):
        return ""
    return "Infinity" if origin.value == math.inf else "-Infinity" if origin.value == -math.inf else f"{origin.value:.10g}"


def _comparison(results: Path, group: Group, shapes: Shapes) -> Comparison:
    sheets = group_sheets(group)
    first = next((sheet for sheet in sheets if not sheet.table.ending), None)
    pictures, more_pictures = split(group_pictures(results, group, shapes), "tradeoff")
    terms, unequal = _terms(group)
    return Comparison(
        group=group,
        anchor=f"{slug(group.suite)}-{group.slug}",
        terms=terms,
        unequal=unequal,
        first=first,
        more=[sheet for sheet in sheets if sheet is not first],
        pictures=pictures,
        more_pictures=more_pictures,
        remarks=_runs(sheet.table for sheet in sheets),
    )


def _coded(text: str) -> Markup:
    """Text with what stands between backticks set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one without its pair
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def _rows_of(sheet: Sheet) -> tuple[list[Any], list[Any]]:
    """The rows of what a guess and the optimum score, which sorting leaves alone, and the others with their origins."""
    fixed = [entries for entries in sheet.table.rows if entries[0].text in ("(chance)", "(optimum)")]
    lines = [pair for pair in zip(sheet.table.rows, sheet.origins, strict=True) if pair[0] not in fixed]
    return fixed, lines


_OF_RUNS = ("Run, ", "Runs, ", "Trials, ")


def _methods_of(table: Table) -> list[str]:
    """What a table says of its methods; its runs are listed once for all tables of a group."""
    return [remark for remark in table.remarks if not remark.startswith(_OF_RUNS)]


def _runs(tables: Iterable[Table]) -> tuple[str, ...]:
    """What all tables of a group say of its runs, once."""
    return tuple(dict.fromkeys(r for table in tables for r in table.remarks if r.startswith(_OF_RUNS)))


def _terms(group: Group) -> tuple[str, str]:
    """What the rows share, and what they do not."""
    if not group.rows:
        return "Trials only: no final run has ended yet.", ""
    shared, unequal = unequal_terms(group)
    task = ", ".join(f"{name[5:].replace('_', ' ')} {value}" for name, value in shared.items() if name.startswith("task."))
    train = [f"{name[6:].replace('_', ' ')} {value}" for name, value in shared.items() if name.startswith("train.")]
    said = f"Task {shared.get('task', 'differs')}{f' ({task})' if task else ''}. Training, equal for all rows: "
    said += f"{', '.join(train)}; {shared.get('device', 'device differs')}, threads {shared.get('threads', 'differ')}."
    return said, ", ".join(unequal)


_VERBS = (
    ("holds", "hold"),
    ("does not hold", "do not hold"),
    ("is inconclusive", "are inconclusive"),
    ("is not tested", "are not tested"),
)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _summary(suites: dict[str, list[Group]], found: Sequence[Finding]) -> list[str]:
    """Three sentences: what was run, what it says of the claims, how to go on."""
    all_groups = [group for members in suites.values() for group in members]
    runs = sum(len(row.finals) for group in all_groups for row in group.rows)
    trials = sum(len(group.trials) for group in all_groups)
    models = len({row.label for group in all_groups for row in group.rows})
    tasks = len({json.dumps(row.finals[0].spec.task.model_dump(), sort_keys=True) for group in all_groups for row in group.rows})
    first = (
        f"Deep equilibrium models beside the explicit networks that they would replace: {runs:,} training runs of {models} models "
        f"on {tasks} tasks, and {trials:,} trials that chose their learning rates."
    )
    second = "No claims are given, so that none is judged here."
    if found:
        said = [f"{count} {one if count == 1 else many}" for (_, count), (one, many) in zip(tally(found), _VERBS, strict=True)]
        said = [words for words in said if not words.startswith("0 ")]
        second = f"Of {len(found)} claims of the paper, as far as these runs can tell, {_listed(said)}."
    return [first, second, "Every number opens the runs, seeds and method that it comes from, and the command that makes it anew."]
