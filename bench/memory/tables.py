"""Tables of the memory record."""

from collections.abc import Sequence
from typing import Any

from bench.analysis.grid import Cell, Line, Table, line
from bench.analysis.statistics import GROWTH_RULE, growth, significant
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
_READINGS = ("paper", *(reading.name for reading in paper.READINGS))
_STEPS = {"model": "the whole model", "core": "the core alone, embedding and softmax left out"}


def _gb(size: float | None, absent: str = "—") -> Cell:
    return Cell(absent if size is None else significant(size / paper.GB, 3), value=size, unit="B")


def _percent(share: float | None) -> Cell:
    return Cell("—" if share is None else f"{100 * share:.1f}", value=share, unit="1")


def _number(value: float | None, digits: int = 2, unit: str = "") -> Cell:
    return Cell("n/a" if value is None else f"{value:.{digits}f}", value=value, unit=unit)


def _units(names: Sequence[str], unit: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, unit) for name in names)


def _table(kind: str, title: str, heads: Sequence[tuple[str, str]], lines: Sequence[Line], **more: Any) -> Table:
    fields = {"caption": _PROTOCOL, "group": ("paper", "memory"), **more}
    return Table(kind=kind, title=title, heads=tuple(heads), rows=tuple(lines), **fields)


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
    return _table("readings" if whole else "paper", title, heads, lines, legend=_VERDICTS, remarks=remarks, text_columns=words)


def waterfall(rows: list[dict[str, Any]], configuration: str) -> Table:
    """Bytes by kind at the peak of a step, and the phase of the peak."""
    lines = []
    for row in rows:
        if step := row["steps"].get(configuration):
            sizes = [step["peak"][kind] for kind in KINDS]
            lines.append(line(row["label"], *(_gb(size) for size in (*sizes, sum(sizes))), step["phase"]))
    title = f"Where the bytes are at the peak of a training step: {_STEPS[configuration]}"
    heads = (("model", ""), *_units((*KINDS, "peak"), "GB"), ("in phase", ""))
    return _table(f"waterfall-{configuration}", title, heads, lines, legend=_TEMPORARIES, text_columns=(0, len(heads) - 1))


def phases(rows: list[dict[str, Any]]) -> Table:
    """Bytes by kind at the peak of every phase of a DEQ's step."""
    lines = []
    for row in rows:
        found = row["steps"].get("core", {}).get("phases", {})
        for phase, kinds in found.items() if "backward solve" in found else ():
            sizes = (*(kinds[kind] for kind in KINDS[1:]), sum(kinds.values()))
            lines.append(line(row["label"], phase, *map(_gb, sizes), method=phase))
    title = "A DEQ's training step, phase by phase: the core alone"
    rule = "Each line is the moment of that phase at which most bytes are alive."
    heads = (("model", ""), ("phase", ""), *_units((*KINDS[1:], "all"), "GB"))
    return _table("phases", title, heads, lines, legend=rule, text_columns=(0, 1), label_columns=2)


def reductions(rows: list[dict[str, Any]]) -> Table:
    """The share of memory that each DEQ saves: in the paper's tables, and by each reading."""
    lines = []
    for pair in paper.PAIRS:
        shares = [paper.reduction(rows, pair, name) for name in _READINGS]
        if any(share is not None for share in shares):  # none in a partial record
            lines.append(line(*pair[:2], *map(_percent, shares), method=pair[1]))
    title = "How much less memory a DEQ takes than an explicit network"
    rule = "What only a DEQ has (history, other caps) is compared with the explicit network's `core`."
    heads = (("DEQ", ""), ("against", ""), *_units(_READINGS, "%"))
    return _table("reductions", title, heads, lines, legend=rule, text_columns=(0, 1), label_columns=2)


def claims(rows: list[dict[str, Any]]) -> Table:
    """The reductions claimed in words, against the paper's own tables and each reading."""
    found = {claim: [paper.shares(rows, claim, name) for name in _READINGS] for claim in paper.CLAIMS}
    lines = [line(claim.words, *(_holds(claim, one) for one in shares)) for claim, shares in found.items() if any(shares)]
    heads = _units(("claim", "the paper's tables", *_READINGS[1:]), "")
    caption = "In brackets the reductions of the pairs that the claim is about, in %, smallest and largest."
    words = tuple(range(len(heads)))
    return _table("claims", "The memory that the paper claims to save, in words", heads, lines, caption=caption, text_columns=words)


def _holds(claim: paper.ReductionClaim, found: list[float]) -> str:
    if not found:
        return "—"
    return f"{'holds' if paper.holds(claim, found) else 'does not hold'} ({paper.span(found)})"


def costs(rows: Sequence[dict[str, Any]]) -> Table:
    """A DEQ's FLOPs and bytes over the explicit network's at the caps, the printed ratios, and the steps at equal cost."""
    printed = {deq: {True: training, False: inference} for deq, _, training, inference in cost.TABLE_4}
    lines, data = [], []
    for row in rows:
        claimed = printed[row["deq"]][row["training"]]
        cells = [row["deq"], row["explicit"], "training" if row["training"] else "inference", _number(claimed)]
        for count in cost.COUNTS:
            ratio = cost.spent(row, count, *row["caps"]) / row["cost"][count]
            cells += [_number(ratio, unit="1"), *(_number(cost.afforded(row, count, times), 1) for times in (1.0, claimed))]
            data.append(
                {
                    **{"suite": "paper", "group": "cost", "label": row["deq"], "column": count, "training": row["training"]},
                    **{"value": ratio, "unit": "1", "explicit_a_token": row["cost"][count] / row["tokens"]},
                    **{f"{name}_a_token": value / row["tokens"] for name, value in row["law"][count].items()},
                }
            )
        flops_a_token = row["cost"]["flops"] / row["tokens"]
        lines.append(line(*cells, Cell(significant(flops_a_token / 1e6, 3), value=flops_a_token, unit="FLOP/token")))
    heads = [*_units(("DEQ", "explicit network", "of"), ""), ("table 4", "ratio")]
    for name in ("FLOPs", "bytes"):
        heads += [(f"{name} at the caps", "ratio"), (f"steps at equal {name}", ""), (f"steps at table 4's ratio, {name}", "")]
    title = "Cost of a DEQ's step over the explicit network's: counted, and the paper's run times"
    caption = (
        f"Whole models, length {paper.LENGTH}, batch size {paper.BATCH}; bytes: arguments and results of every operator, views "
        "apart. Steps at equal cost: forward solver steps, and in training as many backward, at which a DEQ costs what the "
        "explicit network does. The paper's ratios are run times on an unnamed GPU, at numbers of steps that it does not print."
    )
    heads.append(("explicit", "MFLOP/token"))
    return _table("cost", title, heads, lines, caption=caption, data=tuple(data), text_columns=(0, 1, 2), label_columns=3)


def on_device(record: dict[str, Any]) -> Table:
    """Predicted and measured bytes of the whole model's step on a GPU."""
    lines, data = [], []
    for row in record["rows"]:
        if "model" not in row["steps"]:
            continue
        predicted = sum(row["steps"]["model"]["peak"].values())
        measures = record["device"]["rows"].get(row["label"], {})
        sizes = {name: measures.get(name, {}).get("value") for name in device.PEAKS}
        allocated = sizes["cuda_allocated_peak_bytes"]
        ratio = None if allocated is None else allocated / predicted
        within = "n/a" if ratio is None else "yes" if abs(ratio - 1) <= device.WITHIN else "NO"
        lines.append(line(row["label"], _gb(predicted), *(_gb(size, "n/a") for size in sizes.values()), _number(ratio, 3), within))
        data += [
            {"suite": "paper", "group": "memory", "label": row["label"], "column": name, "value": value, "unit": "B"}
            for name, value in {"predicted": predicted, **sizes}.items()
        ]
    kinds = _units(("predicted", "requested", "allocated", "cuBLAS workspaces", "reserved", "NVML, process"), "GB")
    heads = [("model", ""), *kinds, *_units(("allocated / predicted", "within 3 %"), "")]
    title = "Memory of a training step on a GPU, predicted and measured"
    rule = "Within 3 %: the allocator's allocated peak and the prediction."
    caption = (
        "The whole model with its embeddings, length 150, batch size 15, every solve at its cap. Requested and allocated are "
        f"without cuBLAS's workspaces. {_place(record)}"
    )
    return _table("device", title, heads, lines, legend=rule, caption=caption, data=tuple(data))


def _place(record: dict[str, Any]) -> str:
    on = record["device"]
    return f"On: {on['device']}." if on["reason"] is None else f"n/a: {on['reason']}."


def times(record: dict[str, Any]) -> Table:
    """Run times of table 4's pairs on the GPU, and their ratios with the printed ones."""
    rows, traced = record["device"]["rows"], {row["label"] for row in record["rows"]}
    lines, data = [], []
    for deq, explicit, *printed in (pair for pair in cost.TABLE_4 if traced & set(pair[:2])):
        for mode, claimed in zip(device.MODES, printed, strict=True):
            ours, theirs = (rows.get(label, {}).get(f"{mode}_s", {}).get("value") for label in (deq, explicit))
            ratio = None if None in (ours, theirs) else ours / theirs
            milliseconds = [_number(None if seconds is None else 1000 * seconds, 1) for seconds in (ours, theirs)]
            lines.append(line(deq, explicit, mode, _number(claimed), *milliseconds, _number(ratio)))
            data.append({"suite": "paper", "group": "times", "label": deq, "column": mode, "value": ratio, "unit": "1"})
    heads = [*_units(("DEQ", "explicit network", "of"), ""), ("table 4", "ratio"), ("DEQ", "ms"), ("explicit", "ms"), ("ratio", "")]
    caption = (
        "Length 150, batch size 15, tokens by Zipf's law, every solve at its released cap (the paper does not print at how "
        f"many steps it measured). {_place(record)}"
    )
    title = "Run time of a DEQ over the explicit network's, on a GPU"
    return _table("times", title, heads, lines, caption=caption, data=tuple(data), text_columns=(0, 1, 2), label_columns=3)


def depth(rows: Sequence[dict[str, Any]]) -> Table:
    """The law of each model in depth, with its verdict."""
    lines, data = [], []
    for row in rows:
        if row["axis"] != "depth":
            continue
        values, amounts = scaling.along([row], row["label"], "depth")
        law = growth(values, amounts)
        claim = "constant" if row["flat"] else "sqrt" if row["root"] else "—"
        ends = (Cell(significant(amount / 2**20, 4), value=amount, unit="B") for amount in (amounts[0], amounts[-1]))
        slope = Cell(significant(law.slope / 1024, 3), value=law.slope, unit="B/step")
        sizes = (*ends, slope, _number(scaling.power(values, amounts)))
        lines.append(line(row["label"], f"{values[0]}-{values[-1]}", *sizes, law.verdict, claim, scaling.judged(row) or "—"))
        about = {"suite": "laws", "group": "memory", "label": row["label"], "column": "bytes"}
        data += [{**about, "depth": value, "value": amount, "unit": "B"} for value, amount in zip(values, amounts, strict=True)]
    heads = [
        *(("model", ""), ("depth or steps", ""), ("least deep", "MiB"), ("deepest", "MiB"), ("slope", "KiB/step")),
        *_units(("exponent", "law", "claimed", "check"), ""),
    ]
    caption = (
        "Largest sum of live bytes in a step of the core, batch 8, length 64, width 32 (a model of your own: as named), "
        "without weights, gradients and optimiser state; solver history counts. Exponent: of a power law between the two deepest."
    )
    title = "Memory of a training step against depth or solver steps"
    return _table("depth", title, heads, lines, legend=GROWTH_RULE, caption=caption, data=tuple(data), text_columns=(0, 1, 6, 7, 8))


def shape(rows: Sequence[dict[str, Any]]) -> Table:
    """The exponent of every model in length, batch and width, at the large end."""
    labels = dict.fromkeys(row["label"] for row in rows if row["axis"] != "depth")
    lines = []
    for label in labels:
        exponents = (scaling.power(*scaling.along(rows, label, axis)) for axis in scaling.AXES)
        lines.append(line(label, *(_number(exponent, unit="1") for exponent in exponents)))
    caption = (
        "Exponent p of bytes ~ value^p between the two largest values (lengths to 512, batches to 32, widths to 256), "
        "depth or solver steps 4; 2 in length is the attention matrix."
    )
    heads = [("model", ""), *_units(scaling.AXES, "exponent")]
    title = "Memory of a training step against length, batch and width"
    return _table("shape", title, heads, lines, caption=caption, group=("laws", "memory"))


def paper_tables(record: dict[str, Any]) -> list[Table]:
    """All tables of a record that have a row."""
    rows = record["rows"]
    found = [
        *(verdicts(rows, whole=False), verdicts(rows, whole=True), reductions(rows), claims(rows)),
        *(waterfall(rows, "core"), waterfall(rows, "model"), phases(rows)),
        *(costs(record["cost"]), on_device(record), times(record), depth(record["laws"]), shape(record["laws"])),
    ]
    return [table for table in found if table.rows]
