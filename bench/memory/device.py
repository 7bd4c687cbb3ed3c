"""Memory and time of the table's rows on a real GPU, compared with the prediction; without a GPU, null with the reason."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from bench.instruments.contention import CONTENDED
from bench.instruments.machine_lock import MachineLock
from bench.instruments.meters import CudaMemory
from bench.instruments.nvml import Nvml
from bench.instruments.probes import step_times
from bench.memory.step import Shape, make_steps
from bench.records.errors import UserError, failure
from bench.records.record import Measure, measured
from bench.records.spec import ComponentConfig

_STEPS = 5
PEAKS = (
    *("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cublas_workspace_bytes"),
    *("cuda_reserved_peak_bytes", "nvml_process_bytes"),
)
WITHIN = 0.03  # of the prediction, for the allocator's allocated peak
MODES = ("training", "inference")


def measure_step(model: ComponentConfig, shape: Shape, device: str) -> dict[str, Measure]:
    """Peaks of a training step on the device, and seconds of a step and of a forward pass in evaluation, solves at their caps.

    A step before it loads the libraries. Where a step fails, such as for lack of memory, the measures are null with that reason;
    the seconds are, too, where another process used the GPU.
    """
    torch.manual_seed(0)
    cuda, nvml = CudaMemory(device), Nvml(device)
    reason, times = None, dict[str, float | None].fromkeys(MODES)
    method, sole = f"median of {_STEPS}, device synchronised", ""
    try:
        steps = make_steps(model, shape, device)
        steps["training"]()
        cuda.start()
        nvml.start()
        steps["training"]()
        nvml.sample()
        found = {name: measure for name, measure in {**cuda.read(), **nvml.read()}.items() if name in PEAKS}
        since_us = time.time_ns() // 1000
        times = {mode: median(step_times(steps[mode], _STEPS, 0, device)) for mode in MODES}
        sole = "" if device == "cpu" or nvml.sees_others else ", GPU's sole use unchecked"
        if busy := nvml.busy_others(since_us):
            reason, method = CONTENDED, f"{method}; {busy}, then {', '.join(f'{1e3 * s:.4g} ms' for s in times.values() if s)}"
            times = dict.fromkeys(MODES)
    except UserError:
        raise
    except Exception as error:
        reason = failure(error)[1]
        found = {name: measured(None, "B", "none", "one training step", reason) for name in PEAKS}
    for mode, seconds in times.items():
        found[f"{mode}_s"] = measured(seconds, "s", method, f"one {mode} step{sole}", reason)
    return found


def measure_rows(
    rows: Sequence[Mapping[str, Any]], device: str, save: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, Any]:
    """Measure every row of the table that has a model, one by one: {"device", "reason", "rows": {label: measures}}.

    Other benchmarks are kept off the machine. `save` gets what is found so far, after every row.
    """
    if device == "cpu":
        return {"device": None, "reason": "the record was made without --device cuda", "rows": {}}
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(device), "reason": None, "rows": {}}
    with MachineLock().exclusive():
        for row in rows:
            if step := row["steps"].get("model"):
                model = ComponentConfig(name=row["model"]["name"], settings=step["settings"])
                measures = measure_step(model, Shape(**step["shape"]), device)
                found["rows"][row["label"]] = {name: measure.model_dump() for name, measure in measures.items()}
                save(found)
    return found
