"""The memory record as tables."""

from typing import Any

from bench.analysis.grid import Cell, Table, line
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


def _gb(size: float | None) -> Cell:
    return Cell("—" if size is None else significant(size / paper.GB, 3), value=size, unit="B")


def _percent(share: float | None) -> Cell:
    return Cell("—" if share is None else f"{100 * share:.1f}", value=share, unit="1")


_GROUP = ("paper", "memory")
_SHORT = ("model", "model, clusters", "core", "core, U and V")


def verdicts(rows: list[dict[str, Any]], whole: bool) -> Table:
    """Every printed figure beside each reading (or the three that matter most), and what that says."""
    readings = [reading for reading in paper.READINGS if whole or reading.name in _SHORT]
    lines = []
    for row in rows:
        verdict, best = paper.verdict(row)
        near = "—" if best is None or (off := paper.off(row, best)) is None else f"{best} ({100 * off:+.0f} %)"
        cells = [_gb(row["readings"].get(reading.name)) for reading in readings]
        printed = row["printed_gb"]
        first = Cell("—" if printed is None else f"{printed:g}", value=printed, unit="GB")
        lines.append(line(row["label"], first, *cells, "—" if printed is None else verdict, near))
    means = tuple(f"{reading.name}: {reading.means}." for reading in readings)
    fused = sorted({name for row in rows for step in row["steps"].values() for name in step["fused"]})
    declared = tuple(f"{name}: {paper.FUSED[name]}." for name in fused)
    heads = (
        ("model", ""),
        ("paper", "GB"),
        *((reading.name, "GB") for reading in readings),
        ("verdict", ""),
        ("nearest", ""),
    )
    return Table(
        ending="readings" if whole else "paper",
        title=f"Memory of a training step: the paper's figure and {'every reading' if whole else 'readings'} of its protocol",
        caption=_PROTOCOL,
        rule=_VERDICTS,
        heads=heads,
        rows=tuple(lines),
        group=_GROUP,
        remarks=means + declared,
        words=(0, len(heads) - 2, len(heads) - 1),
    )


def waterfall(rows: list[dict[str, Any]], configuration: str) -> Table:
    """What the bytes are for at the peak of a step, and in which phase that is."""
    lines = []
    for row in rows:
        step = row["steps"].get(configuration)
        if step is not None:
            sizes = [step["peak"][kind] for kind in KINDS]
            lines.append(line(row["label"], *(_gb(size) for size in sizes), _gb(sum(sizes)), step["phase"]))
    what = {"model": "the whole model", "core": "the core alone, embedding and softmax left out"}[configuration]
    heads = (("model", ""), *((kind, "GB") for kind in KINDS), ("peak", "GB"), ("in phase", ""))
    return Table(
        ending=f"waterfall-{configuration}",
        title=f"Where the bytes are at the peak of a training step: {what}",
        caption=_PROTOCOL,
        rule="Temporaries are all the rest, with the iterates of a solve, what a checkpoint recomputes, and the parts of a tied "
        "table's gradient until they are summed.",
        heads=heads,
        rows=tuple(lines),
        group=_GROUP,
        words=(0, len(heads) - 1),
    )


def phases(rows: list[dict[str, Any]]) -> Table:
    """The largest moment of every phase of a DEQ's step."""
    lines = []
    for row in rows:
        step = row["steps"].get("core")
        if step is None or "backward solve" not in step["phases"]:
            continue
        for phase, kinds in step["phases"].items():
            cells = (_gb(kinds[kind]) for kind in KINDS[1:])
            lines.append(line(row["label"], phase, *cells, _gb(sum(kinds.values())), method=phase))
    return Table(
        ending="phases",
        title="A DEQ's training step, phase by phase: the core alone",
        caption=_PROTOCOL,
        rule="Each line is the moment of that phase at which most bytes are alive.",
        heads=(("model", ""), ("phase", ""), *((kind, "GB") for kind in KINDS[1:]), ("all", "GB")),
        rows=tuple(lines),
        group=_GROUP,
        words=(0, 1),
        keys=2,
    )


def reductions(rows: list[dict[str, Any]]) -> Table:
    """How much less a DEQ takes than its explicit network: in the paper's tables, and by each reading."""
    lines = []
    names = [reading.name for reading in paper.READINGS]
    for pair in paper.PAIRS:
        shares = (paper.printed_reduction(rows, pair), *(paper.reduction(rows, pair, name) for name in names))
        lines.append(line(pair[0], pair[1], *map(_percent, shares), method=pair[1]))
    return Table(
        ending="reductions",
        title="How much less memory a DEQ takes than the explicit network beside it",
        caption=_PROTOCOL,
        rule="What only a DEQ has (history, other caps) is held against the explicit network's `core`.",
        heads=(("DEQ", ""), ("against", ""), ("paper", "%"), *((name, "%") for name in names)),
        rows=tuple(lines),
        group=_GROUP,
        words=(0, 1),
        keys=2,
    )


def claims(rows: list[dict[str, Any]]) -> Table:
    """The reductions claimed in words, against the paper's own tables and against each reading."""
    lines = []
    for claim in paper.CLAIMS:
        pairs = [pair for pair in paper.PAIRS if pair[2] in claim.kinds]
        cells = [_holds(claim, [paper.printed_reduction(rows, pair) for pair in pairs])]
        for reading in paper.READINGS:
            found = [share for pair in pairs if (share := paper.reduction(rows, pair, reading.name)) is not None]
            cells.append(_holds(claim, found) if found else "—")
        lines.append(line(claim.words, *cells))
    heads = (("claim", ""), ("the paper's tables", ""), *((reading.name, "") for reading in paper.READINGS))
    return Table(
        ending="claims",
        title="The memory that the paper claims to save, in words",
        caption="In brackets the reductions of the pairs that the claim is about, in %, smallest and largest.",
        heads=heads,
        rows=tuple(lines),
        group=_GROUP,
        words=tuple(range(len(heads))),
    )


def _holds(claim: paper.Claim, found: list[float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in (min(found), max(found)))
    said = "holds" if paper.holds(claim, found) else "does not hold"
    return f"{said} ({low})" if low == high else f"{said} ({low} to {high})"


def paper_tables(record: dict[str, Any]) -> list[Table]:
    """All tables of a record."""
    rows = record["rows"]
    return [
        verdicts(rows, whole=False),
        verdicts(rows, whole=True),
        reductions(rows),
        claims(rows),
        waterfall(rows, "core"),
        waterfall(rows, "model"),
        phases(rows),
        cost.table(record["cost"]),
        device.table(record),
        device.times(record),
        scaling.depth_table(record["laws"]),
        scaling.shape_table(record["laws"]),
    ]
