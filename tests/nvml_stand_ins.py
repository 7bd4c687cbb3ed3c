"""Stand-ins for torch.cuda and pynvml."""

from types import SimpleNamespace
from typing import Any

import torch

MIB = 1 << 20
GPU = "GPU-11111111-2222-3333-4444-555555555555"


class Cuda:
    """A stand-in for torch.cuda with one device."""

    def __init__(self, properties: Any = None) -> None:
        self.properties = properties or SimpleNamespace(uuid=GPU.removeprefix("GPU-"))
        self.broken = False

    def get_device_properties(self, device: torch.device) -> Any:
        return self.properties

    def synchronize(self, device: torch.device) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class NVMLError(Exception):
    pass


class Library:
    """A stand-in for pynvml: the state is plain attributes, and an operation named in `failing` raises NVMLError."""

    NVMLError = NVMLError
    own = 4242

    def __init__(self, failing: dict[str, str] | None = None) -> None:
        self.failing = failing or {}
        self.used = 1000 * MIB
        self.processes: dict[int, int | None] = {self.own: 600 * MIB}
        self.millijoules = 5_000_000
        self.sliced = [0, 0]
        self.asked: list[str] = []
        self.utilization: list[tuple[int, int, int]] = [(self.own, 90, 50)]  # process, percent, microseconds

    def _check(self, operation: str) -> None:
        if operation in self.failing:
            raise NVMLError(self.failing[operation])

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        self._check("uuid")
        return "handle"

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> str:
        self.asked.append(address)
        return "handle"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        self._check("mig")
        return self.sliced

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        self._check("memory")
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        self._check("processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]

    def nvmlDeviceGetProcessUtilization(self, handle: str, since_us: int) -> list[Any]:
        self._check("utilization")
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share, at in self.utilization if at > since_us]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._check("energy")
        return self.millijoules
