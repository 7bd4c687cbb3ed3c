"""A task's chance and floor beside what predictors that know little, or everything, score on its test split."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from bench.check.finding import Outcome, told
from bench.metric import Metric
from bench.tasks.task import Task

_SEQUENCES = 2048
_NUMBERS = 1 << 26  # in a table of frequencies, or in the logits of all sequences
_SMOOTHING = 0.01  # of a count: a token that was never seen costs something, not everything
_PARTS = 8
_ALLOWED = 0.02  # of a yardstick, for frequencies that come from a finite sample

Predictor = Callable[[Tensor, Tensor], Tensor]


class _Makes(Protocol):
    @property
    def make(self) -> Callable[[], Task]: ...


@dataclass(frozen=True)
class Scored:
    """A metric of a predictor on the test split, and four standard errors of it."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.1g}"


def _pooled(task: Task, split: str, most: int) -> tuple[Tensor, Tensor]:
    pairs = list(islice(task.batches(split, 64, 0), -(-most // 64)))  # type: ignore[arg-type]
    return torch.cat([inputs for inputs, _ in pairs]), torch.cat([targets for _, targets in pairs])


def _most(task: Task) -> int:
    return max(64, min(_SEQUENCES, _NUMBERS // (task.length * task.vocabulary)))


def predictors(task: Task) -> dict[str, Predictor]:
    """Logits (B, T, V) for inputs and targets, by what the predictor knows, with frequencies from the training split."""
    size, length = task.vocabulary, task.length
    inputs, targets = _pooled(task, "train", _most(task))
    every = (
        functional.one_hot(targets.flatten(), size).sum(0).double()
        if size <= 4096
        else torch.bincount(targets.flatten(), None, size)
    )
    found: dict[str, Predictor] = {
        "uniform": lambda some, _: torch.zeros(*some.shape, size, dtype=torch.float64),
        "frequencies": _by(every.double().add(_SMOOTHING).log(), lambda some: torch.zeros_like(some)),
    }
    if length * size <= _NUMBERS // 16 and size <= len(targets) // 8:
        places = torch.arange(length).expand_as(targets)
        found["frequencies by place"] = _by(
            _table(places, targets, length, size), lambda some: torch.arange(length).expand_as(some)
        )
    if size * size <= targets.numel() // 8:
        found["frequencies by input"] = _by(_table(inputs, targets, size, size), lambda some: some)
    return found


def _table(given: Tensor, targets: Tensor, rows: int, size: int) -> Tensor:
    """Logarithms of smoothed counts (rows, size) of the targets, given which row."""
    counts = torch.bincount((given * size + targets).flatten(), minlength=rows * size).view(rows, size)
    return counts.double().add(_SMOOTHING).log()


def _by(table: Tensor, row: Callable[[Tensor], Tensor]) -> Predictor:
    """Looks up each position's logits."""
    table = table if table.dim() == 2 else table.unsqueeze(0)
    return lambda inputs, targets: table[row(inputs)]


def knows_all(size: int) -> Predictor:
    """Sure of every target."""
    return lambda inputs, targets: 60.0 * functional.one_hot(targets, size).double()


def scored(task: Task, predictor: Predictor) -> dict[str, Scored]:
    """Every metric of a predictor on up to 2048 test sequences, its error from eight parts of them."""
    inputs, targets = _pooled(task, "test", _most(task))
    totals: dict[str, list[tuple[float, int]]] = {}
    parts = min(_PARTS, len(inputs))
    for some, wanted in zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True):
        for name, (total, count) in task.score(predictor(some, wanted), wanted).items():
            totals.setdefault(name, []).append((total.item(), count))
    value = _summarised(task, {name: (sum(t for t, _ in pairs), sum(c for _, c in pairs)) for name, pairs in totals.items()})
    each = [_summarised(task, {name: pairs[part] for name, pairs in totals.items()}) for part in range(parts)]
    found = {}
    for name, number in value.items():
        spread = torch.tensor([one[name] for one in each if name in one], dtype=torch.float64)
        error = 4 * spread.std().item() / math.sqrt(len(spread)) if len(spread) > 1 else abs(number)
        found[name] = Scored(number, error)
    return found


def _summarised(task: Task, sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    return task.summarise({name: total / count for name, (total, count) in sums.items() if count})


def chance(subject: _Makes) -> Outcome:
    """Every declared chance is met by a predictor that knows frequencies, of all targets or of those at each place."""
    task = subject.make()
    declared = {name: metric.chance for name, metric in task.metrics.items() if metric.chance is not None}
    if not declared:
        return Outcome("skip", "", "no chance is declared")
    known = predictors(task)
    found = {name: scored(task, known[name]) for name in ("frequencies", "frequencies by place") if name in known}
    for metric, value in declared.items():
        near = [name for name, scores in found.items() if _meets(scores[metric], value)]
        if not near:
            told_of = ", ".join(f"{scores[metric]} by {name}" for name, scores in found.items())
            return told(False, f"{metric}: declared {value:.4g}, measured {told_of}")
    first = task.headline if task.headline in declared else next(iter(declared))
    near = [name for name, scores in found.items() if _meets(scores[first], declared[first])]
    return told(True, f"{first} {declared[first]:.4g}, measured {found[near[0]][first]} by {near[0]}")


def _meets(scores: Scored, value: float) -> bool:
    return abs(scores.value - value) <= scores.error + _ALLOWED * abs(value) + 1e-6


def floor(subject: _Makes) -> Outcome:
    """No predictor by frequencies beats a declared floor, one that knows the targets reaches it, and the task's oracle meets it."""
    task = subject.make()
    declared = {name: metric for name, metric in task.metrics.items() if metric.floor is not None}
    if not declared:
        return Outcome("skip", "", "no floor is declared")
    simple = {name: scored(task, predictor) for name, predictor in predictors(task).items()}
    knowing = scored(task, knows_all(task.vocabulary))
    oracle = getattr(task, "oracle", None)
    best = scored(task, lambda inputs, targets: oracle(inputs)) if callable(oracle) else None
    for name, metric in declared.items():
        wrong = _floor_of(name, metric, {key: scores[name] for key, scores in simple.items()}, knowing[name])
        if wrong:
            return told(False, wrong)
        if best is not None and metric.floor is not None and not _meets(best[name], metric.floor):
            return told(False, f"{name}: declared {metric.floor:.4g}, the task's oracle scores {best[name]}")
    first = task.headline if task.headline in declared else next(iter(declared))
    nearest = min(simple, key=lambda key: abs(simple[key][first].value - (declared[first].floor or 0.0)))
    said = f"{first} {declared[first].floor:.4g}, nearest {simple[nearest][first]} by {nearest}"
    return told(True, said + (f", oracle {best[first]}" if best is not None else ""))


def _floor_of(name: str, metric: Metric, simple: Mapping[str, Scored], knowing: Scored) -> str | None:
    """What is wrong with a floor, in words."""
    assert metric.floor is not None
    sign = 1 if metric.better == "lower" else -1
    scale = max(abs(metric.floor), abs(metric.chance or 0.0))  # an excess has the floor 0, and scatters all the same
    for predictor, scores in simple.items():
        if sign * (metric.floor - scores.value) > scores.error + _ALLOWED * scale + 1e-6:
            return f"{name}: declared {metric.floor:.4g}, yet {predictor} alone score {scores}"
    if sign * (knowing.value - metric.floor) > 1e-6:
        return f"{name}: declared {metric.floor:.4g}, yet knowing every target scores {knowing.value:.4g}"
    return None
