"""The data of the page's parts, as the script reads them: tables with the evidence of each number, figures and runs.

A part is compressed and unpacked when it is opened. Texts that recur stand once, in the part's `words`; others are indices into it.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.aggregate import flat_spec
from bench.analysis.grid import Cell, Sample
from bench.claims.claim import Finding
from bench.records.escape import one_line
from bench.records.record import Record
from bench.report.html.evidence_figures import claim_figure, claim_link
from bench.report.html.figures import number
from bench.report.html.sources import CellSource, SourcedTable
from bench.report.machines import code_revision


def pack(content: Any) -> str:
    """JSON as the page holds it: compressed, in base64, the same bytes for the same content."""
    text = json.dumps(_shown(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _shown(content: Any) -> Any:
    """The content with every text as one visible line."""
    if isinstance(content, str):
        return one_line(content)
    if isinstance(content, dict):
        return {name: _shown(value) for name, value in content.items()}
    return [_shown(value) for value in content] if isinstance(content, list | tuple) else content


class Part:
    """Collects the tables, figures and runs of a part of the page."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def _word(self, text: str) -> int:
        return self._words.setdefault(text, len(self._words))

    def data(
        self,
        tables: Iterable[SourcedTable] = (),
        figures: Sequence[Mapping[str, Any]] = (),
        records: Sequence[Record] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """The part for `pack`."""
        made = {"tables": list(map(self._table, tables)), "figures": figures, "runs": list(map(self._run, records))}
        return {**made, **more, "words": list(self._words)}

    def _table(self, sourced: SourcedTable) -> dict[str, Any]:
        table = sourced.table
        first = next(iter(sourced.all()), None)
        title = table.title.split(": ")[-1]
        return {
            **{"id": table.kind or "scores", "title": title[:1].upper() + title[1:], "caption": table.caption},
            **{
                "legend": table.legend,
                "notes": table.notes,
                "remarks": table.remarks,
                "heads": table.heads,
                "text_columns": table.text_columns,
            },
            "address": [] if first is None else [first.suite, first.group],
            "rows": [
                [line.family, *(self._cell(*pair) for pair in zip(line, sources, strict=True))]
                for line, sources in zip(table.rows, sourced.sources, strict=True)
            ],
        }

    def _cell(self, cell: Cell, source: CellSource | None) -> Any:
        """A text, or [text, bold, notes, value, evidence]; of the evidence an empty end is left out."""
        value = number(cell.value) if isinstance(cell.value, int | float) else cell.value
        if source is None:
            return cell.text
        one = cell.interval
        interval = None if one is None else [number(one.mean), number(one.low), number(one.high), one.n, int(one.scale == "log")]
        methods = [[self._word(text) for text in pair] for pair in cell.methods]
        facts = [[self._word(text) for text in pair] for pair in source.facts]
        about = [self._word(source.row), self._word(source.column), self._word(cell.unit), self._word(source.statistic)]
        evidence = [*about, self._word(source.command), interval, list(map(self._sample, cell.samples)), methods, facts]
        return [cell.text, int(cell.bold), cell.notes, value, evidence]

    def _sample(self, sample: Sample) -> list[Any]:
        value = number(sample.value) if isinstance(sample.value, int | float) else sample.value
        return [self._word(sample.about), value, self._word(sample.run), self._word(sample.reason)]

    def _run(self, record: Record) -> dict[str, Any]:
        """A run's settings and measures, for its own page and for a comparison of two."""
        spec = record.spec
        about = {"label": spec.label, "role": spec.role, "seed": spec.seed, "status": record.status, "reason": record.reason}
        machine = {"code": code_revision(record.environment, 12), "processor": record.environment.get("cpu")}
        settings = {**about, **flat_spec(spec), **machine, "elapsed_s": number(record.elapsed_s, 4)}
        measures = [[self._word(name), number(one.value, 5), self._word(one.unit)] for name, one in record.measures.items()]
        return {
            "id": record.run_id,
            "settings": [[self._word(name), self._word(str(value))] for name, value in settings.items() if value is not None],
            "measures": [one for one in measures if one[1] is not None] if spec.role == "final" else measures[:0],
        }


def claim_data(finding: Finding) -> dict[str, Any]:
    """What the fold of a claim shows."""
    claim = finding.claim
    sources = list(dict.fromkeys(source for part in finding.parts for source in part.sources))
    figure = claim_figure(finding)
    facts = [
        *(("Measured", claim.measured), ("Statistic", claim.statistic)),
        *(("Threshold", f"{claim.threshold} (fixed {claim.fixed})"), ("Needs", claim.needs), ("Result", finding.reason)),
    ]
    return {
        "facts": facts,
        "parts": [
            {
                **{
                    "cells": (part.about, part.value, part.asked),
                    "verdict": part.verdict or "not tested",
                },
                **{"p": part.decided_by, "note": part.note, "samples": list(map(number, part.samples))},
            }
            for part in finding.parts
        ],
        "commands": list(dict.fromkeys(source.command for source in sources)),
        "records": [[source.path, list(source.runs)] for source in sources],
        "figures": [figure] if figure else [],
        "shows": claim_link(finding),
    }
