"""What one run shares between its parts: the spec, the task, the instruments, and how it is controlled from outside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from bench.instruments.contention import Contention
from bench.instruments.machine_lock import MachineLock
from bench.instruments.meters import Clocks, CudaMemory, HostMemory, Nvml
from bench.records.record import Measure
from bench.records.spec import RunSpec
from bench.tasks.task import Task
from bench.training.checkpoint import Checkpoint, Interrupt
from bench.training.distributed import Ranks

ProgressCallback = Callable[[int, int, float | None], None]  # step, steps, last training loss


def _ignore_progress(step: int, steps: int, loss: float | None) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class RunControl:
    """How a run is observed, saved, interrupted and distributed; decides none of its numbers.

    `blocked` is entered while another benchmark holds the machine.
    """

    progress: ProgressCallback = _ignore_progress
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    interrupt: Interrupt = field(default_factory=Interrupt)
    ranks: Ranks = field(default_factory=Ranks)
    blocked: Callable[[], AbstractContextManager[object]] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What building, training, evaluating and probing a model need to know of the run that they belong to."""

    spec: RunSpec
    task: Task
    progress: ProgressCallback
    checkpoint: Checkpoint
    interrupt: Interrupt
    ranks: Ranks
    clocks: Clocks
    machine: MachineLock
    contention: Contention
    host: HostMemory
    cuda: CudaMemory
    nvml: Nvml

    def read_peaks(self) -> dict[str, Measure]:
        """Peak memory and energy since the meters were started."""
        return self.host.read() | self.cuda.read() | self.nvml.read()

    def raise_if_interrupted(self) -> None:
        """Raise Interrupted in every rank where any rank was asked to stop."""
        self.ranks.raise_if_interrupted(self.interrupt)


def make_context(spec: RunSpec, task: Task, control: RunControl | None = None) -> TrainingContext:
    """The context of a run, with fresh instruments."""
    control = control or RunControl()
    clocks = Clocks(torch.cuda.synchronize if spec.device == "cuda" else None)
    ranks = control.ranks
    return TrainingContext(
        spec=spec,
        task=task,
        progress=control.progress,
        checkpoint=control.checkpoint,
        interrupt=control.interrupt,
        ranks=ranks,
        clocks=clocks,
        machine=MachineLock(alone=not ranks.first, waiting=lambda: clocks.phase("waiting"), blocked=control.blocked),
        contention=Contention(spec.threads * ranks.size, together=ranks.total),
        host=HostMemory(),
        cuda=CudaMemory(spec.device),
        nvml=Nvml(spec.device),
    )
