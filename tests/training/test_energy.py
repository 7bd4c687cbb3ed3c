"""The energy of a run is that of its training steps, on all its devices; NVML is a stand-in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nvml_stand_ins import Cuda, Library
from test_failures import TwoAlike
from test_run import own_locks, spec

import bench.training.context
import bench.training.trainer
from bench.instruments.nvml import Nvml
from bench.records.record import Measure, measured
from bench.training.checkpoint import Checkpoint
from bench.training.context import RunControl, make_context
from bench.training.registry import build_task
from bench.training.run import run

__all__ = ["own_locks"]  # a fixture


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """The counter of a GPU that a run on the CPU believes to have."""
    found = Library()
    monkeypatch.setattr(bench.training.context, "Nvml", lambda device: Nvml("cuda", found, Cuda(), process_id=Library.own))
    return found


def spending(library: Library, joules: int, call: Any) -> Any:
    def spend(*arguments: Any, **more: Any) -> Any:
        library.millijoules += 1000 * joules
        return call(*arguments, **more)

    return spend


def test_energy_is_that_of_the_steps_without_validations_and_checkpoints(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, joules in (("training_step", 1), ("evaluate", 100)):
        monkeypatch.setattr(bench.training.trainer, name, spending(library, joules, getattr(bench.training.trainer, name)))
    checkpoint = Checkpoint(tmp_path / "state", every_s=0.0)
    monkeypatch.setattr(checkpoint, "save", spending(library, 10_000, checkpoint.save))
    record = run(spec(train={"steps": 6, "evaluate_every": 2}, role="trial"), suite="s", control=RunControl(checkpoint=checkpoint))
    assert (record.status, record.value("energy_J")) == ("ok", 6)
    assert "pauses left out" in record.measures["energy_J"].scope


def test_waiting_for_the_machine_is_left_out_and_the_time_between_phases_is_not(library: Library) -> None:
    one = spec()
    context = make_context(one, build_task(one.task, {}))
    context.nvml.start()
    for phase, joules in (("train", 1), ("waiting", 20), (None, 300), ("checkpoint", 4000), ("evaluation", 50_000), ("warmup", 7)):
        if phase is None:
            library.millijoules += 1000 * joules
            continue
        with context.clocks.phase(phase):  # type: ignore[arg-type]
            library.millijoules += 1000 * joules
    with context.clocks.phase("train"), context.clocks.phase("waiting"):
        library.millijoules += 600_000_000
    assert context.nvml.read()["energy_J"].value == 308


@pytest.mark.parametrize(("values", "total"), [((3.0, 4.0), 7.0), ((None, 4.0), None), ((3.0, None), None)])
def test_energy_of_several_processes_is_the_sum_of_their_devices(values: tuple[Any, Any], total: float | None) -> None:
    def measures(value: float | None) -> dict[str, Measure]:
        reason = None if value else "no counter"
        return {name: measured(value, unit, "NVML", "device", reason) for name, unit in (("energy_J", "J"), ("mean_power_W", "W"))}

    class Two(TwoAlike):
        def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
            return [state, {name: one.model_dump() for name, one in measures(values[1]).items()}]

    one = spec()
    found = make_context(one, build_task(one.task, {}), RunControl(ranks=Two())).energy_of_ranks(measures(values[0]))
    for name in ("energy_J", "mean_power_W"):
        assert found[name].value == total
        assert found[name].reason == (None if total else "no counter")
        assert found[name].scope == "2 devices, one a process; device"


def test_a_run_of_several_processes_reports_the_sum(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    step = bench.training.trainer.training_step
    monkeypatch.setattr(bench.training.trainer, "training_step", spending(library, 1, step))
    record = run(spec(role="trial"), suite="s", control=RunControl(ranks=TwoAlike()))
    assert record.value("energy_J") == 2 * 4


def test_a_resumed_run_has_the_largest_peaks_of_its_attempts_and_no_energy() -> None:
    class Meter:
        def __init__(self, *names: str) -> None:
            self.names = names

        def read(self) -> dict[str, Measure]:
            return {name: measured(1.0, "1", "meter", "training") for name in self.names}

    one = spec()
    host, nvml = Meter("host_peak_bytes"), Meter("nvml_used_bytes", "energy_J")
    context: Any = replace(make_context(one, build_task(one.task, {})), host=host, cuda=Meter(), nvml=nvml)  # type: ignore[arg-type]
    found = context.read_peaks({"host_peak_bytes": 1e15, "nvml_used_bytes": 0.5, "energy_J": 5.0})
    assert [found[name].value for name in ("host_peak_bytes", "nvml_used_bytes", "energy_J")] == [1e15, 1.0, None]
    assert found["host_peak_bytes"].method == "meter; largest over the attempts of a resumed run"
    assert found["energy_J"].reason == "the run was resumed: its window has a gap"
