"""Check a task's chance and optimum against the scores of predictors that know frequencies, or every target."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import stdev

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bench.conformance.result import Result, check, judge
from bench.conformance.subject import Subject
from bench.records.metric import Metric
from bench.tasks.task import Split, Task

Predictor = Callable[[Tensor, Tensor], Tensor]  # logits (B, T, V) for inputs and targets
_SEQUENCES = 2048
_MAX_NUMBERS = 1 << 26  # in a table of frequencies, or in the logits of all sequences
_SMOOTHING = 0.01  # added to each count: a token that was not seen is improbable, not impossible
_RTOL = 0.02  # frequencies come from a finite sample


@dataclass(frozen=True)
class Score:
    """A metric of a predictor on the test split, and four standard errors of it."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.1g}"

    def agrees(self, value: float, scale: float | None = None) -> bool:
        """Whether it is the value within its error and a share of `scale` (the value itself)."""
        return abs(self.value - value) <= self.error + _RTOL * abs(value if scale is None else scale) + 1e-6


def _sequences(task: Task, split: Split) -> tuple[Tensor, Tensor]:
    number = max(64, min(_SEQUENCES, _MAX_NUMBERS // (task.length * task.vocabulary)))
    inputs, targets = zip(*islice(task.batches(split, 64, 0), -(-number // 64)), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def predictors(task: Task) -> dict[str, Predictor]:
    """Predictors by what they know, with frequencies from the training split."""
    V, T = task.vocabulary, task.length
    inputs, targets = _sequences(task, "train")
    places = torch.arange(T)

    def frequencies(given: Tensor, rows: int) -> Tensor:
        """Logarithms of the smoothed counts (rows, V) of the targets, given the row."""
        counts = torch.bincount((given * V + targets).flatten(), minlength=rows * V).view(rows, V)
        return counts.double().add(_SMOOTHING).log()

    overall = frequencies(torch.zeros_like(targets), 1)
    found: dict[str, Predictor] = {
        "uniform": lambda some, _: torch.zeros(*some.shape, V, dtype=torch.float64),
        "frequencies": lambda some, _: overall[torch.zeros_like(some)],
    }
    if T * V <= _MAX_NUMBERS // 16 and len(targets) // 8 >= V:
        by_place = frequencies(places.expand_as(targets), T)
        found["frequencies by place"] = lambda some, _: by_place[places.expand_as(some)]
    if targets.numel() // 8 >= V * V:
        by_input = frequencies(inputs, V)
        found["frequencies by input"] = lambda some, _: by_input[some]
    return found


def scores(task: Task, predictor: Predictor, parts: int = 8) -> dict[str, Score]:
    """Every metric of a predictor on up to 2048 test sequences, its error from their parts."""
    inputs, targets = _sequences(task, "test")
    sums = []
    for some, wanted in zip(*(part.tensor_split(min(parts, len(inputs))) for part in (inputs, targets)), strict=True):
        sums.append({name: (total.item(), n) for name, (total, n) in task.score(predictor(some, wanted), wanted).items()})
    total = {name: (sum(part[name][0] for part in sums), sum(part[name][1] for part in sums)) for name in sums[0]}
    values, *each = (task.summarise({name: amount / n for name, (amount, n) in part.items() if n}) for part in (total, *sums))
    found = {}
    for name, value in values.items():
        of_parts = [one[name] for one in each if name in one]
        error = 4 * stdev(of_parts) / math.sqrt(len(of_parts)) if len(of_parts) > 1 else abs(value)
        found[name] = Score(value, error)
    return found


@check("batches", "ids", "same seed", "score")
def chance(subject: Subject) -> Result:
    """Chance is the score of frequencies alone, by token or by place.

    Chance is the entropy of the targets given their frequencies alone, by position too and without the input; None if unknown.
    """
    task: Task = subject.make()
    declared = {name: metric.chance for name, metric in task.metrics.items() if metric.chance is not None}
    if not declared:
        return Result("skip", "", "no chance is declared")
    known = predictors(task)
    found = {name: scores(task, known[name]) for name in ("frequencies", "frequencies by place") if name in known}
    for metric, value in declared.items():
        if not any(one[metric].agrees(value) for one in found.values()):
            measured = ", ".join(f"{one[metric]} by {name}" for name, one in found.items())
            return judge(False, f"{metric}: declared {value:.4g}, measured {measured}")
    first = task.headline if task.headline in declared else next(iter(declared))
    name = next(name for name, one in found.items() if one[first].agrees(declared[first]))
    return judge(True, f"{first} {declared[first]:.4g}, measured {found[name][first]} by {name}")


@check("batches", "ids", "same seed", "score")
def optimum(subject: Subject) -> Result:
    """The optimum can be reached, and frequencies alone do not beat it.

    The optimum is the conditional entropy of the targets given the inputs so far; None if unknown.
    """
    task: Task = subject.make()
    declared = {name: metric.optimum for name, metric in task.metrics.items() if metric.optimum is not None}
    if not declared:
        return Result("skip", "", "no optimum is declared")
    simple = {name: scores(task, predictor) for name, predictor in predictors(task).items()}
    perfect = scores(task, lambda inputs, targets: 60.0 * one_hot(targets, task.vocabulary).double())
    oracle = getattr(task, "oracle", None)
    best = scores(task, lambda inputs, targets: oracle(inputs)) if callable(oracle) else None
    for name, value in declared.items():
        wrong = _wrong_optimum(task.metrics[name], value, {key: one[name] for key, one in simple.items()}, perfect[name])
        if wrong is None and best is not None and not best[name].agrees(value):
            wrong = f"the task's oracle scores {best[name]}"
        if wrong is not None:
            return judge(False, f"{name}: declared {value:.4g}, yet {wrong}")
    first = task.headline if task.headline in declared else next(iter(declared))
    nearest = min(simple, key=lambda key: abs(simple[key][first].value - declared[first]))
    end = f", oracle {best[first]}" if best is not None else ""
    return judge(True, f"{first} {declared[first]:.4g}, nearest {simple[nearest][first]} by {nearest}{end}")


def _wrong_optimum(metric: Metric, value: float, simple: Mapping[str, Score], perfect: Score) -> str | None:
    sign = 1 if metric.better == "lower" else -1
    scale = max(abs(value), abs(metric.chance or 0.0))  # an excess has the optimum 0 and scatters all the same
    for name, score in simple.items():
        if sign * score.value < sign * value and not score.agrees(value, scale):
            return f"{name} alone score {score}"
    if sign * (perfect.value - value) > 1e-6:
        return f"knowing every target scores {perfect.value:.4g}"
    return None
