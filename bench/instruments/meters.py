"""Meters are passive: they read clocks and counters that run anyway, before and after the loop and between its phases.

What needs hooks, modes or extra steps is a probe (`bench.instruments.probes`). A meter that cannot read gives null with the reason,
never 0.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch

from bench.instruments.nvml import Nvml
from bench.records.errors import unknown
from bench.records.record import Measure, measured

__all__ = ["Clocks", "CudaMemory", "HostMemory", "Meter", "Nvml", "Phase"]

Phase = Literal["build", "warmup", "train", "evaluation", "probe", "checkpoint", "waiting"]


class Meter(Protocol):
    """`start` takes the baseline, `read` gives every measure the meter feeds, each with a value or a reason; neither raises."""

    def start(self) -> None:
        """Take the baseline."""

    def read(self) -> dict[str, Measure]:
        """Every measure, each with a value or a reason."""


class Clocks:
    """Seconds of each phase, each instant in one phase alone: a phase inside another stops the outer clock while it lasts.

    So evaluation inside the training loop costs training nothing. `synchronize` is called at every change of phase, so that queued
    device work falls to the phase that queued it; not when an exception ends the phase, since a broken device would hide it.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._synchronize = synchronize
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Set every clock to zero."""
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0
        self._resumed = 0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Charge what runs inside to `name`; raise UserError for a name that is no phase."""
        if name not in get_args(Phase):
            raise unknown("phase", name, get_args(Phase))
        self._wait()
        self._charge()
        self._seconds.setdefault(name, 0.0)
        self._open.append(name)
        try:
            yield
            self._wait()
        finally:
            self._charge()
            self._open.pop()

    def seconds(self, name: Phase) -> float | None:
        """Seconds so far, an open phase included; None for a phase never entered."""
        self._charge()
        return self._seconds.get(name)

    def total(self) -> float:
        """Seconds of all phases but waiting, which is for what other runs do."""
        self._charge()
        return sum(seconds for name, seconds in self._seconds.items() if name != "waiting")

    def state(self) -> dict[str, float]:
        """Seconds of each phase so far, for a checkpoint."""
        self._charge()
        return dict(self._seconds)

    def restore(self, seconds: dict[str, float]) -> None:
        """Go on from a checkpoint's seconds: the work that was lost after it is not in them."""
        self._resumed += 1
        self._charge()
        self._seconds = {name: float(seconds.get(name, 0.0)) for name in {**seconds, **dict.fromkeys(self._open)}}

    def read(self) -> dict[str, Measure]:
        """Seconds of each phase: build_s, warmup_s, train_s, evaluation_s, probe_s, checkpoint_s, waiting_s."""
        return {f"{name}_s": self._measure(name) for name in get_args(Phase)}

    def _measure(self, name: Phase) -> Measure:
        value = self.seconds(name)
        reason = None if value is not None else f"the run never reached its {name} phase"
        method = "wall clock (perf_counter)" + (", device synchronised" if self._synchronize else "")
        method += "; resumed from a checkpoint, work lost to the restart not counted" if self._resumed else ""
        return measured(value, "s", method, f"{name} phase, phases inside it excluded", reason)

    def _wait(self) -> None:
        if self._synchronize is not None:
            self._synchronize()

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


class HostMemory:
    """The process's resident high-water mark above what was resident at `start`: VmHWM, because ru_maxrss shows the parent's peak.

    The mark is reset at `start` where the kernel lets it. Where not, a peak from before `start` can stand above everything after:
    then the value is null unless the mark moved. Dominated by the allocator and the libraries at small sizes.
    """

    _RESET_MARK = "5"  # proc(5), /proc/pid/clear_refs: reset the peak resident set size to the present one

    def __init__(self, process: Path = Path("/proc/self"), platform: str = sys.platform) -> None:
        self._process = process
        self._fault: str | None = None if platform.startswith("linux") else f"VmHWM is Linux only (this is {platform})"
        self._reset = False
        self._baseline = 0
        self._mark = 0

    def start(self) -> None:
        """Reset the high-water mark where the kernel lets us, and take the baseline."""
        if self._fault is not None:
            return
        try:
            (self._process / "clear_refs").write_text(self._RESET_MARK)
            self._reset = True
        except OSError:
            self._reset = False
        try:
            self._baseline, self._mark = self._status("VmRSS"), self._status("VmHWM")
        except (OSError, ValueError) as error:
            self._fault = f"/proc/self/status cannot be read ({error})"

    def read(self) -> dict[str, Measure]:
        """host_peak_bytes: the high-water mark above the baseline."""
        value, reason = self._peak()
        mark = "mark reset at start" if self._reset else "mark not reset"
        return {
            "host_peak_bytes": measured(
                value, "B", f"VmHWM minus VmRSS at start ({mark})", "process, above what was resident at start", reason
            )
        }

    def _peak(self) -> tuple[int | None, str | None]:
        if self._fault is not None:
            return None, self._fault
        if not self._baseline:
            return None, "the meter was not started"
        try:
            mark = self._status("VmHWM")
        except (OSError, ValueError) as error:
            return None, f"/proc/self/status cannot be read ({error})"
        if not self._reset and mark <= self._mark:
            return None, "the high-water mark could not be reset and a peak from before the start hides this one"
        return mark - self._baseline, None

    def _status(self, field: str) -> int:
        for line in (self._process / "status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == field:
                return int(rest.split()[0]) * 1024
        raise ValueError(f"no {field}")


class CudaMemory:
    """Peaks of torch's CUDA allocator: requested (what the tensors need), allocated (rounded), reserved (what would run out).

    Resetting a peak sets it to the present value, so what was allocated at `start` is kept beside the peaks as the baseline.
    Not seen: the CUDA context, libraries, other allocators (`Nvml` sees them). `cuda`: torch.cuda, or a stand-in.
    """

    _FIELDS = ("requested", "allocated", "reserved")

    def __init__(self, device: torch.device | str, cuda: Any = torch.cuda) -> None:
        self._device = torch.device(device)
        self._cuda = cuda
        self._baseline: int | None = None
        self._fault: str | None = "the meter was not started"

    def start(self) -> None:
        """Reset torch's peaks and take the baseline."""
        if self._device.type != "cuda":
            self._fault = f"run on the {self._device.type.upper()}"
            return
        try:
            if not self._cuda.is_available():
                self._fault = "CUDA is not available"
                return
            gc.collect()
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()  # or reserved blocks of earlier work count as this run's
            self._cuda.reset_peak_memory_stats(self._device)
            self._baseline = self._cuda.memory_stats(self._device).get("allocated_bytes.all.current")
            self._fault = None
        except Exception as error:  # CUDA reports its failures as RuntimeError, AssertionError and subclasses of both
            self._fault = f"CUDA failed at start ({error})"

    def read(self) -> dict[str, Measure]:
        """Requested, allocated and reserved peaks, and the baseline."""
        statistics: dict[str, int] = {}
        reason = self._fault
        if reason is None:
            try:
                self._cuda.synchronize(self._device)
                statistics = self._cuda.memory_stats(self._device)
            except Exception as error:
                reason = f"CUDA failed at the end ({error})"
        measures = {}
        for name in self._FIELDS:
            key = f"{name}_bytes.all.peak"
            value = statistics.get(key)
            absent = reason or (f"the allocator keeps no {key}" if value is None else None)
            measures[f"cuda_{name}_peak_bytes"] = measured(
                value, "B", f"torch.cuda.memory_stats {key}", "device, torch's allocator, since start", absent
            )
        baseline = self._baseline if reason is None else None
        measures["cuda_baseline_bytes"] = measured(
            baseline,
            "B",
            "torch.cuda.memory_stats allocated_bytes.all.current",
            "device, torch's allocator, at start",
            reason or ("the allocator keeps no allocated_bytes.all.current" if baseline is None else None),
        )
        return measures
