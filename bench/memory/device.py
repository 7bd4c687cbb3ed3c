"""Memory and time of the table's rows on a real GPU, compared with the prediction; without a GPU, null with the reason."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from bench.analysis.grid import Cell, Table, line
from bench.analysis.statistics import significant
from bench.instruments.meters import CudaMemory
from bench.instruments.nvml import Nvml
from bench.memory import cost
from bench.memory.paper import GB
from bench.memory.step import Shape, make_steps
from bench.records.errors import failure
from bench.records.record import Measure, measured
from bench.records.spec import ComponentConfig

_STEPS = 5
_READ = ("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes", "nvml_process_bytes")
_WITHIN = 0.03  # of the prediction, for the allocator's allocated peak
_MODES = ("training", "inference")


def measure_step(model: ComponentConfig, shape: Shape, device: str) -> dict[str, Measure]:
    """Peaks of a training step on the device, and seconds of a step and of a forward pass in evaluation, solves at their caps.

    A step before it creates the libraries' workspaces. Where the device runs out of memory, the measures
    are null with that reason.
    """
    torch.manual_seed(0)
    cuda, nvml = CudaMemory(device), Nvml(device)
    reason, times = None, dict[str, float | None].fromkeys(_MODES)
    try:
        steps = make_steps(model, shape, device)
        steps["training"]()
        cuda.start()
        nvml.start()
        steps["training"]()
        nvml.sample()
        found = {name: measure for name, measure in {**cuda.read(), **nvml.read()}.items() if name in _READ}
        times = {mode: _seconds(steps[mode], device) for mode in _MODES}
    except Exception as error:
        status, reason = failure(error)
        if status != "oom":
            raise
        found = {name: measured(None, "B", "none", "one training step", reason) for name in _READ}
    for mode, seconds in times.items():
        found[f"{mode}_s"] = measured(seconds, "s", f"median of {_STEPS}, device synchronised", f"one {mode} step", reason)
    return found


def _seconds(work: Callable[[], None], device: str) -> float:
    seconds = []
    for _ in range(_STEPS):
        begun = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


def absent() -> str | None:
    """The reason why no GPU can be used here, or None."""
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def measure_rows(rows: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Measure every row of the table that has a model, one by one: {"device", "reason", "rows": {label: measures}}."""
    reason = "the record was made without --device cuda" if device == "cpu" else absent()
    if reason is not None:
        return {"device": None, "reason": reason, "rows": {}}
    found = {}
    for row in rows:
        if step := row["steps"].get("model"):
            model = ComponentConfig(name=row["model"]["name"], settings=step["settings"])
            measures = measure_step(model, Shape(**step["shape"]), device)
            found[row["label"]] = {name: measure.model_dump() for name, measure in measures.items()}
    return {"device": torch.cuda.get_device_name(device), "reason": None, "rows": found}


def _gb(value: float | None) -> Cell:
    return Cell("n/a" if value is None else significant(value / GB, 3), value=value, unit="B")


def _place(record: Mapping[str, Any]) -> str:
    on = record["device"]
    return f"On: {on['device']}." if on["reason"] is None else f"n/a: {on['reason']}."


def _number(value: float | None, digits: int) -> Cell:
    return Cell("n/a" if value is None else f"{value:.{digits}f}", value=value)


def table(record: Mapping[str, Any]) -> Table:
    """Predicted and measured bytes of the whole model's step."""
    lines, data = [], []
    for row in record["rows"]:
        if "model" not in row["steps"]:
            continue
        predicted = sum(row["steps"]["model"]["peak"].values())
        measures = record["device"]["rows"].get(row["label"], {})
        values = [measures.get(name, {}).get("value") for name in _READ]
        allocated = values[1]
        ratio = _number(None if allocated is None else allocated / predicted, 3)
        within = "n/a" if allocated is None else "yes" if abs(allocated / predicted - 1) <= _WITHIN else "NO"
        lines.append(line(row["label"], _gb(predicted), *map(_gb, values), ratio, within))
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
        title="Memory of a training step on a GPU, predicted and measured",
        caption=f"The whole model with its embeddings, length 150, batch size 15, every solve at its cap. {_place(record)}",
        rule="Within 3 %: the allocator's allocated peak and the prediction.",
        heads=(*heads, ("allocated / predicted", ""), ("within 3 %", "")),
        rows=tuple(lines),
        data=tuple(data),
        words=(0,),
    )


def times(record: Mapping[str, Any]) -> Table:
    """Run times of table 4's pairs on the GPU, and their ratios with the printed ones."""
    rows = record["device"]["rows"]
    lines, data = [], []
    for deq, explicit, *printed in cost.TABLE_4:
        for mode, claimed in zip(_MODES, printed, strict=True):
            seconds = [rows.get(label, {}).get(f"{mode}_s", {}).get("value") for label in (deq, explicit)]
            known = None not in seconds
            shown = [_number(None if value is None else 1000 * value, 1) for value in seconds]
            ratio = seconds[0] / seconds[1] if known else None
            lines.append(line(deq, explicit, mode, _number(claimed, 2), *shown, _number(ratio, 2)))
            data.append({"suite": "paper", "group": "times", "label": deq, "column": mode, "value": ratio, "unit": "1"})
    names = (("DEQ", ""), ("explicit network", ""), ("of", ""))
    return Table(
        ending="times",
        title="Run time of a DEQ over the explicit network's, on a GPU",
        caption="Length 150, batch size 15, tokens by Zipf's law, every solve at its released cap (the paper does not print at how "
        f"many steps it measured). {_place(record)}",
        heads=(*names, ("table 4", "ratio"), ("DEQ", "ms"), ("explicit", "ms"), ("ratio", "")),
        rows=tuple(lines),
        data=tuple(data),
        words=(0, 1, 2),
        keys=3,
    )
