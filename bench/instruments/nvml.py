"""Read memory and energy from NVML, as nvidia-smi shows them.

Handled here: NVML lists host process ids inside containers, CUDA numbers devices in another order, the energy counter covers all
processes on the device, and counters may be missing. Each gives a labelled method, or None with a reason.
"""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.records.record import Measure, measured

_TOLERATED_PERCENT = 5  # of the GPU's processors, used by others


def load_library() -> Any:
    """The `pynvml` module of nvidia-ml-py, imported on first use, so that a machine without it can still run."""
    return importlib.import_module("pynvml")


def device_handle(library: Any, device: torch.device, cuda: Any) -> Any:
    """NVML's handle of torch's device, by UUID or else PCI address; LookupError where neither is known.

    Never by index: CUDA orders devices by speed and CUDA_VISIBLE_DEVICES renumbers them; NVML orders them by PCI address.
    """
    properties = cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    if uuid is not None:
        name = str(uuid)
        try:
            return library.nvmlDeviceGetHandleByUUID(name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}")
        except library.NVMLError:
            pass  # NVML has another UUID for a MIG slice; the PCI address is that of the whole device
    domain, bus, slot = (getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is not None and bus is not None and slot is not None:
        return library.nvmlDeviceGetHandleByPciBusId(f"{domain:08x}:{bus:02x}:{slot:02x}.0")
    raise LookupError("torch gives neither a UUID that NVML knows nor a PCI address for the device")


class Nvml:
    """Memory of this process and its device, and the device's energy, between `start` and `read`.

    `sample`, called between steps outside the clocks, makes the memory values peaks over samples and detects other processes. For
    energy use a window of at least 5 s: the counter refreshes every 10 to 100 ms, and some devices measure a quarter of the time;
    the scope states the window. `count_energy` leaves out what the energy is not for. `library`, `cuda`: pynvml, torch.cuda, or
    stand-ins.
    """

    def __init__(
        self,
        device: torch.device | str,
        library: Any = None,
        cuda: Any = torch.cuda,
        process_id: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._library, self._cuda, self._clock = torch.device(device), library, cuda, clock
        self._process_id = os.getpid() if process_id is None else process_id
        self._faults = {"all": "the meter was not started"}  # the first reason why "all", "process", "device" or "energy" is None
        self._counting = False

    def start(self) -> None:
        """Find the device, and read its memory and energy counter."""
        self._faults = {}
        self._own_listed = self._counting = False
        self._other_processes = 0  # the most listed in a sample without this process
        self._own_peak = self._device_peak = self._device_start = 0
        self._counted, self._paused = (0, 0.0), False
        if self._device.type != "cuda":
            self._faults["all"] = f"run on the {self._device.type.upper()}"
            return
        try:
            self._cuda.synchronize(self._device)  # makes the context, so that NVML lists this process
            if self._library is None:
                self._library = load_library()
            self._library.nvmlInit()
            self._handle = device_handle(self._library, self._device, self._cuda)
            self._check_mig()
            self._device_start = int(self._library.nvmlDeviceGetMemoryInfo(self._handle).used)
        except Exception as error:  # no module, no driver, no such device, a broken device: the run continues
            self._faults["all"] = f"NVML cannot be used ({type(error).__name__}: {error})"
            return
        self.sample()
        self.count_energy(True)

    def count_energy(self, counting: bool) -> None:
        """Pause the window of the energy, or go on; the caller has synchronised the device."""
        if "all" in self._faults or counting == self._counting:
            return
        if counting:
            self._millijoules_before, self._since = self._read_counter(), self._clock()
        else:
            self._counted, self._paused = self._count(), True
        self._counting = counting

    def _count(self) -> tuple[int, float]:
        """Millijoules and seconds of the window so far."""
        millijoules, seconds = self._counted
        if self._counting:
            grown = self._read_counter() - self._millijoules_before
            if grown < 0:
                self._faults.setdefault("energy", "the energy counter went backwards (driver reloaded?)")
            millijoules, seconds = millijoules + grown, seconds + self._clock() - self._since
        return millijoules, seconds

    def _read_counter(self) -> int:
        """The device's energy since the driver was loaded in mJ; 0 with a fault."""
        try:
            return int(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._library.NVMLError as error:
            self._faults.setdefault("energy", f"no energy counter (NVML: {error})")
            return 0

    def _check_mig(self) -> None:
        try:
            enabled, _ = self._library.nvmlDeviceGetMigMode(self._handle)
        except self._library.NVMLError:
            return  # the device does not support MIG
        if enabled:
            self._faults["energy"] = "MIG is on: the counter is the whole device's"
            self._faults["device"] = "MIG is on: the memory is all slices'"

    def sample(self) -> None:
        """Read the memory of device and processes in tens of microseconds; an error makes the quantity None until `start`."""
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
            self._other_processes = max(self._other_processes, len(processes))
        else:
            self._own_listed = True
            if own.usedGpuMemory is None:
                self._faults.setdefault("process", "the driver does not report memory by process (WDDM, WSL)")
            else:
                self._own_peak = max(self._own_peak, int(own.usedGpuMemory))
        if len(processes) > 1:
            self._faults.setdefault("energy", f"{len(processes)} compute processes on the device, the counter is for all of them")

    @property
    def sees_others(self) -> bool:
        """Whether `busy_others` can tell: NVML works and lists this process by its id, which it does not in most containers."""
        return "all" not in self._faults and self._own_listed

    def busy_others(self, since_us: int) -> str | None:
        """That other processes used the GPU's processors since a time (microseconds since 1970); None where they did not, or where
        NVML cannot tell: without samples, or where it does not list this process by its id."""
        if not self.sees_others:
            return None
        try:
            samples = self._library.nvmlDeviceGetProcessUtilization(self._handle, since_us)
        except self._library.NVMLError:  # also where there is no sample
            return None
        share = max((int(sample.smUtil) for sample in samples if sample.pid != self._process_id), default=0)
        return f"another process used {share} % of the GPU" if share > _TOLERATED_PERCENT else None

    def read(self) -> dict[str, Measure]:
        """Memory and energy since `start`, each with a value or a reason."""
        energy, seconds = self._energy()
        self.sample()
        scope = f"device, window of {seconds:.1f} s{', pauses left out' if self._paused else ''}"
        if not self._own_listed and not self._other_processes:
            scope += ", sole use unchecked (NVML lists no compute process)"
        power = energy / seconds if seconds > 0 else 0.0
        device = "NVML device memory used, peak of samples", "device, all processes and the driver"
        return {
            "nvml_process_bytes": self._process_memory(),
            "nvml_device_bytes": self._measure("device", self._device_peak, "B", *device),
            "energy_J": self._measure("energy", energy, "J", "NVML total energy counter, end minus start", scope),
            "mean_power_W": self._measure("energy", power, "W", "NVML total energy counter over wall clock", scope),
        }

    def _measure(self, quantity: str, value: float, unit: str, method: str, scope: str) -> Measure:
        reason = self._faults.get("all") or self._faults.get(quantity)
        return measured(None if reason else value, unit, method, scope, reason)

    def _energy(self) -> tuple[float, float]:
        """Joules and seconds of the window."""
        if "all" in self._faults:
            return 0.0, 0.0
        try:
            self._cuda.synchronize(self._device)
        except Exception as error:
            self._faults.setdefault("energy", f"CUDA failed at the end ({error})")
        millijoules, seconds = self._count()
        if millijoules == 0 or seconds <= 0:
            self._faults.setdefault("energy", f"the energy counter did not move in a window of {seconds:.3f} s")
        return millijoules / 1000, seconds

    def _process_memory(self) -> Measure:
        """This process's memory; the growth of the device's where its id is not visible and only one process is listed."""
        own = "NVML compute process usedGpuMemory, peak of samples", "process, CUDA context and libraries included"
        others = self._other_processes
        if self._own_listed or {"all", "process"} & self._faults.keys():
            return self._measure("process", self._own_peak, "B", *own)
        if others == 0:
            return measured(None, "B", *own, "NVML lists no compute process (process ids are host ids; this is a container?)")
        if others > 1:
            return measured(None, "B", *own, f"own process id not among the {others} compute processes (host ids; a container?)")
        if "device" in self._faults:
            return measured(None, "B", *own, f"own process id not visible, and no device delta: {self._faults['device']}")
        delta = "NVML device memory used minus used at start, peak of samples (own process id not visible, one compute process)"
        scope = "device, above what was used at start, CUDA context excluded"
        return measured(self._device_peak - self._device_start, "B", delta, scope)
