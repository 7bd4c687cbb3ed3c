"""NVML says what the user sees in nvidia-smi: memory of the process and the device, and the energy counter of the whole device.

Its traps are answered here: process ids are host ids inside containers, CUDA numbers devices differently, energy belongs to every
process on the device, and a counter may be absent. Each ends as a labelled method or as null with the reason.
"""

import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.records.record import Measure, measured


def deprecated_pynvml() -> str | None:
    """The version of the deprecated distribution `pynvml`, if installed: it clashes with nvidia-ml-py over the module's name."""
    try:
        return importlib.metadata.version("pynvml")
    except importlib.metadata.PackageNotFoundError:
        return None


def load_library() -> Any:
    """The `pynvml` module of nvidia-ml-py, imported when first needed, so that a machine without it can still run."""
    return importlib.import_module("pynvml")


def device_handle(library: Any, device: torch.device, cuda: Any) -> Any:
    """NVML's handle of the very device torch uses: by UUID, else by PCI address; LookupError where neither is known.

    Never by index: CUDA orders devices by speed and CUDA_VISIBLE_DEVICES renumbers them, NVML orders all of them by PCI address.
    """
    properties = cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    if uuid is not None:
        name = str(uuid)
        try:
            return library.nvmlDeviceGetHandleByUUID(name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}")
        except library.NVMLError:
            pass  # a MIG slice has a UUID that NVML knows by another name; its PCI address is the whole device's
    domain, bus, slot = (getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is not None and bus is not None and slot is not None:
        return library.nvmlDeviceGetHandleByPciBusId(f"{domain:08x}:{bus:02x}:{slot:02x}.0")
    raise LookupError("torch gives neither a UUID that NVML knows nor a PCI address for the device")


class Nvml:
    """Memory of this process and its device, and the device's energy, between `start` and `read`.

    `sample`, called by the loop when it likes (between steps, never inside the clock), makes the memory values peaks of samples and
    catches processes that come and go. Energy wants a window of 5 s or more: the counter refreshes every 10 to 100 ms, and some
    devices look at a quarter of the time only; the scope states the window. `library`, `cuda`: pynvml, torch.cuda, or stand-ins.
    """

    def __init__(
        self,
        device: torch.device | str,
        library: Any = None,
        cuda: Any = torch.cuda,
        process_id: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device = torch.device(device)
        self._library = library
        self._cuda = cuda
        self._process_id = os.getpid() if process_id is None else process_id
        self._clock = clock
        self._clear()
        self._faults["all"] = "the meter was not started"

    def _clear(self) -> None:
        self._faults: dict[str, str] = {}  # what is null ("all", "process", "device", "energy") and the first reason
        self._own_seen = False
        self._unseen_processes = 0  # the most that were listed while the own process was not among them
        self._own_peak = 0
        self._device_peak = 0
        self._device_start = 0
        self._millijoules = 0
        self._since = 0.0

    def start(self) -> None:
        """Find the device, take its baseline and the energy counter."""
        self._clear()
        if self._device.type != "cuda":
            self._faults["all"] = f"run on the {self._device.type.upper()}"
            return
        try:
            if not self._cuda.is_available():
                self._faults["all"] = "CUDA is not available"
                return
            self._cuda.synchronize(self._device)  # makes the context, so that NVML lists this process
            if self._library is None:
                self._library = load_library()
            self._library.nvmlInit()
            self._handle = device_handle(self._library, self._device, self._cuda)
            self._examine_slices()
            self._device_start = int(self._library.nvmlDeviceGetMemoryInfo(self._handle).used)
        except Exception as error:  # no module, no driver, no match, a broken device: whatever it was, the run goes on
            self._faults["all"] = f"NVML cannot be used ({type(error).__name__}: {error})"
            return
        self.sample()
        try:
            self._millijoules = int(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._library.NVMLError as error:
            self._faults.setdefault("energy", f"no energy counter (NVML: {error})")
        self._since = self._clock()

    def sample(self) -> None:
        """Read the memory of device and processes, tens of microseconds; an error makes what it touches null for good."""
        if "all" in self._faults:
            return
        library = self._library
        try:
            self._device_peak = max(self._device_peak, int(library.nvmlDeviceGetMemoryInfo(self._handle).used))
        except library.NVMLError as error:
            self._faults.setdefault("device", f"NVML: {error}")
        try:
            processes = {process.pid: process for process in library.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except library.NVMLError as error:
            self._faults.setdefault("process", f"NVML: {error}")
            self._faults.setdefault("energy", f"other processes on the device cannot be ruled out (NVML: {error})")
            return
        own = processes.get(self._process_id)
        if own is None:
            self._unseen_processes = max(self._unseen_processes, len(processes))
        else:
            self._own_seen = True
            if own.usedGpuMemory is None:
                self._faults.setdefault("process", "the driver does not report memory by process (WDDM, WSL)")
            else:
                self._own_peak = max(self._own_peak, int(own.usedGpuMemory))
        if len(processes) > 1:
            self._faults.setdefault("energy", f"{len(processes)} compute processes on the device, the counter is for all of them")

    def read(self) -> dict[str, Measure]:
        """Memory and energy since `start`, each with a value or a reason."""
        energy, seconds = self._window()
        self.sample()
        scope = f"device, window of {seconds:.1f} s"
        if not self._own_seen and not self._unseen_processes:
            scope += ", sole use unchecked (NVML lists no compute process)"
        reason = self._why("energy")
        power = energy / seconds if energy is not None and seconds > 0 else None
        return {
            **self._memory(),
            "energy_J": measured(None if reason else energy, "J", "NVML total energy counter, end minus start", scope, reason),
            "mean_power_W": measured(None if reason else power, "W", "NVML total energy counter over wall clock", scope, reason),
        }

    def _examine_slices(self) -> None:
        try:
            current, _ = self._library.nvmlDeviceGetMigMode(self._handle)
        except self._library.NVMLError:
            return  # a device that cannot be sliced does not support the question
        if current:
            self._faults["energy"] = "MIG is on: the counter is the whole device's"
            self._faults["device"] = "MIG is on: the memory is all slices'"

    def _window(self) -> tuple[float | None, float]:
        """Joules and seconds since `start`."""
        if "all" in self._faults:
            return None, 0.0
        try:
            self._cuda.synchronize(self._device)
        except Exception as error:
            self._faults.setdefault("energy", f"CUDA failed at the end ({error})")
        seconds = self._clock() - self._since
        if "energy" in self._faults:
            return None, seconds
        try:
            millijoules = int(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) - self._millijoules
        except self._library.NVMLError as error:
            self._faults["energy"] = f"NVML: {error}"
            return None, seconds
        if millijoules < 0:
            self._faults["energy"] = "the energy counter went backwards (driver reloaded?)"
        elif millijoules == 0 or seconds <= 0:
            self._faults["energy"] = f"the energy counter did not move in a window of {seconds:.3f} s"
        return millijoules / 1000, seconds

    def _why(self, quantity: str) -> str | None:
        return self._faults.get("all") or self._faults.get(quantity)

    def _memory(self) -> dict[str, Measure]:
        value, method, scope, reason = self._process()
        device_why = self._why("device")
        return {
            "nvml_process_bytes": measured(None if reason else value, "B", method, scope, reason),
            "nvml_device_bytes": measured(
                None if device_why else self._device_peak,
                "B",
                "NVML device memory used, peak of samples",
                "device, all processes and the driver",
                device_why,
            ),
        }

    def _process(self) -> tuple[int | None, str, str, str | None]:
        """Value, method, scope and reason of this process's memory."""
        own = "NVML compute process usedGpuMemory, peak of samples", "process, CUDA context and libraries included"
        reason = self._why("process")
        if self._own_seen or reason:
            return self._own_peak, *own, reason
        if self._unseen_processes == 0:
            return None, *own, "NVML lists no compute process (process ids are host ids; this is a container?)"
        if self._unseen_processes > 1:
            return None, *own, f"own process id not among the {self._unseen_processes} compute processes (host ids; a container?)"
        if reason := self._why("device"):
            return None, *own, f"own process id not visible, and no device delta: {reason}"
        delta = "NVML device memory used minus used at start, peak of samples (own process id not visible, one compute process)"
        return self._device_peak - self._device_start, delta, "device, above what was used at start, CUDA context excluded", None
