"""Try every instrument on a case with a known result (`python -m bench doctor`).

A probe that a new version of torch breaks shows here as an instrument that does not work, with the values found and expected.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.instruments import nvml
from bench.instruments.environment import version, why_no_gpu
from bench.instruments.flops import flops
from bench.instruments.meters import CudaMemory, HostMemory
from bench.instruments.probes import peak_live_bytes, saved_bytes

_ONE_MIB = 1 << 20

Outcome = tuple[bool, str]  # whether it works, and what was found or the reason why not


@dataclass(frozen=True)
class Instrument:
    """Whether an instrument works here, what was found or why not, and the measures that it feeds."""

    name: str
    works: bool
    detail: str
    measures: tuple[str, ...] = ()


def examine() -> list[Instrument]:
    """Try every instrument, in about a second; one that raises is an Instrument that does not work."""
    found = []
    for name, check, measures in _CHECKS:
        try:
            works, detail = check()
        except Exception as error:
            works, detail = False, f"{type(error).__name__}: {error}"
        found.append(Instrument(name=name, works=works, detail=detail, measures=measures))
    return found


def _compare(what: str, found: int | None, expected: int) -> Outcome:
    return found == expected, f"{what}: {found}, known: {expected}"


def _torch() -> Outcome:
    return bool(torch.ones(2).sum() == 2), f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def _saved_bytes() -> Outcome:
    layer, inputs = nn.Linear(16, 32), torch.ones(8, 16)
    # The ReLU saves its output (8 x 32), the product its input and weight, both excluded; the sum saves nothing.
    found = saved_bytes(lambda: layer(inputs).relu().sum(), [*layer.parameters(), inputs])
    return _compare("bytes saved by a layer and a ReLU", found, 8 * 32 * 4)


def _live_bytes() -> Outcome:
    start = torch.ones(1024)

    def step() -> Tensor:
        first = start + 1  # 2 live
        second = first + 1  # 3 live: the peak
        del first
        return second + 1  # 3 live again

    return _compare("peak bytes of a chain of sums", peak_live_bytes(step, [start]).peak, 3 * 4096)


def _flops() -> Outcome:
    width, hidden, batch, time = 5, 7, 3, 4
    layer = nn.LSTM(width, hidden)
    inputs = torch.ones(time, batch, width, requires_grad=True)
    count = flops(lambda: layer(inputs)[0].sum().backward())
    if count.total is None:
        return False, str(count.reason)
    forward = 2 * 4 * hidden * (width + hidden) * batch * time
    return _compare("FLOPs of an LSTM step, forward and backward", count.total, 3 * forward)


def _host_memory() -> Outcome:
    meter = HostMemory()
    meter.start()
    block = b"\x01" * (64 * _ONE_MIB)  # written, hence resident; zeros need not be
    del block
    measure = meter.read()["host_peak_bytes"]
    if measure.value is None:
        return False, str(measure.reason)
    seen = measure.value / _ONE_MIB
    return 60 <= seen <= 80, f"saw {seen:.1f} MiB of a freed block of 64 MiB, {measure.method}"


def _cuda() -> Outcome:
    if not torch.cuda.is_available():
        return False, why_no_gpu()
    meter = CudaMemory("cuda")
    meter.start()
    block = torch.empty(_ONE_MIB, dtype=torch.uint8, device="cuda")
    measures = meter.read()
    del block
    peak, baseline = measures["cuda_allocated_peak_bytes"].value, measures["cuda_baseline_bytes"].value
    if peak is None or baseline is None:
        return False, str(measures["cuda_allocated_peak_bytes"].reason)
    return _compare(f"bytes allocated for 1 MiB on {torch.cuda.get_device_name()}", int(peak - baseline), _ONE_MIB)


def _nvml() -> Outcome:
    library = nvml.load_library()
    library.nvmlInit()
    return True, f"driver {library.nvmlSystemGetDriverVersion()}, {library.nvmlDeviceGetCount()} devices"


def _energy() -> Outcome:
    if not torch.cuda.is_available():
        return False, f"{why_no_gpu()}; CPU energy is not measured"
    library = nvml.load_library()
    library.nvmlInit()
    handle = nvml.device_handle(library, torch.device("cuda", torch.cuda.current_device()), torch.cuda)
    return True, f"counter at {library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000:.0f} J"


def _one_nvml_binding() -> Outcome:
    found = version("pynvml")  # its module has the name of that of nvidia-ml-py
    if found is None:
        return True, "the deprecated distribution pynvml is not installed"
    remedy = "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py"
    return False, f"pynvml {found} clashes with nvidia-ml-py: {remedy}"


def _rapl() -> Outcome:
    return False, "not used: RAPL is readable by root only and counts the whole package; CPU energy is not estimated from the TDP"


_CLOCKS = ("build_s", "warmup_s", "train_s", "evaluation_s", "step_ms_median", "step_ms_p10", "step_ms_p90", "tokens_per_s")
_CUDA_PEAKS = ("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes")
_CHECKS: tuple[tuple[str, Callable[[], Outcome], tuple[str, ...]], ...] = (
    ("torch", _torch, _CLOCKS),
    ("saved bytes", _saved_bytes, ("saved_bytes",)),
    ("live bytes", _live_bytes, ("peak_live_bytes", "held_bytes")),
    ("FLOPs", _flops, ("train_step_flops", "forward_flops")),
    ("VmHWM", _host_memory, ("host_peak_bytes",)),
    ("CUDA", _cuda, (*_CUDA_PEAKS, "cuda_baseline_bytes", "cublas_workspace_bytes")),
    ("NVML", _nvml, ("nvml_process_bytes", "nvml_device_bytes")),
    ("energy", _energy, ("energy_J", "mean_power_W")),
    ("one NVML binding", _one_nvml_binding, ()),
    ("RAPL", _rapl, ()),
)
