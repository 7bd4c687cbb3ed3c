"""Whether a network's limit depends on where it starts: path independence (Anil et al. 2022, arXiv 2211.09961)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, bind
from bench.studies.study import PlannedRow, Study, Values, median, number
from bench.tasks.task import Task
from bench.training.language_model import LanguageModel
from deq import DEQ, Anderson, Cell, Map, Picard, Solution, Stop, solve

_RTOL = 1e-6
_SAME = 1e-3  # relative distance, below which two limits count as one
_DRAWS = 3
_LOOPED = "looped"


def study(config: Config) -> Study:
    """One row per task, model and seed."""
    most = 2 * config.most
    arguments = (config.samples, Stop(rtol=_RTOL, max_steps=most))
    sizes = {"samples": config.samples, "split": "test", "draws": _DRAWS, "dtype": "float64"}
    return Study(
        name="path independence",
        measure=measure,
        units={"converged": "fraction", "distance": "1", "alignment": "1", "same": "fraction", "loss": "nats"},
        settings={"rtol": _RTOL, "cap": most, "same": _SAME, **sizes, "solver": "anderson", "depth": config.depth},
        rows=tuple(PlannedRow(subject, (spec,), arguments) for subject, spec in _trainings(config)),
    )


def _trainings(config: Config) -> Iterator[tuple[dict[str, object], RunSpec]]:
    """The DEQ and the looped network of its cell, of every task and seed."""
    looped = ComponentConfig(name="looped", settings=config.model(config.tied_label).settings)
    for case, subject, deq in config.deqs():
        for spec in (deq, config.spec(case, _LOOPED, deq.seed, looped)):
            yield {**subject, "model": spec.label}, spec


def measure(models: Models, spec: RunSpec, samples: int, stop: Stop) -> Values:
    """Limits of a trained network on test sequences, in float64, from several initial states: zero; `normal`, of the standard
    deviation of the states found from zero, several draws; `warm`, the state found from zero for the next sequence of the batch.
    A DEQ is solved by Anderson, a looped network iterated on. By start: the share that `converged`, and the task's scores over all
    sequences, converged or not. Against the states found from zero: the relative `distance` (median and largest over sequences, and
    draws), the `alignment` (mean cosine; from `warm` the asymptotic alignment score), and the share of pairs that converged to the
    `same` state (null: no pair converged)."""
    model, task = models.trained(spec).double(), models.task(spec.task)
    return {"metric": task.headline} | limits(model, task, *models.sequences(spec.task, "test", samples), stop)


@torch.no_grad()
def limits(model: LanguageModel, task: Task, inputs: Tensor, targets: Tensor, stop: Stop) -> Values:
    """Convergence, scores and agreement by start."""
    cell, f, zero = bind(model, inputs)
    solver = Anderson() if isinstance(model.core, DEQ) else Picard()
    first = solve(f, zero, solver, stop)
    found: Values = {"zero": _end(model, cell, f, task, targets, [first])}
    for name, starts in initial_states(first.z).items():
        ends = [solve(f, start, solver, stop) for start in starts]
        found[name] = _end(model, cell, f, task, targets, ends) | agreement(first, ends)
    return found


def initial_states(z: Tensor) -> dict[str, list[Tensor]]:
    """Initial states by name, at the scale of the states z (B, ...)."""
    random = torch.Generator().manual_seed(0)
    scale = z.square().mean().sqrt()
    draws = [scale * torch.randn(z.shape, generator=random, dtype=z.dtype) for _ in range(_DRAWS)]
    return {"normal": draws, "warm": [z.roll(-1, 0)]}


def agreement(first: Solution, ends: list[Solution]) -> Values:
    """Distance and angle between the states of one solve and those of others, over sequences and solves."""
    base = first.z.flatten(1)
    others = [end.z.flatten(1) for end in ends]
    distance = torch.cat([(other - base).norm(dim=1) / base.norm(dim=1) for other in others])
    cosine = torch.cat([F.cosine_similarity(other, base, dim=1) for other in others])
    both = torch.cat([end.converged & first.converged for end in ends])
    return {
        "distance": {"median": median(distance), "largest": number(distance.max())},
        "alignment": number(cosine.mean()),
        "same": number((distance[both] < _SAME).double().mean()) if both.any() else None,
    }


def _end(model: LanguageModel, cell: Cell, f: Map, task: Task, targets: Tensor, ends: list[Solution]) -> Values:
    """The share that converged and the scores, means over solves."""
    converged = torch.stack([end.converged for end in ends]).double().mean()
    scores = [scored(task, model.logits(cell.features(f(end.z))), targets) for end in ends]
    mean = {name: number(sum(score[name] for score in scores) / len(scores)) for name in scores[0]}
    return {"converged": number(converged), "scores": mean}


def scored(task: Task, logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The task's metrics of logits (B, T, V)."""
    return task.summarise({name: float(total) / count for name, (total, count) in task.score(logits, targets).items()})
