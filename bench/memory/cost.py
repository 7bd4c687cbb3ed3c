"""Arithmetic and memory traffic of a step by a DEQ's number of evaluations, compared with an explicit network's.

These are the run-time ratios of table 4 without a clock.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.instruments.flops import flops
from bench.memory.paper import BATCH, LENGTH, whole_history
from bench.memory.step import Call, Shape, make_steps
from bench.memory.storage_tracker import partly_real, written
from bench.records.errors import UserError
from bench.records.spec import ComponentConfig
from bench.suites.paper import PRINTED, WIKITEXT
from deq.solve import force_device_path

# Table 4: a DEQ, an explicit network, and how much longer the DEQ takes in training and in inference.
TABLE_4 = (
    ("DEQ-Transformer medium, adaptive", "Transformer-XL medium, 18 layers, adaptive", 2.82, 1.76),
    ("DEQ-TrellisNet", "TrellisNet-70", 2.40, 1.64),
)
COUNTS = ("flops", "bytes")
_FEW = 2  # solver steps
_NOTHING = ("_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach")
_OVERWRITES = ("copy_", "fill_", "zero_")
_LOOK_UPS = ("embedding", "index", "index_select", "gather")


class BytesMoved(TorchDispatchMode):
    """Sums the bytes of operators' arguments and results; views move nothing, a look-up only its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = partly_real(func)(*args, **kwargs)
        name, returns = func.overloadpacket.__name__, func._schema.returns
        is_view = bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if name in _NOTHING or is_view:
            return result
        changed = written(func, args, kwargs)
        ids = {id(tensor) for tensor in changed}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and id(leaf) not in ids]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in _OVERWRITES or name.endswith("_out") or "out" in kwargs:
            read = [leaf for leaf in read if id(leaf) not in ids]
        if name in _LOOK_UPS:
            read = [*made, *read[1:]]
        self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in (*read, *changed, *made))
        return result


def counted(model: ComponentConfig, shape: Shape, training: bool) -> dict[str, int]:
    """FLOPs and bytes moved of a training step, or of a forward pass in evaluation without gradients."""
    with FakeTensorMode(allow_non_fake_inputs=True), force_device_path():
        step = make_steps(model, shape)["training" if training else "inference"]
        with BytesMoved() as moved:
            found = flops(step)
    if found.total is None:
        raise UserError(f"cost: model {model.name!r}: {found.reason}")
    return {"flops": found.total, "bytes": moved.bytes}


def law(model: ComponentConfig, shape: Shape, training: bool, caps: tuple[int, int]) -> dict[str, dict[str, float]]:
    """A DEQ's cost without solving, and of each forward and each backward solver step, from two steps to the caps.

    Exact at both ends, and in between where all steps cost the same (with Broyden's method the cost of a step grows).
    """

    def at(forward: int, backward: int) -> dict[str, int]:
        return counted(model, replace(shape, steps=forward, backward_steps=backward), training)

    few = at(_FEW, _FEW)
    forward, backward = at(caps[0], _FEW), at(_FEW, caps[1]) if training else few
    found = {}
    for name in COUNTS:
        f = (forward[name] - few[name]) / (caps[0] - _FEW)
        b = (backward[name] - few[name]) / (caps[1] - _FEW)
        found[name] = {"base": few[name] - _FEW * (f + b), "forward": f, "backward": b}
    return found


def calls() -> list[Call]:
    """Calls that each measure one pair of table 4, in training or in inference."""
    return [(_pair, (deq, explicit, training)) for deq, explicit, _, _ in TABLE_4 for training in (True, False)]


def _pair(deq: str, explicit: str, training: bool) -> dict[str, Any]:
    found = []
    for printed in [next(row for row in PRINTED if row.table == WIKITEXT and row.label == label) for label in (deq, explicit)]:
        assert printed.model is not None
        auxiliary = printed.recipe.auxiliary if training and printed.recipe is not None else 0.0
        found.append((printed.model, Shape(batch=BATCH, length=LENGTH, vocabulary=printed.vocabulary, auxiliary=auxiliary)))
    (model, shape), (other, other_shape) = found
    caps: Any = (model.settings["steps"], model.settings["backward_steps"])
    return {
        **{"deq": deq, "explicit": explicit, "training": training, "caps": caps, "tokens": BATCH * LENGTH},
        "law": law(whole_history(model, *caps), shape, training, caps),
        "cost": counted(other, other_shape, training),
    }


def spent(row: Mapping[str, Any], count: str, forward: float, backward: float) -> float:
    """The cost of a DEQ at so many forward and backward solver steps."""
    law = row["law"][count]
    return float(law["base"] + forward * law["forward"] + backward * law["backward"])


def afforded(row: Mapping[str, Any], count: str, printed: float = 1.0) -> float:
    """Solver steps at which a DEQ costs `printed` times the explicit network; in training as many backward as forward."""
    law = row["law"][count]
    return float((printed * row["cost"][count] - law["base"]) / (law["forward"] + law["backward"]))
