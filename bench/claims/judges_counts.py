"""Judges of the memory record: bytes, which are counts without chance."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.analysis.probe_data import depth_probe
from bench.analysis.statistics import growth, significant
from bench.claims.claim import Part
from bench.claims.evidence import MEMORY_SOURCE, Evidence, runs
from bench.claims.parts import cannot_tell, fact
from bench.memory import paper, scaling

_ASKED = "constant or bounded"


def _laws(evidence: Evidence) -> dict[str, Mapping[str, Any]]:
    """Growth of memory with depth, by the label of its row."""
    return {row["label"]: row for row in evidence.memory["laws"] if row["axis"] == "depth"} if evidence.memory else {}


def saved_is_constant(evidence: Evidence) -> Iterator[Part]:
    """Bytes that autograd saves, by solver steps, in suite smoke and the user's own."""
    for suite, group, row in evidence.deqs("smoke"):
        for method, points in depth_probe(row)[0].items():
            if len(points) < 3:
                continue
            depths = [point.depth for point in points]
            law = growth(depths, [point.saved_bytes for point in points])
            about = f"{group.name}: {row.label}, {method}, {depths[0]} to {depths[-1]} steps"
            value = f"{law.verdict}, {significant(law.slope, 3)} B a step"
            yield fact(about, value, _ASKED, law.verdict in scaling.FLAT, runs(suite, row))


def peak_is_constant(evidence: Evidence) -> Iterator[Part]:
    """All live bytes of a step, by solver steps."""
    for label, row in _laws(evidence).items():
        if not label.startswith("DEQ") or label == "DEQ, unrolled":  # an unrolled DEQ is an explicit network
            continue
        depths = [point["depth"] for point in row["points"]]
        law = growth(depths, [point["bytes"] for point in row["points"]])
        met = law.verdict in scaling.FLAT
        note = "" if met else "the history of its steps, which its authors' code keeps too"
        value = f"{law.verdict}, {significant(law.slope / 1024, 3)} KiB a step"
        yield fact(f"{label}, {depths[0]} to {depths[-1]} steps", value, _ASKED, met, MEMORY_SOURCE, note)


def reduction(evidence: Evidence, words: str) -> Iterator[Part]:
    """A reduction by the paper's own tables; a reading of their caption decides only where it meets the printed figures."""
    (claim,) = (claim for claim in paper.CLAIMS if claim.words == words)
    asked = f"{'the largest at least' if claim.up_to else 'each above'} {100 * claim.share:.0f} %"
    abouts = {"paper": "the paper's own tables", **{one.name: f"reading `{one.name}`" for one in paper.READINGS}}
    found = evidence.memory["rows"] if evidence.memory else []
    for reading, about in abouts.items():
        shares = paper.shares(found, claim, reading)
        if not shares:
            continue
        value, pairs = f"{paper.span(shares)} % less", f"{len(shares)} pair{'s' if len(shares) > 1 else ''}"
        if missed := paper.missed(found, claim, reading):
            note = f"{pairs}; more than {100 * paper.WITHIN:.0f} % from what is printed: {', '.join(missed)}"
            yield cannot_tell(about, value, asked, MEMORY_SOURCE, note)
        else:
            yield fact(about, value, asked, paper.holds(claim, shares), MEMORY_SOURCE, pairs)


def checkpointing_is_a_root(evidence: Evidence) -> Iterator[Part]:
    """Exponent in depth of the memory with segments of sqrt(L) layers."""
    for label, row in _laws(evidence).items():
        if row["root"]:
            points = row["points"]
            exponent = scaling.power([point["depth"] for point in points], [point["bytes"] for point in points])
            about, met = f"{label}, {points[-2]['depth']} to {points[-1]['depth']} layers", scaling.judged(row) == "pass"
            yield fact(about, f"exponent {exponent:.2f}", "0.5, within 0.1", met, MEMORY_SOURCE)
