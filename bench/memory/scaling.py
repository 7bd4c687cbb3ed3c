"""Growth of a training step's memory with depth, length, batch, width and solver steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.analysis.statistics import growth
from bench.memory.step import Call, Shape, predicted
from bench.records.spec import ComponentConfig, Settings

STATE = {"embeddings": 0, "weights": 0, "gradients": 0, "optimiser": 0}  # kinds that do not count here
FLAT = ("constant", "bounded")  # verdicts of growth that meet a claim of constant memory
_SHAPE = Shape(batch=8, length=64, vocabulary=100, ends=False)
_VALUES = {"length": (256, 512), "batch": (16, 32), "width": (128, 256)}
_BASE = {"length": _SHAPE.length, "batch": _SHAPE.batch, "width": 32}
_MIDDLE = 4  # depth of the models at several lengths, batches and widths
AXES = tuple(_VALUES)  # other than depth


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model, and the settings that are its depth: a DEQ's are the steps of its solves.

    A user's `own` model is measured in depth alone. `flat`: it claims memory constant in depth; `root`: the square root of it.
    """

    label: str
    model: ComponentConfig
    depth: tuple[str, ...]
    flat: bool = False
    root: bool = False
    own: bool = False
    depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)

    def at(self, depth: int) -> ComponentConfig:
        """The model of that depth."""
        return ComponentConfig(name=self.model.name, settings=self.model.settings | dict.fromkeys(self.depth, depth))


def _family(label: str, name: str, depth: tuple[str, ...], settings: Settings, **claims: Any) -> Family:
    model = ComponentConfig(name=name, settings={"width": _BASE["width"], **settings})
    return Family(label=label, model=model, depth=depth, **claims)


_CELL: Settings = {"cell.heads": 4}
_DEQ: Settings = {**_CELL, "solver": "picard"}
_BROYDEN: Settings = {**_CELL, "solver": "broyden", "backward_solver": "broyden"}
_TRELLIS: Settings = {"cell.hidden": 64}
_SOLVES = ("steps", "backward_steps")
_WINDOWS = ("solver.window", "backward_solver.window")  # smaller ones would bound its memory
_FEW = (2, 4, 8, 16)
FAMILIES = (
    _family("DEQ, Picard", "deq", _SOLVES, {**_DEQ, "backward_solver": "picard"}, flat=True),
    _family("DEQ, Anderson", "deq", _SOLVES, {**_CELL, "solver": "anderson"}, flat=True),
    _family("DEQ, Broyden", "deq", (*_SOLVES, *_WINDOWS), _BROYDEN),
    _family("DEQ, phantom", "deq", ("steps",), {**_DEQ, "adjoint": "phantom"}, flat=True),
    _family("DEQ, unrolled", "deq", ("steps",), {**_DEQ, "adjoint": "unroll"}),
    _family("tied", "tied", ("depth",), _CELL),
    _family("tied, checkpoint every step", "tied", ("depth",), {**_CELL, "checkpointing": "every"}),
    _family("tied, checkpoint sqrt", "tied", ("depth",), {**_CELL, "checkpointing": "sqrt"}, root=True),
    _family("Transformer-XL", "transformer-xl", ("layers",), {"heads": 4}),
    _family("TrellisNet", "trellisnet", ("depth",), _TRELLIS),
    _family("TrellisNet, checkpoint sqrt", "trellisnet", ("depth",), {**_TRELLIS, "checkpointing": "sqrt"}, root=True),
    _family("TCN", "tcn", ("levels",), {}, depths=(1, 2, 4, 6)),
    _family("Neural ODE, adjoint", "ode", ("time",), {**_CELL, "method": "euler", "step_size": 1.0}, flat=True),
    _family("GRU", "gru", ("layers",), {}, depths=_FEW),
    _family("LSTM", "lstm", ("layers",), {}, depths=_FEW),
)


def calls(families: Sequence[Family]) -> list[Call]:
    """Calls that each measure one model along one axis."""
    axes = ("depth", *_VALUES)
    return [(measure_axis, (family, axis)) for family in families for axis in axes if axis == "depth" or not family.own]


def measure_axis(family: Family, axis: str = "depth") -> dict[str, Any]:
    """Bytes of a step, without weights, gradients and optimiser state, along depth, length, batch or width."""
    points = []
    for value in family.depths if axis == "depth" else _VALUES[axis]:
        model, shape = family.at(value if axis == "depth" else _MIDDLE), _SHAPE
        if axis == "width":
            hidden = {"cell.hidden": 2 * value} if "cell.hidden" in model.settings else {}
            model = ComponentConfig(name=model.name, settings={**model.settings, **hidden, "width": value})
        elif axis != "depth":
            shape = replace(_SHAPE, **{axis: value})  # type: ignore[arg-type]
        waterfall = predicted(model, shape)
        points.append({axis: value, "bytes": waterfall.counted(STATE), "peak": waterfall.peak, "phase": waterfall.phase})
    return {"label": family.label, "axis": axis, "flat": family.flat, "root": family.root, "points": points}


def along(rows: Sequence[Mapping[str, Any]], label: str, axis: str) -> tuple[list[int], list[int]]:
    """Values along an axis and the bytes there; other axes than depth begin with the depth axis's point of their own depth."""
    points = {row["axis"]: row["points"] for row in rows if row["label"] == label}
    first = [(_BASE[axis], point["bytes"]) for point in points["depth"] if point["depth"] == _MIDDLE] if axis != "depth" else []
    pairs = [*first, *((point[axis], point["bytes"]) for point in points[axis])]
    return [value for value, _ in pairs], [amount for _, amount in pairs]


def power(values: Sequence[int], amounts: Sequence[int]) -> float:
    """The exponent p of amount ~ value^p between the two largest values."""
    return math.log(amounts[-1] / amounts[-2]) / math.log(values[-1] / values[-2])


def judged(row: Mapping[str, Any]) -> str | None:
    """Whether a claim about depth is met: "pass" or "FAIL"; None where the model claims nothing.

    Constant: the verdict of growth is constant or bounded. Square root: the exponent at the deep end is within 0.1 of one half.
    """
    values, amounts = along([row], row["label"], row["axis"])
    if not row["flat"] and not row["root"]:
        return None
    met = growth(values, amounts).verdict in FLAT if row["flat"] else abs(power(values, amounts) - 0.5) <= 0.1
    return "pass" if met else "FAIL"
