"""Every failure of NVML gives None with a reason; the library and the device are stand-ins."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nvml_stand_ins import GPU, Cuda, Library

from bench.instruments import nvml
from bench.instruments.nvml import Nvml
from bench.records.record import Measure

MIB = 1 << 20
MEMORY = ("nvml_process_bytes", "nvml_device_bytes")
ENERGY = ("energy_J", "mean_power_W")


class TestNvml:
    def measure(self, library: Library, during: Callable[[Library], object] = lambda _: None, **others: Any) -> dict[str, Measure]:
        """A run of 8 s and 1600 J that `during` disturbs."""
        times = iter((100.0, 108.0))
        device, cuda = others.get("device", "cuda"), others.get("cuda", Cuda())
        meter = Nvml(device, library, cuda, process_id=Library.own, clock=times.__next__)
        meter.start()
        library.millijoules += 1_600_000
        during(library)
        return meter.read()

    def values(self, measures: dict[str, Measure], names: tuple[str, ...]) -> list[float | None]:
        return [measures[name].value for name in names]

    def reasons(self, measures: dict[str, Measure], names: tuple[str, ...]) -> set[str]:
        assert self.values(measures, names) == [None] * len(names)
        return {str(measures[name].reason) for name in names}

    def busy(self, library: Library, device: str = "cuda") -> str | None:
        meter = Nvml(device, library, Cuda(), process_id=Library.own)
        meter.start()
        return meter.busy_others(20)

    def test_other_processes_that_compute_are_named_and_idle_ones_are_not(self) -> None:
        library = Library()
        assert self.busy(library) is None
        library.utilization += [(7, 3, 40), (7, 80, 10)]  # little, and before the window
        assert self.busy(library) is None
        library.utilization.append((7, 60, 45))
        assert self.busy(library) == "another process used 60 % of the GPU"
        assert self.busy(library, "cpu") is None

    def test_where_others_cannot_be_told_nothing_is_claimed(self) -> None:
        library = Library({"utilization": "not found"})
        assert self.busy(library) is None
        hidden = Library()  # host ids: this process is among the others
        hidden.processes, hidden.utilization = {1: 600 * MIB}, [(1, 90, 50)]
        assert self.busy(hidden) is None
        for one, seen in ((hidden, False), (Library(), True), (Library({"init": "no driver"}), False)):
            meter = Nvml("cuda", one, Cuda(), process_id=Library.own)
            meter.start()
            assert meter.sees_others == seen

    def test_a_process_alone_on_its_device(self) -> None:
        measures = self.measure(Library())
        assert self.values(measures, MEMORY) == [600 * MIB, 1000 * MIB]
        assert self.values(measures, ENERGY) == [1600, 200]
        assert measures["energy_J"].scope == "device, window of 8.0 s"
        assert [measures[name].unit for name in (*MEMORY, *ENERGY)] == ["B", "B", "J", "W"]
        assert measures["nvml_process_bytes"].method == "NVML compute process usedGpuMemory, peak of samples"

    def test_pauses_are_left_out_of_energy_and_time(self) -> None:
        """3 s and 5 J of 30 s and 55,555 J count, also where it is read in a pause."""
        library, now = Library(), [0.0]
        meter = Nvml("cuda", library, Cuda(), process_id=Library.own, clock=lambda: now[0])

        def spend(seconds: float, joules: int) -> None:
            now[0] += seconds
            library.millijoules += 1000 * joules

        meter.count_energy(True)  # before the start: nothing
        meter.start()
        spend(1, 2)
        for _ in range(2):  # the second time changes nothing
            meter.count_energy(False)
            spend(10, 50_000)
        meter.count_energy(True)
        spend(2, 3)
        meter.count_energy(False)
        spend(17, 5_550)
        for _ in range(2):
            measures = meter.read()
            assert self.values(measures, ENERGY) == [5, pytest.approx(5 / 3)]
            assert measures["energy_J"].scope == "device, window of 3.0 s, pauses left out"
        meter.count_energy(True)
        spend(1, 1)
        assert [self.values(meter.read(), ENERGY) for _ in range(2)] == [[6, 1.5]] * 2

    def test_a_counter_that_decreases_in_a_pause_of_the_window_is_not_seen_and_one_before_it_is(self) -> None:
        for paused in (True, False):
            library = Library()
            meter = Nvml("cuda", library, Cuda(), process_id=Library.own)
            meter.start()
            library.millijoules += 3000
            meter.count_energy(not paused)
            library.millijoules -= 1_000_000
            meter.count_energy(True)
            library.millijoules += 4000
            found = meter.read()["energy_J"]
            assert found.value == (7 if paused else None)
            assert paused or "went backwards" in str(found.reason)

    def test_samples_make_a_peak(self) -> None:
        library = Library()
        meter = Nvml("cuda", library, Cuda(), process_id=Library.own)
        meter.start()
        library.used, library.processes = 3000 * MIB, {Library.own: 2500 * MIB}
        meter.sample()
        library.used, library.processes = 500 * MIB, {Library.own: 100 * MIB}
        assert self.values(meter.read(), MEMORY) == [2500 * MIB, 3000 * MIB]

    def test_no_driver(self) -> None:
        reason = "NVML cannot be used (NVMLError: NVML Shared Library Not Found)"
        measures = self.measure(Library({"init": "NVML Shared Library Not Found"}))
        assert self.reasons(measures, (*MEMORY, *ENERGY)) == {reason}

    def test_no_binding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent() -> Any:
            raise ModuleNotFoundError("No module named 'pynvml'")

        monkeypatch.setattr(nvml, "load_library", absent)
        meter = Nvml("cuda", cuda=Cuda())
        meter.start()
        meter.sample()
        reason = "NVML cannot be used (ModuleNotFoundError: No module named 'pynvml')"
        assert self.reasons(meter.read(), (*MEMORY, *ENERGY)) == {reason}

    def test_off_the_gpu(self) -> None:
        assert self.reasons(self.measure(Library(), device="cpu"), (*MEMORY, *ENERGY)) == {"run on the CPU"}

    def test_an_invisible_process_alone_gets_the_device_delta(self) -> None:
        library = Library()
        library.processes = {17: 600 * MIB}
        measures = self.measure(library, lambda library: setattr(library, "used", 1250 * MIB))
        assert self.values(measures, MEMORY) == [250 * MIB, 1250 * MIB]
        assert "minus used at start" in measures["nvml_process_bytes"].method
        assert "one compute process" in measures["nvml_process_bytes"].method
        assert measures["energy_J"].value == 1600

    def test_an_invisible_process_among_two_is_null(self) -> None:
        library = Library()
        library.processes = {17: 600 * MIB, 18: 100 * MIB}
        measures = self.measure(library)
        assert "not among the 2 compute processes" in self.reasons(measures, ("nvml_process_bytes",)).pop()
        assert "2 compute processes on the device" in self.reasons(measures, ENERGY).pop()
        assert measures["nvml_device_bytes"].value == 1000 * MIB

    def test_when_no_process_is_listed_sole_use_is_unchecked(self) -> None:
        library = Library()
        library.processes = {}
        measures = self.measure(library)
        assert "no compute process" in self.reasons(measures, ("nvml_process_bytes",)).pop()
        assert measures["energy_J"].value == 1600
        assert "sole use unchecked" in measures["energy_J"].scope

    def test_a_driver_that_hides_memory_by_process(self) -> None:
        library = Library()
        library.processes = {Library.own: None}
        measures = self.measure(library)
        assert "WDDM" in self.reasons(measures, ("nvml_process_bytes",)).pop()
        assert self.values(measures, ("nvml_device_bytes", *ENERGY)) == [1000 * MIB, 1600, 200]

    def test_no_energy_counter(self) -> None:
        measures = self.measure(Library({"energy": "Not Supported"}))
        assert self.reasons(measures, ENERGY) == {"no energy counter (NVML: Not Supported)"}
        assert self.values(measures, MEMORY) == [600 * MIB, 1000 * MIB]

    def test_a_sliced_device(self) -> None:
        library = Library()
        library.sliced = [1, 1]
        measures = self.measure(library)
        assert self.reasons(measures, ENERGY) == {"MIG is on: the counter is the whole device's"}
        assert self.reasons(measures, ("nvml_device_bytes",)) == {"MIG is on: the memory is all slices'"}
        assert measures["nvml_process_bytes"].value == 600 * MIB
        library.processes = {17: 600 * MIB}
        assert "no device delta: MIG is on" in self.reasons(self.measure(library), ("nvml_process_bytes",)).pop()

    def test_a_device_that_cannot_be_sliced(self) -> None:
        assert self.values(self.measure(Library({"mig": "Not Supported"})), ENERGY) == [1600, 200]

    @pytest.mark.parametrize("when", ["at the start", "in a sample", "at the end"])
    def test_another_process_on_the_device_makes_the_energy_none(self, when: str) -> None:
        library = Library()
        meter = Nvml("cuda", library, Cuda(), process_id=Library.own)
        for now in ("at the start", "in a sample", "at the end"):
            if now == when:
                library.processes[99] = 5 * MIB
            {"at the start": meter.start, "in a sample": meter.sample, "at the end": meter.read}[now]()
            if now != "at the end":
                library.processes.pop(99, None)
            library.millijoules += 10
        measures = meter.read()
        assert "2 compute processes" in self.reasons(measures, ENERGY).pop()
        assert measures["nvml_process_bytes"].value == 600 * MIB

    @pytest.mark.parametrize(
        ("operation", "null"),
        [("energy", ENERGY), ("memory", ("nvml_device_bytes",)), ("processes", ("nvml_process_bytes", *ENERGY))],
    )
    def test_an_error_during_the_run_is_null_for_what_it_touches(self, operation: str, null: tuple[str, ...]) -> None:
        measures = self.measure(Library(), lambda library: library.failing.update({operation: "GPU is lost"}))
        assert all("GPU is lost" in reason for reason in self.reasons(measures, null))
        assert None not in self.values(measures, tuple(set(measures) - set(null)))

    @pytest.mark.parametrize(("millijoules", "reason"), [(12, "went backwards"), (5_000_000, "did not move")])
    def test_a_counter_that_decreases_or_stops(self, millijoules: int, reason: str) -> None:
        measures = self.measure(Library(), lambda library: setattr(library, "millijoules", millijoules))
        assert reason in self.reasons(measures, ENERGY).pop()

    def test_a_cuda_failure_at_the_end(self) -> None:
        cuda = Cuda()
        measures = self.measure(Library(), lambda _: setattr(cuda, "broken", True), cuda=cuda)
        assert "illegal memory access" in self.reasons(measures, ENERGY).pop()

    def test_a_second_start_forgets_the_first(self) -> None:
        library = Library()
        library.processes[99] = 1
        meter = Nvml("cuda", library, Cuda(), process_id=Library.own)
        meter.start()
        del library.processes[99]
        meter.start()
        library.millijoules += 10
        assert meter.read()["energy_J"].value == 0.01


class TestDeviceHandle:
    def asked(self, library: Library, **properties: Any) -> list[str]:
        nvml.device_handle(library, torch.device("cuda"), Cuda(properties=SimpleNamespace(**properties)))
        return library.asked

    def test_by_uuid_in_either_spelling(self) -> None:
        assert self.asked(Library(), uuid=GPU.removeprefix("GPU-")) == [GPU]
        assert self.asked(Library(), uuid=GPU) == [GPU]

    def test_by_pci_address_when_the_uuid_is_absent_or_unknown(self) -> None:
        address = {"pci_domain_id": 0, "pci_bus_id": 0x3B, "pci_device_id": 0}
        assert self.asked(Library(), **address) == ["00000000:3b:00.0"]
        assert self.asked(Library({"uuid": "Not Found"}), uuid="x", **address)[-1] == "00000000:3b:00.0"

    def test_never_by_index(self) -> None:
        with pytest.raises(LookupError):
            self.asked(Library())
        library = Library()
        meter = Nvml("cuda", library, Cuda(properties=SimpleNamespace(name="old")))
        meter.start()
        assert "neither a UUID" in str(meter.read()["energy_J"].reason)

    def test_the_own_process_is_this_one(self) -> None:
        library = Library()
        library.processes = {os.getpid(): 3 * MIB}
        meter = Nvml("cuda", library, Cuda())
        meter.start()
        assert meter.read()["nvml_process_bytes"].value == 3 * MIB
