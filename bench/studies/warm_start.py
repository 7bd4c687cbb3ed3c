"""Evaluations that a trained DEQ saves on a text where a solve starts at the solution of the tokens before."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec
from bench.studies.config import DEQ_LABEL, Case, Config
from bench.studies.models import Models, NoValues, deq_of, solutions_of
from bench.studies.study import PlannedRow, Study, Values, means_of, number
from bench.training.language_model import LanguageModel
from deq import Anderson, Stop

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) each
# From the state before (B, T, N) to where the next solve starts; None is the cell's initial state.
SEGMENTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "initial": lambda state: None,
    "previous": lambda state: state,
    "last": lambda state: state[:, -1:].expand_as(state),
}
WINDOWS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "initial": lambda state: None,
    "shifted": lambda state: torch.cat((state[:, 1:], state[:, -1:]), dim=1),
}
_CELLS = ("transformer-xl", "trellis")
_TOLERANCES = (1e-1, 1e-2, 1e-3)
_SEEDS = 3


def study(config: Config) -> Study:
    """One row per text, cell and seed."""
    stops = tuple(Stop(rtol=rtol, max_steps=config.most) for rtol in _TOLERANCES)
    return Study(
        name="warm start",
        measure=measure,
        units={"rtol": "1", "steps": "evaluations a sample", "nfe": "evaluations a batch", "saved": "fraction", "loss": "nats"},
        settings={"cap": config.most, "segments": config.samples, "solver": "anderson", "trained at rtol": config.rtol},
        rows=tuple(
            PlannedRow(
                {"task": case.label, "cell": cell, "seed": seed}, (_spec(config, case, cell, seed),), (stops, config.samples)
            )
            for case in config.streams
            for cell in _CELLS
            for seed in config.seeds[:_SEEDS]
        ),
    )


def _spec(config: Config, case: Case, cell: str, seed: int) -> RunSpec:
    """Spec of a training with a carried memory, for a transformer as long as a segment."""
    settings = {**config.solves, "width": config.width, "cell": cell}
    if cell == "transformer-xl":
        settings |= {"cell.heads": config.heads, "cell.memory_length": case.task.settings["length"]}
    spec = config.spec(case, f"{DEQ_LABEL} {cell}", seed, ComponentConfig(name="deq", settings=settings))
    return spec.model_copy(update={"train": spec.train.model_copy(update={"carry": True})})


def measure(models: Models, spec: RunSpec, stops: tuple[Stop, ...], segments: int) -> Values:
    """Evaluations that a trained DEQ's solves take on consecutive parts of the validation split, by tolerance and by where a solve
    starts: at the cell's initial state, or from the solution of the part before. `segments`: parts that follow each other, with a
    carried memory; a solve starts at the previous segment's states ("previous") or at its last one in all positions ("last").
    `windows`: parts of the same length, each one token after the one before and without a memory; a solve starts at the states
    of the same tokens, the new one's at its neighbour's ("shifted"). `steps`: mean over samples; `nfe`: mean over batches; `saved`:
    the share of the steps that this start saves. The first part, which has none before it, does not count."""
    task, trained = models.task(spec.task), models.trained(spec)
    lanes = task.lanes("valid")
    batches = [batch for batch in islice(task.batches("valid", lanes, seed=0), segments + 1) if len(batch[0]) == lanes]
    if len(batches) < 2:
        raise NoValues("the validation split has a single segment")
    length = batches[0][0].shape[1]
    found: Values = {"segments": [], "windows": []}
    for stop in stops:
        model = deq_of(trained, Anderson(), stop)
        for kind, starts in (("segments", SEGMENTS), ("windows", WINDOWS)):
            points: list[Values] = []
            for start, make in starts.items():
                parts = batches if kind == "segments" else _windows(batches, length)
                point = _solve_in_turn(model, parts, make, carry=kind == "segments")
                points.append({"rtol": stop.rtol, "start": start, **point})
                points[-1]["saved"] = number(1 - points[-1]["steps"] / points[0]["steps"])
            found[kind] += points
    return found


def _windows(batches: list[Batch], length: int) -> Iterator[Batch]:
    """As many windows of the segments' text as there are segments, each one token after the one before."""
    inputs, targets = (torch.cat(part, dim=1) for part in zip(*batches, strict=True))
    for first in range(min(len(batches), inputs.shape[1] - length + 1)):
        yield inputs[:, first : first + length], targets[:, first : first + length]


@torch.no_grad()
def _solve_in_turn(model: LanguageModel, batches: Iterable[Batch], start: Callable[[Tensor], Tensor | None], carry: bool) -> Values:
    """Evaluate batch after batch, each solve started from the state before; means without the first."""
    memory = state = None
    losses = []
    with solutions_of(model) as solutions:
        for inputs, targets in batches:
            output = model.core(model.embed(inputs), memory, None if state is None else start(state))
            memory, state = output.memory if carry else None, output.state
            losses.append(F.cross_entropy(model.logits(output.y).flatten(0, 1), targets.flatten()))
    return means_of(solutions[1:]) | {"loss": number(torch.stack(losses[1:]).mean())}
