"""The memory record as tables."""

from typing import Any

from bench.memory import cost, device, laws, paper
from bench.memory.ledger import KINDS
from bench.statistics import significant
from bench.tables import Entry, Table

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


def _gb(size: float | None) -> str:
    return "—" if size is None else significant(size / paper.GB, 3)


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f}"


def _signed(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:+.0f} %"


def _data(label: str, column: str, value: object, unit: str) -> dict[str, object]:
    return {"suite": "paper", "group": "memory", "label": label, "column": column, "value": value, "unit": unit}


_SHORT = ("model", "model, clusters", "core", "core, U and V")


def verdicts(rows: list[dict[str, Any]], whole: bool) -> Table:
    """Every printed figure beside each reading (or the three that matter most), and what that says."""
    readings = [reading for reading in paper.READINGS if whole or reading.name in _SHORT]
    lines, data = [], []
    for row in rows:
        said, best = paper.verdict(row)
        near = "—" if best is None else f"{best} ({_signed(paper.off(row, best))})"
        cells = [_gb(row["readings"].get(reading.name)) for reading in readings]
        printed = "—" if row["printed_gb"] is None else f"{row['printed_gb']:g}"
        lines.append((row["label"], printed, *cells, said if row["printed_gb"] is not None else "—", near))
        data += [_data(row["label"], reading, size, "B") for reading, size in row["readings"].items()]
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
        rows=tuple(tuple(Entry(cell) for cell in line) for line in lines),
        remarks=means + declared,
        data=tuple(data),
        words=(0, len(heads) - 2, len(heads) - 1),
    )


def waterfall(rows: list[dict[str, Any]], configuration: str) -> Table:
    """What the bytes are for at the peak of a step, and in which phase that is."""
    lines, data = [], []
    for row in rows:
        step = row["steps"].get(configuration)
        if step is not None:
            sizes = [step["peak"][kind] for kind in KINDS]
            lines.append((row["label"], *(_gb(size) for size in sizes), _gb(sum(sizes)), step["phase"]))
            data += [_data(row["label"], kind, size, "B") for kind, size in step["peak"].items()]
    what = {"model": "the whole model", "core": "the core alone, embedding and softmax left out"}[configuration]
    heads = (("model", ""), *((kind, "GB") for kind in KINDS), ("peak", "GB"), ("in phase", ""))
    return Table(
        ending=f"waterfall-{configuration}",
        title=f"Where the bytes are at the peak of a training step: {what}",
        caption=_PROTOCOL,
        rule="Temporaries are all the rest, with the iterates of a solve, what a checkpoint recomputes, and the parts of a tied "
        "table's gradient until they are summed.",
        heads=heads,
        rows=tuple(tuple(Entry(cell) for cell in line) for line in lines),
        data=tuple(data),
        words=(0, len(heads) - 1),
    )


def phases(rows: list[dict[str, Any]]) -> Table:
    """The largest moment of every phase of a DEQ's step."""
    lines, data = [], []
    for row in rows:
        step = row["steps"].get("core")
        if step is None or "backward solve" not in step["phases"]:
            continue
        for phase, kinds in step["phases"].items():
            lines.append((row["label"], phase, *(_gb(kinds[kind]) for kind in KINDS[1:]), _gb(sum(kinds.values()))))
            data.append(_data(row["label"], phase, sum(kinds.values()), "B"))
    return Table(
        ending="phases",
        title="A DEQ's training step, phase by phase: the core alone",
        caption=_PROTOCOL,
        rule="Each line is the moment of that phase at which most bytes are alive.",
        heads=(("model", ""), ("phase", ""), *((kind, "GB") for kind in KINDS[1:]), ("all", "GB")),
        rows=tuple(tuple(Entry(cell) for cell in line) for line in lines),
        data=tuple(data),
        words=(0, 1),
    )


def reductions(rows: list[dict[str, Any]]) -> Table:
    """How much less a DEQ takes than its explicit network: in the paper's tables, and by each reading."""
    lines, data = [], []
    names = [reading.name for reading in paper.READINGS]
    for pair in paper.PAIRS:
        cells = [paper.reduction(rows, pair, name) for name in names]
        lines.append((pair[0], pair[1], _percent(paper.printed_reduction(rows, pair)), *map(_percent, cells)))
        data += [_data(f"{pair[0]} / {pair[1]}", name, cell, "1") for name, cell in zip(names, cells, strict=True)]
    return Table(
        ending="reductions",
        title="How much less memory a DEQ takes than the explicit network beside it",
        caption=_PROTOCOL,
        rule="What only a DEQ has (history, other caps) is held against the explicit network's `core`.",
        heads=(("DEQ", ""), ("against", ""), ("paper", "%"), *((name, "%") for name in names)),
        rows=tuple(tuple(Entry(cell) for cell in line) for line in lines),
        data=tuple(data),
        words=(0, 1),
    )


def claims(rows: list[dict[str, Any]]) -> Table:
    """The reductions claimed in words, against the paper's own tables and against each reading."""
    lines, data = [], []
    for claim in paper.CLAIMS:
        pairs = [pair for pair in paper.PAIRS if pair[2] in claim.kinds]
        line = [claim.words, _holds(claim, [paper.printed_reduction(rows, pair) for pair in pairs])]
        for reading in paper.READINGS:
            found = [share for pair in pairs if (share := paper.reduction(rows, pair, reading.name)) is not None]
            line.append(_holds(claim, found) if found else "—")
            data.append(_data(claim.words, reading.name, line[-1], ""))
        lines.append(line)
    heads = (("claim", ""), ("the paper's tables", ""), *((reading.name, "") for reading in paper.READINGS))
    return Table(
        ending="claims",
        title="The memory that the paper claims to save, in words",
        caption="In brackets the reductions of the pairs that the claim is about, in %, smallest and largest.",
        heads=heads,
        rows=tuple(tuple(Entry(cell) for cell in line) for line in lines),
        data=tuple(data),
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
        laws.depth_table(record["laws"]),
        laws.shape_table(record["laws"]),
    ]
