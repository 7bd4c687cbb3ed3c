"""How a training step's memory grows with depth, length, batch, width and solver steps: followed, fitted, judged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.analysis.grid import Cell, Table, line
from bench.analysis.statistics import GROWTH_RULE, growth, significant
from bench.memory.step import Call, Shape, predicted
from bench.records.spec import ComponentConfig, Settings

_HELD = {"embeddings": 0, "weights": 0, "gradients": 0, "optimiser": 0}
_SHAPE = Shape(batch=8, length=64, vocabulary=100, ends=False)
_DEPTHS = (2, 4, 8, 16, 32, 64)
_VALUES = {"length": (256, 512), "batch": (16, 32), "width": (128, 256)}
_BASE = {"length": _SHAPE.length, "batch": _SHAPE.batch, "width": 32}
_MIDDLE = 4  # as deep is what is taken at several lengths, batches and widths
_ODE_TIME = 4.0
AXES = tuple(_VALUES)  # beside depth
_FLAT = ("constant", "bounded")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model whose memory is followed, and the setting that is its depth; a DEQ's is `steps`, of both solves.

    A user's `own` model is followed in depth alone, and nothing but that setting changes. `flat` says
    that it claims memory constant in depth; `root` that it claims the square root of it.
    """

    label: str
    model: ComponentConfig
    depth: str
    flat: bool = False
    root: bool = False
    own: bool = False
    depths: tuple[int, ...] = _DEPTHS

    def at(self, depth: int) -> ComponentConfig:
        """The model so deep."""
        settings: Settings = {**self.model.settings, self.depth: depth}
        if self.own:
            return ComponentConfig(name=self.model.name, settings=settings)
        if self.depth == "step_size":
            settings[self.depth] = _ODE_TIME / depth
        elif self.model.name == "deq":
            own = self.model.settings
            if own.get("adjoint", "implicit") == "implicit":
                settings["backward_steps"] = depth
            if own.get("solver") == "broyden":  # or its memory is bounded by its window
                settings |= {"solver.window": max(2, depth), "backward_solver": "broyden", "backward_solver.window": max(2, depth)}
        return ComponentConfig(name=self.model.name, settings=settings)


def _family(label: str, name: str, depth: str, settings: Settings, **claims: Any) -> Family:
    return Family(
        label=label, model=ComponentConfig(name=name, settings={"width": _BASE["width"], **settings}), depth=depth, **claims
    )


_CELL: Settings = {"cell.heads": 4}
_DEQ: Settings = {**_CELL, "solver": "picard"}
_TRELLIS: Settings = {"cell.hidden": 64}
_FEW = (2, 4, 8, 16)
FAMILIES = (
    _family("DEQ, Picard", "deq", "steps", {**_DEQ, "backward_solver": "picard"}, flat=True),
    _family("DEQ, Anderson", "deq", "steps", {**_CELL, "solver": "anderson"}, flat=True),
    _family("DEQ, Broyden", "deq", "steps", {**_CELL, "solver": "broyden"}),
    _family("DEQ, phantom", "deq", "steps", {**_DEQ, "adjoint": "phantom"}, flat=True),
    _family("DEQ, unrolled", "deq", "steps", {**_DEQ, "adjoint": "unroll"}),
    _family("tied", "tied", "depth", _CELL),
    _family("tied, checkpoint every step", "tied", "depth", {**_CELL, "checkpointing": "every"}),
    _family("tied, checkpoint sqrt", "tied", "depth", {**_CELL, "checkpointing": "sqrt"}, root=True),
    _family("Transformer-XL", "transformer-xl", "layers", {"heads": 4}),
    _family("TrellisNet", "trellisnet", "depth", _TRELLIS),
    _family("TrellisNet, checkpoint sqrt", "trellisnet", "depth", {**_TRELLIS, "checkpointing": "sqrt"}, root=True),
    _family("TCN", "tcn", "levels", {}, depths=(1, 2, 4, 6)),
    _family("Neural ODE, adjoint", "ode", "step_size", {**_CELL, "method": "euler", "time": _ODE_TIME}, flat=True),
    _family("GRU", "gru", "layers", {}, depths=_FEW),
    _family("LSTM", "lstm", "layers", {}, depths=_FEW),
)


def calls(families: Sequence[Family]) -> list[Call]:
    """Bytes of a step without weights, gradients and optimiser state: a dictionary each, for every model and axis."""
    axes = ("depth", *_VALUES)
    return [(follow_axis, (family, axis)) for family in families for axis in axes if axis == "depth" or not family.own]


def follow_axis(family: Family, axis: str = "depth") -> dict[str, Any]:
    """The same along one axis: depth, length, batch or width."""
    points = []
    for value in family.depths if axis == "depth" else _VALUES[axis]:
        model, shape = family.at(value if axis == "depth" else _MIDDLE), _SHAPE
        if axis == "width":
            model = _wider(model, value)
        elif axis != "depth":
            shape = replace(_SHAPE, **{axis: value})  # type: ignore[arg-type]
        waterfall = predicted(model, shape)
        points.append({axis: value, "bytes": waterfall.counted(_HELD), "peak": waterfall.peak, "phase": waterfall.phase})
    return {"label": family.label, "axis": axis, "flat": family.flat, "root": family.root, "points": points}


def _wider(model: ComponentConfig, width: int) -> ComponentConfig:
    hidden = {"cell.hidden": 2 * width} if "cell.hidden" in model.settings else {}
    return ComponentConfig(name=model.name, settings={**model.settings, **hidden, "width": width})


def along(rows: Sequence[Mapping[str, Any]], label: str, axis: str) -> tuple[list[int], list[int]]:
    """Values along an axis and the bytes there, in order; the first beside depth is of the depth at which the others were taken."""
    points = {row["axis"]: row["points"] for row in rows if row["label"] == label}
    values = [point[axis] for point in points[axis]]
    amounts = [point["bytes"] for point in points[axis]]
    if axis == "depth":
        return values, amounts
    base = next(point["bytes"] for point in points["depth"] if point["depth"] == _MIDDLE)
    return [_BASE[axis], *values], [base, *amounts]


def power(values: Sequence[int], amounts: Sequence[int]) -> float:
    """The exponent p of amount ~ value^p between the two largest values."""
    return math.log(amounts[-1] / amounts[-2]) / math.log(values[-1] / values[-2])


def judged(row: Mapping[str, Any]) -> str | None:
    """Whether a claim about depth is met: "pass" or "FAIL"; None where the model claims nothing.

    Constant: the verdict by growth is constant or bounded. Square root: the exponent at the deep end is within 0.1 of one half.
    """
    values = [point[row["axis"]] for point in row["points"]]
    amounts = [point["bytes"] for point in row["points"]]
    if row["flat"]:
        return "pass" if growth(values, amounts).verdict in _FLAT else "FAIL"
    if row["root"]:
        return "pass" if abs(power(values, amounts) - 0.5) <= 0.1 else "FAIL"
    return None


def depth_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The law of each model in depth, with its verdict."""
    lines, data = [], []
    for row in rows:
        if row["axis"] != "depth":
            continue
        values = [point["depth"] for point in row["points"]]
        amounts = [point["bytes"] for point in row["points"]]
        law = growth(values, amounts)
        claim = "constant" if row["flat"] else "sqrt" if row["root"] else "—"
        ends = (Cell(significant(amount / 2**20, 4), value=amount, unit="B") for amount in (amounts[0], amounts[-1]))
        slope = Cell(significant(law.slope / 1024, 3), value=law.slope, unit="B/step")
        exponent = power(values, amounts)
        lines.append(
            (row["label"], f"{values[0]}-{values[-1]}", *ends, slope, Cell(f"{exponent:.2f}", value=exponent), law.verdict)
            + (claim, judged(row) or "—")
        )
        data += [
            {
                "suite": "laws",
                "group": "memory",
                "label": row["label"],
                "column": "bytes",
                "depth": value,
                "value": amount,
                "unit": "B",
            }
            for value, amount in zip(values, amounts, strict=True)
        ]
    heads = (
        *(("model", ""), ("depth or steps", ""), ("least deep", "MiB"), ("deepest", "MiB"), ("slope", "KiB/step")),
        *(("exponent", ""), ("law", ""), ("claimed", ""), ("check", "")),
    )
    return Table(
        ending="depth",
        title="Memory of a training step against depth or solver steps",
        caption="Largest sum of live bytes in a step of the core, batch 8, length 64, width 32 (a model of your own: as named), "
        "without weights, gradients and optimiser state; solver history counts. Exponent: of a power law between the two deepest.",
        rule=GROWTH_RULE,
        heads=heads,
        rows=tuple(line(*texts) for texts in lines),
        data=tuple(data),
        words=(0, 1, 6, 7, 8),
    )


def shape_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The exponent of every model in length, batch and width, at the large end."""
    labels = list(dict.fromkeys(row["label"] for row in rows if row["axis"] != "depth"))
    exponents = {label: [power(*along(rows, label, axis)) for axis in AXES] for label in labels}
    return Table(
        ending="shape",
        title="Memory of a training step against length, batch and width",
        caption="Exponent p of bytes ~ value^p between the two largest values (lengths to 512, batches to 32, widths to 256), "
        "depth or solver steps 4; 2 in length is the attention matrix.",
        heads=(("model", ""), *((axis, "exponent") for axis in AXES)),
        rows=tuple(line(label, *(Cell(f"{p:.2f}", value=p, unit="1") for p in found)) for label, found in exponents.items()),
        group=("laws", "memory"),
    )
