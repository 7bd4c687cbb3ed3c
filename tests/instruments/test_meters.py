"""Meters read clocks and memory; what they cannot read is None with a reason. CUDA is a stand-in here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.instruments.meters import Clocks, CudaMemory, HostMemory
from bench.instruments.nvml import Nvml
from bench.records.record import Measure

MIB = 1 << 20


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestClocks:
    def clocks(self) -> tuple[Clocks, Clock]:
        clock = Clock()
        return Clocks(clock=clock), clock

    def test_each_phase_gets_its_own_time_and_a_nested_one_stops_the_outer(self) -> None:
        clocks, clock = self.clocks()
        clock.now += 50  # before any phase: nobody's
        with clocks.phase("build"):
            clock.now += 1
        clock.now += 7  # between phases: nobody's
        for _ in range(2):
            with clocks.phase("train"):
                clock.now += 10
                with clocks.phase("evaluation"):
                    clock.now += 3
                clock.now += 0.5
        measures = clocks.read()
        assert {name: measure.value for name, measure in measures.items() if measure.value is not None} == {
            "build_s": 1,
            "train_s": 21,
            "evaluation_s": 6,
        }
        assert measures["train_s"].unit == "s"

    def test_a_phase_inside_itself_counts_once(self) -> None:
        clocks, clock = self.clocks()
        with clocks.phase("train"), clocks.phase("train"):
            clock.now += 2
        assert clocks.seconds("train") == 2

    def test_an_open_phase_counts_so_far(self) -> None:
        clocks, clock = self.clocks()
        with clocks.phase("train"):
            clock.now += 4
            assert clocks.seconds("train") == 4
            clock.now += 1
            assert clocks.read()["train_s"].value == 5
        assert clocks.seconds("train") == 5

    def test_an_exception_keeps_the_time_and_the_outer_phase(self) -> None:
        clocks, clock = self.clocks()

        def fail() -> None:
            with clocks.phase("evaluation"):
                clock.now += 2
                raise RuntimeError

        with clocks.phase("train"):
            with pytest.raises(RuntimeError):
                fail()
            clock.now += 3
        assert (clocks.seconds("evaluation"), clocks.seconds("train")) == (2, 3)

    def test_queued_work_falls_to_the_phase_that_queued_it(self) -> None:
        clock = Clock()
        queued = [0.0]

        def synchronize() -> None:
            clock.now += queued[0]
            queued[0] = 0.0

        clocks = Clocks(synchronize, clock)
        with clocks.phase("train"):
            queued[0] = 5
            with clocks.phase("evaluation"):
                queued[0] = 2
            queued[0] = 1
        assert (clocks.seconds("train"), clocks.seconds("evaluation")) == (6, 2)
        assert "synchronised" in clocks.read()["train_s"].method

    def test_each_change_of_phase_is_announced_and_so_is_the_return_to_the_outer_one(self) -> None:
        seen: list[str | None] = []
        clocks = Clocks(clock=Clock(), entered=seen.append)

        def fail() -> None:
            with clocks.phase("train"), clocks.phase("waiting"):
                raise RuntimeError

        with clocks.phase("train"), clocks.phase("evaluation"):
            pass
        with pytest.raises(RuntimeError):
            fail()
        assert seen == ["train", "evaluation", "train", None, "train", "waiting", "train", None]

    def test_a_broken_device_does_not_hide_the_failure(self) -> None:
        broken = False

        def synchronize() -> None:
            if broken:
                raise RuntimeError("device-side assert")

        def run() -> None:
            nonlocal broken
            with Clocks(synchronize, Clock()).phase("train"):
                broken = True
                raise ValueError("the true failure")

        with pytest.raises(ValueError, match="the true failure"):
            run()

    def test_a_phase_never_entered_is_none_with_a_reason(self) -> None:
        clocks, _ = self.clocks()
        assert clocks.seconds("train") is None
        assert clocks.read()["train_s"].reason == "the run never reached its train phase"


class TestHostMemory:
    def process(self, folder: Path, resident: int, mark: int, resettable: bool = True) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "status").write_text(f"Name:\tpython\nVmPeak:\t 9999999 kB\nVmHWM:\t   {mark} kB\nVmRSS:\t   {resident} kB\n")
        if resettable:
            (folder / "clear_refs").touch()
        else:
            (folder / "clear_refs").mkdir(exist_ok=True)  # writing to it fails
        return folder

    def peak(self, meter: HostMemory) -> Measure:
        return meter.read()["host_peak_bytes"]

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
    @pytest.mark.alone  # a process that has freed much reads no high-water mark for a while
    def test_a_freed_block_is_seen(self) -> None:
        first, second = HostMemory(), HostMemory()
        first.start()
        block = b"\x01" * (64 * MIB)
        del block
        seen = self.peak(first)
        second.start()  # the block was before
        if "not reset" in seen.method:
            pytest.skip("this kernel lets nobody reset the mark")
        assert 60 * MIB < (seen.value or 0) < 80 * MIB
        assert (self.peak(second).value or 0) < 30 * MIB

    def test_the_mark_is_reset_and_the_baseline_subtracted(self, tmp_path: Path) -> None:
        meter = HostMemory(self.process(tmp_path, resident=1000, mark=1000))
        meter.start()
        assert (tmp_path / "clear_refs").read_text() == "5"
        self.process(tmp_path, resident=1200, mark=3000)
        measure = self.peak(meter)
        assert measure.value == 2000 * 1024
        assert measure.method == "VmHWM minus VmRSS at start (mark reset at start)"

    def test_a_mark_that_cannot_be_reset_must_move(self, tmp_path: Path) -> None:
        meter = HostMemory(self.process(tmp_path, resident=1000, mark=5000, resettable=False))
        meter.start()
        hidden = self.peak(meter)
        assert hidden.value is None
        assert "could not be reset" in str(hidden.reason)
        self.process(tmp_path, resident=1000, mark=6000, resettable=False)
        passed = self.peak(meter)
        assert passed.value == 5000 * 1024
        assert "not reset" in passed.method

    @pytest.mark.parametrize("platform", ["darwin", "win32"])
    def test_on_other_platforms_it_is_none(self, platform: str) -> None:
        meter = HostMemory(platform=platform)
        meter.start()
        measure = self.peak(meter)
        assert measure.value is None
        assert platform in str(measure.reason)

    def test_an_unreadable_status_is_null(self, tmp_path: Path) -> None:
        meter = HostMemory(tmp_path / "absent", platform="linux")
        meter.start()
        assert "cannot be read" in str(self.peak(meter).reason)
        meter = HostMemory(self.process(tmp_path, 1, 1))
        meter.start()
        (tmp_path / "status").write_text("Name:\tpython\n")
        assert "VmHWM" in str(self.peak(meter).reason)


class Cuda:
    """A stand-in for torch.cuda: one device, an allocator whose statistics the test sets, and a diary."""

    def __init__(self, **statistics: int) -> None:
        self.statistics = statistics
        self.diary: list[str] = []
        self.broken = False

    def synchronize(self, device: torch.device) -> None:
        self.diary.append("synchronize")
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def empty_cache(self) -> None:
        self.diary.append("empty_cache")

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.diary.append("reset")

    def memory_stats(self, device: torch.device) -> dict[str, int]:
        return {f"{name.replace('__', '.')}": value for name, value in self.statistics.items()}


class TestCudaMemory:
    NAMES = (
        *("cuda_requested_peak_bytes", "cuda_allocated_peak_bytes", "cuda_reserved_peak_bytes"),
        *("cuda_baseline_bytes", "cublas_workspace_bytes"),
    )

    def test_the_peaks_are_read_after_a_reset(self) -> None:
        cuda = Cuda(allocated_bytes__all__current=512)
        meter = CudaMemory("cuda:0", cuda, lambda: cuda.diary.append("free"))
        meter.start()
        assert cuda.diary == ["synchronize", "free", "empty_cache", "reset"]
        cuda.statistics = {
            "requested_bytes__all__peak": 1000,
            "allocated_bytes__all__peak": 1024,
            "reserved_bytes__all__peak": 2 * MIB,
            "allocated_bytes__all__current": 700,
        }
        measures = meter.read()
        assert [measures[name].value for name in self.NAMES] == [1000, 1024, 2 * MIB, 512, 0]
        assert {measure.unit for measure in measures.values()} == {"B"}
        assert cuda.diary[4:] == ["synchronize", "free"]

    def test_the_workspaces_of_cublas_are_left_out_of_the_tensors_peaks_and_of_the_baseline(self) -> None:
        """Two threads' workspaces of 32 MiB: there at the start, freed, and made again by the first products."""
        cuda = Cuda()
        tensors, workspaces, peak = 5 * MIB, 64 * MIB, 0

        def update() -> None:
            nonlocal peak
            peak = max(peak, tensors + workspaces)
            cuda.statistics = {
                "allocated_bytes__all__current": tensors + workspaces,
                "requested_bytes__all__peak": peak - 100,
                "allocated_bytes__all__peak": peak,
                "reserved_bytes__all__peak": peak + 7 * MIB,
            }

        def free() -> None:
            nonlocal workspaces
            workspaces = 0
            update()

        def reset(device: torch.device) -> None:
            nonlocal peak
            peak = 0
            update()

        cuda.reset_peak_memory_stats = reset  # type: ignore[method-assign]
        update()
        meter = CudaMemory("cuda", cuda, free)
        meter.start()
        for threads in (2, 1, 0):  # later reads are of the same window, and see only the workspaces made since the one before
            tensors, workspaces = 20 * MIB, threads * 32 * MIB
            update()
            tensors = 6 * MIB
            update()
            measures = meter.read()
            expected = [20 * MIB - 100, 20 * MIB, 91 * MIB, 5 * MIB, 64 * MIB]
            assert [measures[name].value for name in self.NAMES] == expected
        assert "without cuBLAS's workspaces" in measures["cuda_allocated_peak_bytes"].method
        assert "without" not in measures["cuda_reserved_peak_bytes"].method

    def test_a_missing_statistic_makes_one_measure_none(self) -> None:
        cuda = Cuda(allocated_bytes__all__current=0, allocated_bytes__all__peak=8, reserved_bytes__all__peak=8)
        meter = CudaMemory("cuda", cuda, lambda: None)
        meter.start()
        measures = meter.read()
        assert measures["cuda_requested_peak_bytes"].reason == "the allocator keeps no requested_bytes.all.peak"
        assert measures["cuda_allocated_peak_bytes"].value == 8
        assert measures["cuda_baseline_bytes"].value == 0  # a measured zero stays a zero

    def test_all_null_with_the_reason(self) -> None:
        def broken_at_start() -> CudaMemory:
            cuda = Cuda()
            cuda.broken = True
            return CudaMemory("cuda", cuda)

        for meter, reason in (
            (CudaMemory("cpu", Cuda()), "run on the CPU"),
            (broken_at_start(), "CUDA failed at start (CUDA error: an illegal memory access was encountered)"),
        ):
            meter.start()
            assert {name: measure.reason for name, measure in meter.read().items()} == dict.fromkeys(self.NAMES, reason)

    def test_a_device_that_breaks_during_the_run_is_null(self) -> None:
        cuda = Cuda(allocated_bytes__all__peak=8, allocated_bytes__all__current=8)
        meter = CudaMemory("cuda", cuda, lambda: None)
        meter.start()
        cuda.broken = True
        assert all("illegal memory access" in str(measure.reason) for measure in meter.read().values())


def test_every_meter_gives_a_value_or_a_reason() -> None:
    started: list[Any] = [HostMemory(), CudaMemory("cpu"), Nvml("cpu")]
    for meter in started:
        meter.start()
    for meter in [Clocks(), *started]:
        for measure in meter.read().values():
            assert measure.value is not None or measure.reason
            assert measure.method
            assert measure.scope
