"""Trained models of the studies, kept as records and checkpoints while rows need them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from baselines import Looped, Unrolled
from bench.instruments.environment import environment
from bench.records.identity import Identity
from bench.records.record import Record, read_record, write_record
from bench.records.spec import ComponentConfig, RunSpec
from bench.tasks.task import Split, Task, derive_seed
from bench.training.checkpoint import Checkpoint
from bench.training.context import RunControl
from bench.training.language_model import LanguageModel, build_model
from bench.training.registry import build_task
from bench.training.run import run
from bench.training.run_identity import compute_identity
from deq import DEQ, Cell, Map, Solution, Solver, Stop


class NoValues(Exception):
    """A row has no values; the message is the reason."""


class Models:
    """Train each spec once and keep `<run id>.json` and `<run id>.pt` in the folder; `data`: paths of corpora by name."""

    def __init__(self, folder: Path, data: Mapping[str, Path]) -> None:
        self.folder, self.data = folder, data
        self._tasks: dict[str, Task] = {}

    def __reduce__(self) -> tuple[type["Models"], tuple[Path, Mapping[str, Path]]]:
        """Pickle the paths, not the tasks."""
        return Models, (self.folder, self.data)

    @cached_property
    def here(self) -> dict[str, object]:
        """This machine's environment."""
        return environment("cpu", 1)

    def task(self, named: ComponentConfig) -> Task:
        """The task; UserError where its corpus cannot be found."""
        key = named.model_dump_json()
        if key not in self._tasks:
            self._tasks[key] = build_task(named, self.data)
        return self._tasks[key]

    def identity(self, spec: RunSpec) -> Identity:
        """Identity of a training of the spec on this machine."""
        return compute_identity(spec, self.task(spec.task), self.here)

    def record(self, spec: RunSpec) -> Record:
        """Record of the training, which runs where there is none."""
        identity = self.identity(spec)
        run_id = identity.run_id(spec.key)
        path = self.folder / f"{run_id}.json"
        if not path.is_file():
            control = RunControl(checkpoint=Checkpoint(self.folder / f"{run_id}.pt", run_id))
            write_record(path, run(spec, suite="claims", data=self.data, identity=identity, control=control))
        return read_record(path)

    def trained(self, spec: RunSpec) -> LanguageModel:
        """The model after its training, in evaluation mode; NoValues where the training failed."""
        record = self.record(spec)
        if record.status != "ok":
            raise NoValues(f"training ended {record.status}: {record.reason}")
        state = Checkpoint(self.folder / f"{record.run_id}.pt", record.run_id).load()
        if state is None:
            raise NoValues("the checkpoint of the training is missing")
        model = self.fresh(spec)
        model.load_state_dict(state["model"])
        return model

    def fresh(self, spec: RunSpec) -> LanguageModel:
        """The model before training, in evaluation mode."""
        torch.manual_seed(derive_seed("model", spec.seed))
        return build_model(spec.model, self.task(spec.task).vocabulary).eval()

    def sequences(self, named: ComponentConfig, split: Split, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` inputs and targets of a split, (B, T) each."""
        return next(self.task(named).batches(split, count, seed=0))


def cell_of(model: LanguageModel) -> Cell:
    """The cell of a DEQ, a looped or a weight-tied network."""
    if not isinstance(model.core, (DEQ, Looped, Unrolled)):
        raise TypeError(f"a {type(model.core).__name__} has no cell")
    return model.core.cell


def bind(model: LanguageModel, inputs: Tensor) -> tuple[Cell, Map, Tensor]:
    """A model's cell, its map f for a batch of tokens (B, T), and the initial state (B, ...)."""
    x, cell = model.embed(inputs), cell_of(model)
    return cell, cell.bind(x), cell.initial_state(x)


def deq_of(model: LanguageModel, solver: Solver, stop: Stop) -> LanguageModel:
    """A copy of a DEQ or of a weight-tied network that solves for the fixed point of its cell; in evaluation mode."""
    found = copy.deepcopy(model)
    found.core = DEQ(cell_of(found), solver=solver, stop=stop)
    return found.eval()


@contextmanager
def solutions_of(model: LanguageModel) -> Iterator[list[Solution]]:
    """Collect the solutions of a DEQ's solves."""
    found: list[Solution] = []
    assert isinstance(model.core, DEQ)
    remove = model.core.watch(lambda phase, solution: found.append(solution))
    try:
        yield found
    finally:
        remove()
