"""Check a task's chance and optimum against the scores of predictors that know frequencies, or every target."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import stdev
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bench.conformance.result import Result, check, require
from bench.conformance.subject import Subject
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


def first_part(task: Task, split: Split, size: int, seed: int = 0, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a split; of a test split of several parts those of the first, which ends with a smaller batch or where the
    scores have other names."""
    names: set[str] = set()
    for inputs, targets in task.batches(split, size, seed, first):
        if split == "test" and task.parts > 1:
            found = {*task.score(torch.zeros(*targets.shape, task.vocabulary), targets)}
            if names and found != names:
                return
            names = found
        yield inputs, targets
        if names and len(inputs) < size:
            return


def _sequences(task: Task, split: Split) -> tuple[Tensor, Tensor]:
    number = max(64, min(_SEQUENCES, _MAX_NUMBERS // (task.length * task.vocabulary)))
    inputs, targets = zip(*islice(first_part(task, split, 64), -(-number // 64)), strict=True)
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


def scores(task: Task, predictor: Predictor) -> dict[str, Score]:
    """Every metric of a predictor on up to 2048 test sequences, its error from eight parts of them."""
    inputs, targets = _sequences(task, "test")
    sums = []
    for some, wanted in zip(*(part.tensor_split(min(8, len(inputs))) for part in (inputs, targets)), strict=True):
        sums.append({name: (total.item(), n) for name, (total, n) in task.score(predictor(some, wanted), wanted).items()})
    total = {name: (sum(part[name][0] for part in sums), sum(part[name][1] for part in sums)) for name in sums[0]}
    values, *each = (task.summarise({name: amount / n for name, (amount, n) in part.items() if n}) for part in (total, *sums))
    found = {}
    for name, value in values.items():
        of_parts = [one[name] for one in each if name in one]
        error = 4 * stdev(of_parts) / math.sqrt(len(of_parts)) if len(of_parts) > 1 else abs(value)
        found[name] = Score(value, error)
    return found


def _declared(task: Task, bound: Literal["chance", "optimum"]) -> dict[str, float]:
    """The metrics that declare the bound, the headline first."""
    names = sorted(task.metrics, key=lambda name: name != task.headline)
    return {name: value for name in names if (value := getattr(task.metrics[name], bound)) is not None}


@check("batches", "ids", "same seed", "score")
def chance(subject: Subject) -> str | Result:
    """Chance is the score of frequencies alone, by token or by place.

    Chance is the entropy of the targets given their frequencies alone, by position too and without the input; None if unknown.
    """
    task: Task = subject.make()
    declared, known, agreeing = _declared(task, "chance"), predictors(task), {}
    if not declared:
        return Result("skip", "", "no chance is declared")
    found = {name: scores(task, known[name]) for name in ("frequencies", "frequencies by place") if name in known}
    declared = {metric: value for metric, value in declared.items() if metric in found["frequencies"]}
    for metric, value in declared.items():
        measured = {name: f"{one[metric]} by {name}" for name, one in found.items()}
        agreeing[metric] = [measured[name] for name, one in found.items() if one[metric].agrees(value)]
        require(agreeing[metric], f"{metric}: declared {value:.4g}, measured {', '.join(measured.values())}")
    first = next(iter(declared))
    return f"{first} {declared[first]:.4g}, measured {agreeing[first][0]}"


@check("batches", "ids", "same seed", "score")
def optimum(subject: Subject) -> str | Result:
    """The optimum can be reached, and frequencies alone do not beat it.

    The optimum is the conditional entropy of the targets given the inputs so far; None if unknown.
    """
    task: Task = subject.make()
    declared = _declared(task, "optimum")
    if not declared:
        return Result("skip", "", "no optimum is declared")
    simple = {name: scores(task, predictor) for name, predictor in predictors(task).items()}
    declared = {name: value for name, value in declared.items() if name in simple["uniform"]}
    perfect = scores(task, lambda inputs, targets: 60.0 * one_hot(targets, task.vocabulary).double())
    oracle = getattr(task, "oracle", None)
    best = scores(task, lambda inputs, targets: oracle(inputs)) if callable(oracle) else None
    for name, value in declared.items():
        metric, wrong = task.metrics[name], f"{name}: declared {value:.4g}, yet"
        sign = 1 if metric.better == "lower" else -1
        scale = max(abs(value), abs(metric.chance or 0.0))  # an excess has the optimum 0 and scatters all the same
        for kind, found in simple.items():
            beaten = sign * found[name].value < sign * value and not found[name].agrees(value, scale)
            require(not beaten, f"{wrong} {kind} alone score {found[name]}")
        reached = sign * (perfect[name].value - value) <= 1e-6
        require(reached, f"{wrong} knowing every target scores {perfect[name].value:.4g}")
        require(best is None or best[name].agrees(value), f"{wrong} the task's oracle scores {best and best[name]}")
    first = next(iter(declared))
    nearest = min(simple, key=lambda key: abs(simple[key][first].value - declared[first]))
    end = f", oracle {best[first]}" if best is not None else ""
    return f"{first} {declared[first]:.4g}, nearest {simple[nearest][first]} by {nearest}{end}"
