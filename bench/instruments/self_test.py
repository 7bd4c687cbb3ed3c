"""Every instrument is tried on something whose answer is known, before its numbers are believed.

A probe that torch's next version breaks shows here as an instrument that does not work, with what it gave and what it owed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.instruments import nvml
from bench.instruments.meters import CudaMemory, HostMemory
from bench.instruments.probes import flops, peak_live_bytes, saved_bytes

_ONE_MIB = 1 << 20

Finding = tuple[bool, str]


@dataclass(frozen=True)
class Instrument:
    """Whether one instrument works here, what was found or why not, and the measures it feeds."""

    name: str
    works: bool
    detail: str
    measures: tuple[str, ...] = ()


def examine() -> list[Instrument]:
    """Try every instrument, in about a second; what fails, in whatever way, is an Instrument that does not work."""
    return [_try(name, check, measures) for name, check, measures in _CHECKS]


def _try(name: str, check: Callable[[], Finding], measures: tuple[str, ...]) -> Instrument:
    try:
        works, detail = check()
    except Exception as error:  # the one place that must answer whatever is broken
        works, detail = False, f"{type(error).__name__}: {error}"
    return Instrument(name=name, works=works, detail=detail, measures=measures)


def _compare(what: str, found: int | None, owed: int) -> Finding:
    return found == owed, f"{what}: {found}, known: {owed}"


def _torch() -> Finding:
    return bool(torch.ones(2).sum() == 2), f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def _saved_bytes() -> Finding:
    layer = nn.Linear(16, 32)
    inputs = torch.ones(8, 16)
    # The ReLU keeps its output (8 x 32), the product its input and the weight, both excluded; the sum keeps nothing.
    found = saved_bytes(lambda: layer(inputs).relu().sum(), [*layer.parameters(), inputs])
    return _compare("bytes saved by a layer and a ReLU", found, 8 * 32 * 4)


def _live_bytes() -> Finding:
    start = torch.ones(1024)

    def step() -> Tensor:
        first = start + 1  # 2 live
        second = first + 1  # 3 live: the peak
        del first
        return second + 1  # 3 live again

    return _compare("peak bytes of a chain of sums", peak_live_bytes(step, [start]).peak, 3 * 4096)


def _flops() -> Finding:
    width, hidden, batch, time = 5, 7, 3, 4
    layer = nn.LSTM(width, hidden)
    inputs = torch.ones(time, batch, width, requires_grad=True)
    count = flops(lambda: layer(inputs)[0].sum().backward())
    if count.total is None:
        return False, str(count.reason)
    forward = 2 * 4 * hidden * (width + hidden) * batch * time
    return _compare("FLOPs of an LSTM step, forward and backward", count.total, 3 * forward)


def _high_water() -> Finding:
    meter = HostMemory()
    meter.start()
    block = b"\x01" * (64 * _ONE_MIB)  # written, hence resident; zeros need not be
    del block
    measure = meter.read()["host_peak_bytes"]
    if measure.value is None:
        return False, str(measure.reason)
    seen = measure.value / _ONE_MIB
    return 60 <= seen <= 80, f"saw {seen:.1f} MiB of a freed block of 64 MiB, {measure.method}"


def _cuda() -> Finding:
    if torch.version.cuda is None:
        return False, "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device"
    meter = CudaMemory("cuda")
    meter.start()
    block = torch.empty(_ONE_MIB, dtype=torch.uint8, device="cuda")
    measures = meter.read()
    del block
    peak, baseline = measures["cuda_allocated_peak_bytes"].value, measures["cuda_baseline_bytes"].value
    if peak is None or baseline is None:
        return False, str(measures["cuda_allocated_peak_bytes"].reason)
    return _compare(f"bytes allocated for 1 MiB on {torch.cuda.get_device_name()}", int(peak - baseline), _ONE_MIB)


def _nvml() -> Finding:
    library = nvml.load_library()
    library.nvmlInit()
    return True, f"driver {library.nvmlSystemGetDriverVersion()}, {library.nvmlDeviceGetCount()} devices"


def _energy() -> Finding:
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device; CPU energy is not measured"
    library = nvml.load_library()
    library.nvmlInit()
    handle = nvml.device_handle(library, torch.device("cuda", torch.cuda.current_device()), torch.cuda)
    return True, f"counter at {library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000:.0f} J"


def _one_nvml_binding() -> Finding:
    version = nvml.deprecated_pynvml()
    if version is None:
        return True, "the deprecated distribution pynvml is not installed"
    return (
        False,
        f"pynvml {version} clashes with nvidia-ml-py: pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
    )


def _rapl() -> Finding:
    return False, "not used: RAPL is readable by root alone and counts the whole package; no TDP guess stands in for it"


_CHECKS: tuple[tuple[str, Callable[[], Finding], tuple[str, ...]], ...] = (
    (
        "torch",
        _torch,
        ("build_s", "warmup_s", "train_s", "evaluation_s", "step_ms_median", "step_ms_p10", "step_ms_p90", "tokens_per_s"),
    ),
    ("saved bytes", _saved_bytes, ("saved_bytes",)),
    ("live bytes", _live_bytes, ("peak_live_bytes", "held_bytes")),
    ("FLOPs", _flops, ("train_step_flops", "forward_flops")),
    ("VmHWM", _high_water, ("host_peak_bytes",)),
    (
        "CUDA",
        _cuda,
        ("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes", "cuda_baseline_bytes"),
    ),
    ("NVML", _nvml, ("nvml_process_bytes", "nvml_device_bytes")),
    ("energy", _energy, ("energy_J", "mean_power_W")),
    ("one NVML binding", _one_nvml_binding, ()),
    ("RAPL", _rapl, ()),
)
