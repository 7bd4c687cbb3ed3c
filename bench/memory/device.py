"""The rows of the memory table taken for real on a GPU: what allocator and NVML say beside the prediction, and how long a step is.

Without a GPU every number is null, with that as its reason.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.analysis.grid import Cell, Table, line
from bench.analysis.statistics import significant
from bench.instruments.meters import CudaMemory
from bench.instruments.nvml import Nvml
from bench.memory import cost
from bench.memory.paper import GB
from bench.memory.step import Shape, fix_caps, tokens
from bench.records.errors import failure
from bench.records.record import Measure, measured
from bench.records.spec import ComponentConfig, TrainConfig
from bench.training.language_model import build_model
from bench.training.trainer import loss_of, make_optimiser, training_step

_STEPS = 5
_READ = ("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes", "nvml_process_bytes")
_WITHIN = 0.03  # of the prediction, for the allocator's allocated peak
_MODES = ("training", "inference")


def taken(model: ComponentConfig, shape: Shape, device: str) -> dict[str, Measure]:
    """Peaks of one training step on the device, and seconds of a step and of a forward pass in evaluation, solves at their caps.

    The step before has made the optimiser's state and the libraries' workspaces. Where the device runs out of memory the measures
    are null and say so.
    """
    torch.manual_seed(0)
    cuda, nvml = CudaMemory(device), Nvml(device)
    try:
        built = build_model(model, shape.vocabulary).to(device)
        fix_caps(built, shape)
        inputs, targets = (tensor.to(device) for tensor in tokens(shape))
        optimiser = make_optimiser(built, TrainConfig(steps=1, batch=shape.batch, learning_rate=1e-4))[0]

        def step() -> None:
            training_step(built.train(), optimiser, 0.25, inputs, targets, loss=partial(loss_of, built, auxiliary=shape.auxiliary))

        def forward() -> None:
            with torch.no_grad():
                loss_of(built.eval(), inputs, targets)

        step()
        cuda.start()
        nvml.start()
        step()
        nvml.sample()
        found = {name: measure for name, measure in {**cuda.read(), **nvml.read()}.items() if name in _READ}
        reason = None
        times: dict[str, float | None] = {mode: _seconds(work, device) for mode, work in zip(_MODES, (step, forward), strict=True)}
    except Exception as error:
        status, reason = failure(error)
        if status != "oom":
            raise
        found = {name: measured(None, "B", "none", "one training step", reason) for name in _READ}
        times = dict.fromkeys(_MODES)
    for mode, seconds in times.items():
        found[f"{mode}_s"] = measured(seconds, "s", f"median of {_STEPS}, device synchronised", f"one {mode} step", reason)
    return found


def _seconds(work: Callable[[], None], device: str) -> float:
    taken = []
    for _ in range(_STEPS):
        begun = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begun)
    return median(taken)


def absent() -> str | None:
    """Why nothing can be taken on a GPU here; None where it can."""
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def follow(rows: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Every row of the table with a model, taken on the device one by one: {"device", "why", "rows": {label: measures}}."""
    reason = "the record was made without --device cuda" if device == "cpu" else absent()
    if reason is not None:
        return {"device": None, "reason": reason, "rows": {}}
    found = {}
    for row in rows:
        if "model" in row["steps"]:
            step = row["steps"]["model"]
            model = ComponentConfig(name=row["model"]["name"], settings=step["settings"])
            measures = taken(model, Shape(**step["shape"]), device)
            found[row["label"]] = {name: measure.model_dump() for name, measure in measures.items()}
    return {"device": torch.cuda.get_device_name(device), "reason": None, "rows": found}


def _gb(value: float | None) -> Cell:
    return Cell("n/a" if value is None else significant(value / GB, 3), value=value, unit="B")


def _number(value: float | None, digits: int) -> Cell:
    return Cell("n/a" if value is None else f"{value:.{digits}f}", value=value)


def table(record: Mapping[str, Any]) -> Table:
    """Predicted and measured bytes of the whole model's step, a line a row."""
    on = record["device"]
    lines, data = [], []
    for row in record["rows"]:
        if "model" not in row["steps"]:
            continue
        predicted = sum(row["steps"]["model"]["peak"].values())
        measures = on["rows"].get(row["label"], {})
        values = [measures.get(name, {}).get("value") for name in _READ]
        allocated = values[1]
        ratio = _number(None if allocated is None else allocated / predicted, 3)
        said = "n/a" if allocated is None else "yes" if abs(allocated / predicted - 1) <= _WITHIN else "NO"
        lines.append(line(row["label"], _gb(predicted), *map(_gb, values), ratio, said))
        data += [
            {"suite": "paper", "group": "memory", "label": row["label"], "column": name, "value": value, "unit": "B"}
            for name, value in zip(("predicted", *_READ), (predicted, *values), strict=True)
        ]
    heads = (
        ("model", ""),
        ("predicted", "GB"),
        *((name, "GB") for name in ("requested", "allocated", "reserved", "NVML, process")),
    )
    return Table(
        ending="device",
        title="Memory of a training step on a GPU beside the prediction",
        caption="The whole model with its embeddings, length 150, batch size 15, every solve at its cap. "
        + (f"On: {on['device']}." if on["reason"] is None else f"n/a: {on['reason']}."),
        rule="Within 3 %: the allocator's allocated peak and the prediction.",
        heads=(*heads, ("allocated / predicted", ""), ("within 3 %", "")),
        rows=tuple(lines),
        data=tuple(data),
        words=(0,),
    )


def times(record: Mapping[str, Any]) -> Table:
    """Run times of table 4's pairs on the GPU, as ratios beside the printed ones."""
    on = record["device"]
    lines, data = [], []
    for deq, explicit, *printed in cost.TABLE_4:
        for mode, claimed in zip(_MODES, printed, strict=True):
            seconds = [on["rows"].get(label, {}).get(f"{mode}_s", {}).get("value") for label in (deq, explicit)]
            known = None not in seconds
            shown = [_number(None if value is None else 1000 * value, 1) for value in seconds]
            ratio = seconds[0] / seconds[1] if known else None
            lines.append(line(deq, explicit, mode, _number(claimed, 2), *shown, _number(ratio, 2)))
            data.append({"suite": "paper", "group": "times", "label": deq, "column": mode, "value": ratio, "unit": "1"})
    return Table(
        ending="times",
        title="Run time of a DEQ over the explicit network's, on a GPU",
        caption="Length 150, batch size 15, tokens by Zipf's law, every solve at its released cap (the paper does not print at how "
        "many steps it measured). " + (f"On: {on['device']}." if on["reason"] is None else f"n/a: {on['reason']}."),
        heads=(
            ("DEQ", ""),
            ("explicit network", ""),
            ("of", ""),
            ("table 4", "ratio"),
            ("DEQ", "ms"),
            ("explicit", "ms"),
            ("ratio", ""),
        ),
        rows=tuple(lines),
        data=tuple(data),
        words=(0, 1, 2),
        keys=3,
    )
