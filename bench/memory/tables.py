"""Tables of the memory record."""

from collections.abc import Sequence
from typing import Any

from bench.analysis.grid import Cell, Line, Table, line
from bench.analysis.statistics import significant
from bench.memory import cost, device, paper, scaling
from bench.memory.storage_tracker import KINDS

_PROTOCOL = (
    f"A whole training step (forward, loss, backward, clipping, AdamW) at length {paper.LENGTH}, batch size {paper.BATCH}, "
    "float32, every live storage followed on fake tensors, nothing allocated; every solve takes its cap. GB are GiB (2^30 bytes)."
)
_VERDICTS = (
    "Consistent: within 20 % as the caption says (`model`; of a TrellisNet with its scripts' clusters), by a published "
    "configuration. Cannot tell: within 20 % in another reading (the nearest is named), or by a configuration that was chosen here "
    "to meet the printed parameters. Not consistent: in none. Where a vocabulary is not split in clusters its whole softmax is "
    "computed: 2.2 GB for each copy of the logits of 267,735 words, and three times where deep supervision asks for it "
    "(TrellisNet-70)."
)
_TEMPORARIES = (
    "Temporaries are all the rest, with the iterates of a solve, what a checkpoint recomputes, and the parts of a tied "
    "table's gradient until they are summed."
)
_SHORT = ("model", "model, clusters", "core", "core, U and V")
_READINGS = tuple(reading.name for reading in paper.READINGS)
_STEPS = {"model": "the whole model", "core": "the core alone, embedding and softmax left out"}


def _gb(size: float | None) -> Cell:
    return Cell("—" if size is None else significant(size / paper.GB, 3), value=size, unit="B")


def _percent(share: float | None) -> Cell:
    return Cell("—" if share is None else f"{100 * share:.1f}", value=share, unit="1")


def _units(names: Sequence[str], unit: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, unit) for name in names)


def _table(ending: str, title: str, rule: str, heads: Sequence[tuple[str, str]], lines: Sequence[Line], **more: Any) -> Table:
    fields = {"caption": _PROTOCOL, "group": ("paper", "memory"), **more}
    return Table(ending=ending, title=title, rule=rule, heads=tuple(heads), rows=tuple(lines), **fields)


def verdicts(rows: list[dict[str, Any]], whole: bool) -> Table:
    """Every printed figure, the readings (all, or those that matter most), and the verdict."""
    readings = [reading for reading in paper.READINGS if whole or reading.name in _SHORT]
    lines = []
    for row in rows:
        verdict, best = paper.verdict(row)
        near = "—" if best is None or (off := paper.off(row, best)) is None else f"{best} ({100 * off:+.0f} %)"
        printed = row["printed_gb"]
        first = Cell("—" if printed is None else f"{printed:g}", value=printed, unit="GB")
        cells = [_gb(row["readings"].get(reading.name)) for reading in readings]
        lines.append(line(row["label"], first, *cells, "—" if printed is None else verdict, near))
    fused = sorted({name for row in rows for step in row["steps"].values() for name in step["fused"]})
    remarks = (*(f"{one.name}: {one.means}." for one in readings), *(f"{name}: {paper.FUSED[name]}." for name in fused))
    title = f"Memory of a training step: the paper's figure and {'every reading' if whole else 'readings'} of its protocol"
    sizes = _units(("paper", *(reading.name for reading in readings)), "GB")
    heads = (("model", ""), *sizes, ("verdict", ""), ("nearest", ""))
    words = (0, len(heads) - 2, len(heads) - 1)
    return _table("readings" if whole else "paper", title, _VERDICTS, heads, lines, remarks=remarks, words=words)


def waterfall(rows: list[dict[str, Any]], configuration: str) -> Table:
    """Bytes by kind at the peak of a step, and the phase of the peak."""
    lines = []
    for row in rows:
        if step := row["steps"].get(configuration):
            sizes = [step["peak"][kind] for kind in KINDS]
            lines.append(line(row["label"], *(_gb(size) for size in (*sizes, sum(sizes))), step["phase"]))
    title = f"Where the bytes are at the peak of a training step: {_STEPS[configuration]}"
    heads = (("model", ""), *_units((*KINDS, "peak"), "GB"), ("in phase", ""))
    return _table(f"waterfall-{configuration}", title, _TEMPORARIES, heads, lines, words=(0, len(heads) - 1))


def phases(rows: list[dict[str, Any]]) -> Table:
    """Bytes by kind at the peak of every phase of a DEQ's step."""
    lines = []
    for row in rows:
        found = row["steps"].get("core", {}).get("phases", {})
        for phase, kinds in found.items() if "backward solve" in found else ():
            sizes = (*(kinds[kind] for kind in KINDS[1:]), sum(kinds.values()))
            lines.append(line(row["label"], phase, *map(_gb, sizes), method=phase))
    title, rule = (
        "A DEQ's training step, phase by phase: the core alone",
        "Each line is the moment of that phase at which most bytes are alive.",
    )
    heads = (("model", ""), ("phase", ""), *_units((*KINDS[1:], "all"), "GB"))
    return _table("phases", title, rule, heads, lines, words=(0, 1), keys=2)


def reductions(rows: list[dict[str, Any]]) -> Table:
    """The share of memory that each DEQ saves: in the paper's tables, and by each reading."""
    lines = []
    for pair in paper.PAIRS:
        shares = (paper.printed_reduction(rows, pair), *(paper.reduction(rows, pair, name) for name in _READINGS))
        lines.append(line(*pair[:2], *map(_percent, shares), method=pair[1]))
    title = "How much less memory a DEQ takes than an explicit network"
    rule = "What only a DEQ has (history, other caps) is compared with the explicit network's `core`."
    heads = (("DEQ", ""), ("against", ""), *_units(("paper", *_READINGS), "%"))
    return _table("reductions", title, rule, heads, lines, words=(0, 1), keys=2)


def claims(rows: list[dict[str, Any]]) -> Table:
    """The reductions claimed in words, against the paper's own tables and each reading."""
    lines = []
    for claim in paper.CLAIMS:
        pairs = [pair for pair in paper.PAIRS if pair[2] in claim.kinds]
        shares = [[paper.printed_reduction(rows, pair) for pair in pairs]]
        for name in _READINGS:
            found = (paper.reduction(rows, pair, name) for pair in pairs)
            shares.append([share for share in found if share is not None])
        lines.append(line(claim.words, *(_holds(claim, found) for found in shares)))
    heads = _units(("claim", "the paper's tables", *_READINGS), "")
    caption = "In brackets the reductions of the pairs that the claim is about, in %, smallest and largest."
    words = tuple(range(len(heads)))
    return _table("claims", "The memory that the paper claims to save, in words", "", heads, lines, caption=caption, words=words)


def _holds(claim: paper.ReductionClaim, found: list[float]) -> str:
    if not found:
        return "—"
    low, high = (f"{100 * share:.0f}" for share in (min(found), max(found)))
    return f"{'holds' if paper.holds(claim, found) else 'does not hold'} ({low if low == high else f'{low} to {high}'})"


def paper_tables(record: dict[str, Any]) -> list[Table]:
    """All tables of a record."""
    rows = record["rows"]
    return [
        *(verdicts(rows, whole=False), verdicts(rows, whole=True), reductions(rows), claims(rows)),
        *(waterfall(rows, "core"), waterfall(rows, "model"), phases(rows)),
        *(cost.table(record["cost"]), device.table(record), device.times(record)),
        *(scaling.depth_table(record["laws"]), scaling.shape_table(record["laws"])),
    ]
