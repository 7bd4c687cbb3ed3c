"""Trained models to look at: trained by the harness's own run, kept in a folder while experiments need them."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from baselines import Unrolled
from bench.catalog import build_task
from bench.checkpoint import Checkpoint
from bench.context import RunControl
from bench.environment import environment
from bench.identity import Identity
from bench.model import LanguageModel, build_model
from bench.provenance import identify
from bench.record import Record, read_record, write_record
from bench.run import run
from bench.spec import Named, Spec
from bench.tasks.task import Split, Task, derive_seed
from deq import DEQ, Cell, Solver, Stop
from deq.adjoint import Adjoint

_SUITE = "claims"


class Untrained(Exception):
    """The training did not end ok, and there is no model to look at; the message says how it ended."""


class Models:
    """The models that specs name, each trained once: a record and a checkpoint in the folder, by the run's id.

    Trained anew after an interruption they are the same to the last bit, on a CPU. `data` says where corpora lie.
    """

    def __init__(self, folder: Path, data: Mapping[str, Path]) -> None:
        self.folder, self.data = folder, data
        self._tasks: dict[str, Task] = {}
        self._identities: dict[str, Identity] = {}
        self._here: dict[str, object] | None = None

    def __reduce__(self) -> tuple[type["Models"], tuple[Path, Mapping[str, Path]]]:
        """To another process goes where things lie, not what was read of them."""
        return Models, (self.folder, self.data)

    def task(self, named: Named) -> Task:
        """The task; UserError where its corpus cannot be had."""
        name = named.model_dump_json()
        if name not in self._tasks:
            self._tasks[name] = build_task(named, self.data)
        return self._tasks[name]

    def identity(self, spec: Spec) -> Identity:
        """What the training's numbers come from."""
        if spec.key not in self._identities:
            self._here = self._here or environment(spec.device, spec.threads)
            self._identities[spec.key] = identify(spec, self.task(spec.task), self._here)
        return self._identities[spec.key]

    def record(self, spec: Spec) -> Record:
        """The training's record; trains where there is none."""
        identity = self.identity(spec)
        path = self._path(spec, identity, "json")
        if path.is_file():
            return read_record(path)
        checkpoint = Checkpoint(self._path(spec, identity, "pt"), identity.run_id(spec.key))
        found = run(spec, suite=_SUITE, data=self.data, identity=identity, control=RunControl(checkpoint=checkpoint))
        write_record(path, found)
        return found

    def trained(self, spec: Spec) -> LanguageModel:
        """The model after its training, in evaluation mode; Untrained where that failed."""
        record = self.record(spec)
        if record.status != "ok":
            raise Untrained(f"training ended {record.status}: {record.why}")
        state = Checkpoint(self._path(spec, record.identity, "pt"), record.run_id).load()
        if state is None:
            raise Untrained("its checkpoint is gone")
        model = self.fresh(spec)
        model.load_state_dict(state["model"])
        return model

    def fresh(self, spec: Spec) -> LanguageModel:
        """The model as the training began with it."""
        torch.manual_seed(derive_seed("model", spec.seed))
        return build_model(spec.model, self.task(spec.task).vocabulary).eval()

    def sequences(self, named: Named, split: Split, count: int) -> tuple[Tensor, Tensor]:
        """The first so many inputs and targets of a split, (B, T) each."""
        return next(self.task(named).batches(split, count, seed=0))

    def _path(self, spec: Spec, identity: Identity, ending: str) -> Path:
        return self.folder / f"{identity.run_id(spec.key)}.{ending}"


def cell_of(model: LanguageModel) -> Cell:
    """The cell that a DEQ solves for, or that a weight-tied network applies."""
    core = model.core
    if not isinstance(core, (DEQ, Unrolled)):
        raise TypeError(f"a {type(core).__name__} has no cell")
    return core.cell


def solved(
    model: LanguageModel, *, solver: Solver, stop: Stop, adjoint: Adjoint | None = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """A copy of the model whose cell is solved for so, whether it was trained solved or applied; in evaluation mode."""
    found = copy.deepcopy(model).to(dtype)
    found.core = DEQ(cell_of(found), solver=solver, stop=stop, adjoint=adjoint)
    return found.eval()


def number(value: float | Tensor) -> float | None:
    """A float of seven digits, which is what float32 holds; None where it is not finite, which JSON cannot say."""
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def median(values: Tensor) -> float | None:
    """The median over samples."""
    return number(values.double().quantile(0.5)) if values.numel() and bool(torch.isfinite(values).all()) else None
