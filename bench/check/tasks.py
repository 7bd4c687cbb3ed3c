"""The contract of a task: batches that their seed decides, splits that do not share sequences, scores that add up."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bench.check import yardsticks
from bench.check.finding import Check, Outcome, told
from bench.metric import Metric
from bench.tasks.task import Split, Task

_SIZE = 8
_SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_MOST = 1000  # batches that a held-out split may have at a size of 64
_OVERLAP = 0.02


@dataclass(frozen=True, kw_only=True)
class Served:
    """A task as `make()` makes it."""

    make: Callable[[], Task]


def declaration(subject: Served) -> Outcome:
    """Sizes, metrics with yardsticks on the right side of each other, and a fingerprint that another instance has too."""
    task = subject.make()
    for name in ("vocabulary", "length"):
        value = getattr(task, name, None)
        if not isinstance(value, int) or value < 1:
            return told(False, f"{name} is {value!r}, not a positive integer")
    for name, metric in task.metrics.items():
        if not isinstance(metric, Metric):
            return told(False, f"metric {name!r} is a {type(metric).__name__}, not a bench.metric.Metric")
        if metric.chance is not None and metric.floor is not None:
            better = metric.chance - metric.floor if metric.better == "lower" else metric.floor - metric.chance
            if not better >= 0:
                return told(
                    False, f"{name}: {metric.better} is better, yet chance is {metric.chance:.4g} and floor {metric.floor:.4g}"
                )
    prints = task.fingerprint(), subject.make().fingerprint()
    if not isinstance(prints[0], str) or prints[0] != prints[1]:
        return told(False, f"fingerprints of two instances: {prints[0]!r:.40} and {prints[1]!r:.40}")
    return told(True, f"{task.vocabulary} ids, {task.length} positions, metrics {', '.join(task.metrics)}")


def _first(task: Task, split: Split, number: int, size: int = _SIZE, seed: int = 0, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(islice(task.batches(split, size, seed, first), number))


def batches(subject: Served) -> Outcome:
    """Pairs of (size, T) int64 on the CPU; training goes on, held-out splits end, their last batch perhaps smaller."""
    task, sequences = subject.make(), []
    for split in _SPLITS:
        held_out = list(islice(task.batches(split, 64, 0), _MOST + 1)) if split != "train" else _first(task, split, 3, 64)
        if not held_out or (split == "train" and len(held_out) < 3):
            return told(False, f"{split} gave {len(held_out)} batches of 64" + (" and ended" if split == "train" else ""))
        if len(held_out) > _MOST:
            return told(False, f"{split} has not ended after {_MOST} batches of 64")
        for number, pair in enumerate(held_out):
            wrong = _misshapen(task, pair, 64, last=split != "train" and number == len(held_out) - 1)
            if wrong:
                return told(False, f"{split}, batch {number}: {wrong}")
        sequences.append(f"{split} {sum(len(inputs) for inputs, _ in held_out):,}" if split != "train" else "train without end")
    return told(True, f"(size, {task.length}) int64; sequences: {', '.join(sequences)}")


def _misshapen(task: Task, pair: tuple[Tensor, Tensor], size: int, last: bool) -> str | None:
    for name, part in zip(("inputs", "targets"), pair, strict=True):
        if not isinstance(part, Tensor) or part.dtype != torch.int64 or part.device.type != "cpu":
            dtype = str(getattr(part, "dtype", type(part).__name__)).removeprefix("torch.")
            return f"{name} are {dtype}, not int64 on the CPU"
        rows = range(1, size + 1) if last else (size,)
        if part.dim() != 2 or part.shape[1] != task.length or len(part) not in rows or part.shape != pair[0].shape:
            return f"{name} are {tuple(part.shape)}, not ({size}, {task.length})"
    return None


def ids(subject: Served) -> Outcome:
    """Inputs and targets between 0 and the vocabulary."""
    task = subject.make()
    found = [part for split in _SPLITS for pair in _first(task, split, 8) for part in pair]
    low, high = min(int(part.min()) for part in found), max(int(part.max()) for part in found)
    return told(low >= 0 and high < task.vocabulary, f"{low}..{high}, vocabulary {task.vocabulary}")


def same_seed(subject: Served) -> Outcome:
    """A batch depends on split, size, seed and number alone: twice, from another instance, and when begun at it."""
    task, other = subject.make(), subject.make()
    for split in _SPLITS:
        reference = _first(task, split, 3)
        if not _equal(reference, _first(task, split, 3)):
            return told(False, f"{split}: the same call gives other batches")
        torch.manual_seed(5)
        if not _equal(reference, _first(other, split, 3)):
            return told(False, f"{split}: another instance gives other batches")
        if not _equal(reference[2:], _first(other, split, 1, first=2)[: len(reference[2:])]):
            return told(False, f"{split}: begun at number 2, not the batch that is number 2")
    return told(True, "the same batches")


def _equal(some: Sequence[tuple[Tensor, Tensor]], others: Sequence[tuple[Tensor, Tensor]]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a, b) for pair, like in zip(some, others, strict=True) for a, b in zip(pair, like, strict=True)
    )


def seeds(subject: Served) -> Outcome:
    """The seed decides the training batches, and nothing of what is held out."""
    task = subject.make()
    if _equal(_first(task, "train", 2, seed=0), _first(task, "train", 2, seed=1)):
        return told(False, "training batches of seeds 0 and 1 are the same")
    moved = [split for split in _SPLITS[1:] if not _equal(_first(task, split, 2, seed=0), _first(task, split, 2, seed=1))]
    return told(not moved, f"{moved[0]} changes with the seed" if moved else "train differs, valid and test do not")


def splits(subject: Served) -> Outcome:
    """No more sequences in two splits than chance puts there, which is told from how often a split repeats itself."""
    task = subject.make()
    rows = {split: _rows(task, split) for split in _SPLITS}
    said = []
    pairs: tuple[tuple[Split, Split], ...] = (("test", "train"), ("valid", "train"), ("test", "valid"))
    for first, second in pairs:
        shared, distinct = Counter(rows[first]), set(rows[second])
        overlap = sum(count for row, count in shared.items() if row in distinct) / len(rows[first])
        expected = 3 * len(distinct) * min(_coincidence(rows[first]), _coincidence(rows[second]))
        if _OVERLAP + expected >= 0.9:
            return Outcome("skip", "", "so few different sequences that splits must share them")
        if overlap > _OVERLAP + expected:
            share, allowed = f"{100 * overlap:.0f} %", f"{100 * (_OVERLAP + expected):.0f} %"
            return told(False, f"{share} of the {first} sequences are in {second} (chance: below {allowed})")
        said.append(f"{first} in {second} {100 * overlap:.1g} %")
    return told(True, ", ".join(said))


def _rows(task: Task, split: Split) -> list[bytes]:
    """Up to 2048 sequences of a split, each as bytes."""
    pairs = _first(task, split, 32, 64)
    return [row.numpy().tobytes() for inputs, targets in pairs for row in torch.cat((inputs, targets), dim=1)]


def _coincidence(rows: Sequence[bytes]) -> float:
    """An upper estimate of how probably two draws are the same sequence: three pairs more than were seen."""
    equal = sum(count * (count - 1) // 2 for count in Counter(rows).values())
    return (equal + 3) / max(1, len(rows) * (len(rows) - 1) // 2)


def score(subject: Served) -> Outcome:
    """Sums (float64 scalars) and counts of a batch are those of its parts added up, and every metric comes of them."""
    task = subject.make()
    ((_, targets),) = _first(task, "test", 1)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(*targets.shape, task.vocabulary, generator=random)
    whole = task.score(logits, targets)
    for name, (total, count) in whole.items():
        if not isinstance(total, Tensor) or total.dim() or total.dtype != torch.float64:
            return told(False, f"{name}: the sum is {_described(total)}, not a float64 scalar")
        if not isinstance(count, int) or count < 0:
            return told(False, f"{name}: the count is {count!r}, not a number of things")
    half = len(targets) // 2
    parts = [task.score(logits[some], targets[some]) for some in (slice(half), slice(half, None))]
    for name, (total, count) in whole.items():
        added = sum(part[name][0].item() for part in parts), sum(part[name][1] for part in parts)
        if added[1] != count or not math.isclose(added[0], total.item(), rel_tol=1e-6, abs_tol=1e-6):
            return told(False, f"{name}: {total.item():.5g} over {count}, of two halves {added[0]:.5g} over {added[1]}")
    means = {name: total.item() / count for name, (total, count) in whole.items() if count}
    missing = sorted(set(task.metrics) - set(task.summarise(means)))
    return told(not missing, f"summarise gives no {missing[0]!r}" if missing else f"{', '.join(whole)} add up")


def _described(total: Any) -> str:
    return f"{tuple(total.shape)} {total.dtype}".replace("torch.", "") if isinstance(total, Tensor) else type(total).__name__


def _check(name: str, expected: str, cause: str, run: Callable[[Served], Outcome], *needs: str) -> Check[Served]:
    return Check(name=name, expected=expected, cause=cause, run=run, needs=needs)


_BATCHED = ("declaration", "batches", "ids")
TASK: tuple[Check[Served], ...] = (
    _check(
        "declaration",
        "vocabulary, length, metrics, fingerprint",
        "__init__ sets self.vocabulary, self.length and self.metrics = {name: Metric(unit=…, better=…, chance=…, floor=…)}; "
        "fingerprint is the SHA-256 of what decides the data, the same in every process (hash() is not).",
        declaration,
    ),
    _check(
        "batches",
        "(inputs, targets), each (size, length) int64",
        "batches(split, size, seed, first=0) yields pairs of integer tensors; `train` never ends, `valid` and `test` do, and only "
        "their last batch may be smaller.",
        batches,
        "declaration",
    ),
    _check(
        "ids",
        "ids in 0..vocabulary - 1",
        "The vocabulary leaves out a symbol (padding, a delimiter), or counts from 1. An embedding would raise at the first such "
        "batch.",
        ids,
        "declaration",
        "batches",
    ),
    _check(
        "same seed",
        "a batch is a function of split, size, seed and number",
        "A generator on self that goes on from call to call, torch's global one, hash(), or `first` left out of account. Make a "
        "generator for each batch from bench.tasks.task.derive_seed(name, split, seed, size, number).",
        same_seed,
        *_BATCHED,
    ),
    _check(
        "seeds",
        "training follows the seed, held-out splits do not",
        "The seed does not go into the training batches, so that runs of several seeds see the same data, or it goes into valid "
        "and test, so that they are judged on different ones.",
        seeds,
        *_BATCHED,
        "same seed",
    ),
    _check(
        "splits",
        "no sequences shared beyond chance",
        "The split is not part of the seed that its sequences are drawn from, or the data were cut after they were shuffled and "
        "repeated. A model could learn the test by heart: put the split's name into derive_seed.",
        splits,
        *_BATCHED,
        "same seed",
    ),
    _check(
        "score",
        "sums and counts that add up over batches",
        "score returns {name: (sum, count)}, the sum in float64 over everything it counts, not a mean: cross_entropy(…, "
        'reduction="sum") with targets.numel(). Metrics that derive from others come from summarise.',
        score,
        *_BATCHED,
    ),
    _check(
        "chance",
        "what frequencies alone score, by token or by place",
        "The closed form leaves something out: positions that are always the same, or tokens that are not equally frequent. "
        "Chance is the entropy of the targets to one who knows their frequencies and ignores the input; None where it is not "
        "known.",
        yardsticks.chance,
        *_BATCHED,
        "same seed",
        "score",
    ),
    _check(
        "floor",
        "reached by none that should not, and reachable",
        "A simple predictor beats it (then it is no bound: the entropy is lower), or knowing every target does not reach it (then "
        "nothing does). The floor is the conditional entropy of the targets given the inputs so far; None where it is not known.",
        yardsticks.floor,
        *_BATCHED,
        "same seed",
        "score",
    ),
)
