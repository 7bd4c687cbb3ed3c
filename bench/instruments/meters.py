"""Passive meters: read clocks and memory counters before and after training and between its phases.

What needs hooks, modes or extra steps is a probe (`bench.instruments.probes`). A meter has `start` and `read`; neither raises, and
a value that cannot be read is None with a reason, never 0.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bench.records.record import Measure, measured

_CURRENT = "allocated_bytes.all.current"
Phase = Literal["build", "warmup", "train", "evaluation", "probe", "checkpoint", "waiting"]


class Clocks:
    """Seconds of each phase. A nested phase stops the clock of the outer one, so that evaluation adds nothing to training.

    `synchronize` is called at each change of phase, so that queued device work counts for the phase that queued it; not when an
    exception ends the phase, since a failing device would hide the exception. `entered` is called with the phase after each change,
    or None between phases.
    """

    def __init__(
        self,
        synchronize: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        entered: Callable[[str | None], None] = lambda phase: None,
    ) -> None:
        self._synchronize, self._clock, self._entered = synchronize, clock, entered
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0
        self._resumed = False

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside for a phase."""
        self._wait()
        self._update()
        self._seconds.setdefault(name, 0.0)
        self._open.append(name)
        self._entered(name)
        try:
            yield
            self._wait()
        finally:
            self._update()
            self._open.pop()
            self._entered(self._open[-1] if self._open else None)

    def seconds(self, name: Phase) -> float | None:
        """Seconds so far, an open phase included; None for a phase never entered."""
        self._update()
        return self._seconds.get(name)

    def total(self) -> float:
        """Seconds of all phases but "waiting", which depends on other runs."""
        self._update()
        return sum(seconds for name, seconds in self._seconds.items() if name != "waiting")

    def state(self) -> dict[str, float]:
        """Seconds of each phase so far, for a checkpoint."""
        self._update()
        return dict(self._seconds)

    def restore(self, seconds: dict[str, float]) -> None:
        """Continue from a checkpoint's seconds; work done after it and lost is not counted."""
        self._resumed = True
        self._update()
        self._seconds = {name: float(seconds.get(name, 0.0)) for name in {**seconds, **dict.fromkeys(self._open)}}

    def read(self) -> dict[str, Measure]:
        """Seconds of each phase: build_s, warmup_s, train_s, evaluation_s, probe_s, checkpoint_s, waiting_s."""
        method = "wall clock (perf_counter)" + (", device synchronised" if self._synchronize else "")
        method += "; resumed from a checkpoint, work lost to the restart not counted" if self._resumed else ""
        measures = {}
        for name in get_args(Phase):
            value = self.seconds(name)
            reason = f"the run never reached its {name} phase" if value is None else None
            measures[f"{name}_s"] = measured(value, "s", method, f"{name} phase, phases inside it excluded", reason)
        return measures

    def _wait(self) -> None:
        if self._synchronize is not None:
            self._synchronize()

    def _update(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


class HostMemory:
    """Peak resident memory of the process above what was resident at `start`.

    Reads VmHWM, because ru_maxrss includes the parent's peak. Where the kernel does not let `start` reset it, an earlier peak can
    hide a later one: the value is then None unless VmHWM grew. At small sizes the allocator and the libraries dominate.
    """

    _RESET_MARK = "5"  # proc(5), /proc/pid/clear_refs: reset the peak resident set size to the present one

    def __init__(self, process: Path = Path("/proc/self"), platform: str = sys.platform) -> None:
        self._process = process
        self._fault = None if platform.startswith("linux") else f"VmHWM is Linux only (this is {platform})"

    def start(self) -> None:
        """Reset the high-water mark where the kernel allows it, and read the baseline."""
        try:
            (self._process / "clear_refs").write_text(self._RESET_MARK)
            self._reset = True
        except OSError:
            self._reset = False
        self._baseline, self._mark = self._status("VmRSS"), self._status("VmHWM")

    def read(self) -> dict[str, Measure]:
        """host_peak_bytes: the high-water mark above the baseline."""
        mark = self._status("VmHWM")
        reason = self._fault
        if reason is None and not self._reset and mark <= self._mark:
            reason = "the high-water mark could not be reset and a peak from before the start hides this one"
        method = f"VmHWM minus VmRSS at start ({'mark reset at start' if self._reset else 'mark not reset'})"
        scope = "process, above what was resident at start"
        return {"host_peak_bytes": measured(None if reason else mark - self._baseline, "B", method, scope, reason)}

    def _status(self, field: str) -> int:
        """Bytes of a field of the process's status; 0, and a fault, where it cannot be read."""
        try:
            lines = (line.partition(":") for line in (self._process / "status").read_text().splitlines())
            sizes = {name: rest for name, _, rest in lines}
            return int(sizes[field].split()[0]) * 1024
        except (OSError, LookupError, ValueError) as error:
            self._fault = self._fault or f"/proc/self/status cannot be read ({type(error).__name__}: {error})"
            return 0


def free_workspaces() -> None:
    """Give the workspaces that cuBLAS keeps back to torch's allocator; the next matrix product makes new ones."""
    torch._C._cuda_clearCublasWorkspaces()


class CudaMemory:
    """Peaks of torch's CUDA allocator: requested (by the tensors), allocated (rounded up), reserved (held from the device).

    Resetting a peak sets it to the present value, so the bytes allocated at `start` are the baseline. Not included: the CUDA
    context, libraries and other allocators, which `Nvml` includes. torch takes cuBLAS's workspaces (8 MiB, on Hopper 32 MiB, for
    each thread that multiplies; CUBLAS_WORKSPACE_CONFIG) from the same allocator: they are no tensors, have a measure of their own,
    and are left out of requested, allocated and baseline. They are freed for it, by `start` and `read`: a CUDA graph that uses
    them must not be replayed later (`DEQ.forget_recordings`). Of several reads in a window the largest workspaces count, since the
    peaks are of the whole window. `cuda`: torch.cuda, or a stand-in.
    """

    def __init__(
        self, device: torch.device | str, cuda: Any = torch.cuda, free_workspaces: Callable[[], None] = free_workspaces
    ) -> None:
        self._device = torch.device(device)
        self._cuda, self._free_workspaces = cuda, free_workspaces
        self._baseline: int | None = None
        self._workspaces: int | None = None
        self._fault: str | None = None

    def start(self) -> None:
        """Reset torch's peaks and read the baseline."""
        self._workspaces = None
        if self._device.type != "cuda":
            self._fault = f"run on the {self._device.type.upper()}"
            return
        try:
            gc.collect()
            self._cuda.synchronize(self._device)
            self._free_workspaces()
            self._cuda.empty_cache()  # or reserved blocks of earlier work count as this run's
            self._cuda.reset_peak_memory_stats(self._device)
            self._baseline = self._cuda.memory_stats(self._device).get(_CURRENT)
        except Exception as error:  # CUDA reports its failures as RuntimeError, AssertionError and subclasses of both
            self._fault = f"CUDA failed at start ({error})"

    def read(self) -> dict[str, Measure]:
        """Requested, allocated and reserved peaks, the baseline, and cuBLAS's workspaces."""
        statistics: dict[str, int] = {}
        if self._fault is None:
            try:
                self._cuda.synchronize(self._device)
                statistics = self._cuda.memory_stats(self._device)
                self._free_workspaces()
                if _CURRENT in statistics:
                    freed = statistics[_CURRENT] - self._cuda.memory_stats(self._device)[_CURRENT]
                    self._workspaces = max(self._workspaces or 0, freed)
            except Exception as error:
                self._fault = f"CUDA failed at the end ({error})"
        workspaces = self._workspaces

        def measure(value: int | None, key: str, when: str, method: str = "") -> Measure:
            reason = self._fault or (f"the allocator keeps no {key}" if value is None else None)
            scope = f"device, torch's allocator, {when} start"
            return measured(None if reason else value, "B", method or f"torch.cuda.memory_stats {key}", scope, reason)

        measures = {}
        for name in ("requested", "allocated", "reserved"):
            key = f"{name}_bytes.all.peak"
            value, without = statistics.get(key), name != "reserved" and workspaces is not None
            method = f"torch.cuda.memory_stats {key}" + (" without cuBLAS's workspaces" if without else "")
            value = value - (workspaces or 0) if without and value is not None else value
            measures[f"cuda_{name}_peak_bytes"] = measure(value, key, "since", method)
        measures["cuda_baseline_bytes"] = measure(self._baseline, _CURRENT, "at")
        method = f"bytes by which {_CURRENT} falls when torch frees cuBLAS's workspaces"
        measures["cublas_workspace_bytes"] = measure(workspaces, _CURRENT, "since", method)
        return measures
