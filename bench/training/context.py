"""What the parts of one run share: the spec, the task, the instruments, and how the run is controlled from outside."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from bench.instruments.contention import Contention
from bench.instruments.machine_lock import MachineLock
from bench.instruments.meters import Clocks, CudaMemory, HostMemory
from bench.instruments.nvml import Nvml
from bench.records.record import Measure
from bench.records.spec import RunSpec
from bench.tasks.task import Task
from bench.training.checkpoint import Checkpoint, Interrupt
from bench.training.distributed import Ranks

_NOT_TRAINING = ("evaluation", "checkpoint", "waiting")  # phases whose energy does not count
_ENERGY = ("energy_J", "mean_power_W")
ProgressCallback = Callable[[int, int, float | None], None]  # step, steps, last training loss


@dataclass(frozen=True, kw_only=True)
class RunControl:
    """How a run is observed, saved, interrupted and distributed; none of it affects the numbers.

    `blocked` is entered while another benchmark holds the machine.
    """

    progress: ProgressCallback = lambda step, steps, loss: None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    interrupt: Interrupt = field(default_factory=Interrupt)
    ranks: Ranks = field(default_factory=Ranks)
    blocked: Callable[[], AbstractContextManager[object]] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingContext(RunControl):
    """The control of a run with its spec, task and instruments, and how many runs share the machine."""

    spec: RunSpec
    task: Task
    concurrent_runs: int
    clocks: Clocks
    machine: MachineLock
    contention: Contention
    host: HostMemory
    cuda: CudaMemory
    nvml: Nvml

    def why_contended(self, local: bool = False) -> str | None:
        """Why the clocks since training began are unreliable, or None; `local` as of `Contention.read`."""
        measured = self.contention.read(local)  # by all ranks, whatever comes of it
        return self.sharing or measured

    @property
    def sharing(self) -> str | None:
        """That other runs share the machine, in words, or None."""
        return f"{self.concurrent_runs} runs side by side" if self.concurrent_runs > 1 else None

    def read_peaks(self, resumed: Mapping[str, float | None]) -> dict[str, Measure]:
        """Peak memory and energy since the meters were started; `resumed`: their values at the checkpoint of a resumed run.

        Of a resumed run, peaks are the largest over its attempts; sums and means over a window are None.
        """
        measures = self.host.read() | self.cuda.read() | self.nvml.read()
        for name, past in resumed.items():
            measure = measures[name]
            if name.endswith("_peak_bytes") or name.startswith("nvml_"):
                value = max((value for value in (past, measure.value) if value is not None), default=None)
                method, reason = f"{measure.method}; largest over the attempts of a resumed run", None
            else:
                value, method, reason = None, measure.method, "the run was resumed: its window has a gap"
            if value is not None or measure.value is not None:
                measures[name] = measure.model_copy(update={"value": value, "reason": reason, "method": method})
        return measures

    def energy_of_ranks(self, measures: Mapping[str, Measure]) -> dict[str, Measure]:
        """Energy and mean power summed over the processes, each with a GPU of its own; None where one is None."""
        parts = self.ranks.gather({name: measures[name].model_dump() for name in _ENERGY})
        found = {}
        for name in _ENERGY:
            each = [Measure(**part[name]) for part in parts]
            reason = next((one.reason for one in each if one.value is None), None)
            total = None if reason else sum(one.value or 0 for one in each)
            scope = f"{len(each)} devices, one a process; {each[0].scope}"
            found[name] = each[0].model_copy(update={"value": total, "reason": reason, "scope": scope})
        return found


def make_context(spec: RunSpec, task: Task, control: RunControl | None = None, concurrent_runs: int = 1) -> TrainingContext:
    """The context of a run, with new instruments."""
    control = control or RunControl()
    ranks, nvml = control.ranks, Nvml(spec.device)
    clocks = Clocks(
        torch.cuda.synchronize if spec.device == "cuda" else None,
        entered=lambda phase: nvml.count_energy(phase not in _NOT_TRAINING),
    )
    return TrainingContext(
        **vars(control),
        spec=spec,
        task=task,
        concurrent_runs=concurrent_runs,
        clocks=clocks,
        machine=MachineLock(external=not ranks.first, waiting=lambda: clocks.phase("waiting"), blocked=control.blocked),
        contention=Contention(spec.threads * ranks.size, sum_ranks=ranks.total),
        host=HostMemory(),
        cuda=CudaMemory(spec.device),
        nvml=nvml,
    )
