"""What the memory record says of a claim: bytes and operations, counted, so that nothing is left to chance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.analysis.probe_data import depth_probe
from bench.analysis.statistics import growth, significant
from bench.claims.claim import Part, counted
from bench.claims.evidence import MEMORY_SOURCE, Evidence, runs
from bench.memory import cost, paper, scaling

Judge = Callable[[Evidence], Sequence[Part]]
_FLAT = ("constant", "bounded")
_LITERAL = ("model", "model, clusters", "core")


def _part(about: str, value: str, asked: str, met: bool, note: str = "") -> Part:
    return counted(about, value, asked, met, MEMORY_SOURCE, note)


def _laws(evidence: Evidence) -> dict[str, Mapping[str, Any]]:
    return {row["label"]: row for row in evidence.memory["laws"] if row["axis"] == "depth"} if evidence.memory else {}


def saved_is_constant(evidence: Evidence) -> list[Part]:
    """What autograd saves, by depth or solver steps, as probed in the runs of suite smoke and of the user's own."""
    parts = []
    for suite, group, row in evidence.deqs("smoke"):
        for method, points in depth_probe(row)[0].items():
            known = [(point.depth, point.saved_bytes) for point in points if point.saved_bytes is not None]
            if len(known) < 3:
                continue
            depths, sizes = zip(*known, strict=True)
            law = growth(depths, sizes)
            about = f"{group.name}: {row.label}, {method}, {depths[0]} to {depths[-1]} steps"
            value = f"{law.verdict}, {significant(law.slope, 3)} B a step"
            parts.append(counted(about, value, "constant or bounded", law.verdict in _FLAT, runs(suite, row)))
    return parts


def peak_is_constant(evidence: Evidence) -> list[Part]:
    """All live bytes of a step, solver's history counted, by solver steps."""
    parts = []
    for label, row in _laws(evidence).items():
        if not label.startswith("DEQ") or label == "DEQ, unrolled":  # that one is an explicit network
            continue
        depths = [point["depth"] for point in row["points"]]
        law = growth(depths, [point["bytes"] for point in row["points"]])
        note = "the history of its steps, which its authors' code keeps too" if law.verdict not in _FLAT else ""
        value = f"{law.verdict}, {significant(law.slope / 1024, 3)} KiB a step"
        about = f"{label}, {depths[0]} to {depths[-1]} steps"
        parts.append(_part(about, value, "constant or bounded", law.verdict in _FLAT, note))
    return parts


def reduction(words: str) -> Judge:
    """A reduction that the paper claims in words: by its own tables, and by what its models take here as its caption says."""
    (claim,) = (claim for claim in paper.CLAIMS if claim.words == words)

    def judge(evidence: Evidence) -> list[Part]:
        if evidence.memory is None:
            return []
        rows = evidence.memory["rows"]
        pairs = [pair for pair in paper.PAIRS if pair[2] in claim.kinds]
        readings: dict[str, list[float]] = {"the paper's own tables": [paper.printed_reduction(rows, pair) for pair in pairs]}
        for name in _LITERAL:
            found = [share for pair in pairs if (share := paper.reduction(rows, pair, name)) is not None]
            readings |= {f"reading `{name}`": found} if found else {}
        asked = f"{'the largest at least' if claim.up_to else 'each above'} {100 * claim.share:.0f} %"
        return [
            _part(about, _shares(shares), asked, paper.holds(claim, shares), f"{len(shares)} pairs" if len(shares) > 1 else "")
            for about, shares in readings.items()
        ]

    return judge


def _shares(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{low:.0f} % less" if round(low) == round(high) else f"{low:.0f} to {high:.0f} % less"


def checkpointing_is_a_root(evidence: Evidence) -> list[Part]:
    """Checkpointing by segments of sqrt(L): the exponent of its memory in depth."""
    parts = []
    for label, row in _laws(evidence).items():
        if row["root"]:
            points = row["points"]
            exponent = scaling.power([point["depth"] for point in points], [point["bytes"] for point in points])
            about = f"{label}, {points[-2]['depth']} to {points[-1]['depth']} layers"
            parts.append(_part(about, f"exponent {exponent:.2f}", "0.5, within 0.1", scaling.judged(row) == "pass"))
    return parts


def similar_computation(evidence: Evidence) -> list[Part]:
    """Arithmetic of a step at the released caps over the explicit network's, for the pairs of table 4."""
    parts = []
    for row in evidence.memory["cost"] if evidence.memory else ():
        forward, backward = row["caps"]
        ratio = cost.spent(row, "flops", forward, backward) / row["cost"]["flops"]
        about = f"{row['deq']} over {row['explicit']}, {'training' if row['training'] else 'inference'}"
        parts.append(
            _part(about, f"{ratio:.2f} times the FLOPs at {forward} and {backward} steps", "from 1/2 to 2", 0.5 <= ratio <= 2)
        )
    return parts
