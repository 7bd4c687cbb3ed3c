"""The contract of a task: batches that depend on the seed alone, disjoint splits, scores that add up."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bench.conformance.compare import same_bytes
from bench.conformance.reference_predictors import chance, first_part, optimum
from bench.conformance.result import Result, check, require
from bench.conformance.subject import Subject
from bench.records.metric import Metric
from bench.tasks.task import Split, Task

Pairs = list[tuple[Tensor, Tensor]]
_SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_MAX_BATCHES = 1000  # of 64, in a held-out split
_OVERLAP = 0.02


def _first(task: Task, split: Split, number: int, size: int = 8, seed: int = 0, first: int = 0) -> Pairs:
    return list(islice(first_part(task, split, size, seed, first), number))


def _equal(some: Pairs, others: Pairs) -> bool:
    return len(some) == len(others) and all(map(same_bytes, some, others))


@check()
def declaration(subject: Subject) -> str:
    """Vocabulary, length, metrics and fingerprint are declared.

    Set self.vocabulary, self.length and self.metrics = {name: Metric(unit=…, better=…, chance=…, optimum=…)} in __init__;
    fingerprint is the SHA-256 of what decides the data, the same in every process (hash() is not).
    """
    task: Task = subject.make()
    for name in ("vocabulary", "length"):
        value = getattr(task, name, None)
        require(isinstance(value, int) and value > 0, f"{name} is {value!r}, not a positive integer")
    for name, metric in task.metrics.items():
        kind = type(metric).__name__
        require(isinstance(metric, Metric), f"metric {name!r} is a {kind}, not a bench.records.metric.Metric")
        if metric.chance is not None and metric.optimum is not None:
            sign = 1 if metric.better == "higher" else -1
            values = f"chance is {metric.chance:.4g} and optimum {metric.optimum:.4g}"
            require(sign * metric.chance <= sign * metric.optimum, f"{name}: {metric.better} is better, yet {values}")
    one, other = task.fingerprint(), subject.make().fingerprint()
    require(isinstance(one, str) and one == other, f"fingerprints of two instances: {one!r:.40} and {other!r:.40}")
    return f"{task.vocabulary} ids, {task.length} positions, metrics {', '.join(task.metrics)}"


@check()
def batches(subject: Subject) -> str:
    """Batches are (inputs, targets), each (size, length) int64.

    batches(split, size, seed, first=0) yields pairs of integer tensors; only `train` is endless, and only the last batch of `valid`
    and `test` may be smaller. A test split of several parts (set self.parts) is checked in its first.
    """
    task, sequences = subject.make(), []
    for split in _SPLITS:
        endless = split == "train"
        found = _first(task, split, 3 if endless else _MAX_BATCHES + 1, 64)
        enough = len(found) == 3 if endless else found
        require(enough, f"{split} gave {len(found)} batches of 64" + (" and ended" if endless else ""))
        require(len(found) <= _MAX_BATCHES, f"{split} has not ended after {_MAX_BATCHES} batches of 64")
        for number, pair in enumerate(found):
            smallest = 1 if not endless and number == len(found) - 1 else 64
            _check_pair(f"{split}, batch {number}:", task, pair, range(smallest, 65))
        sequences.append("train without end" if endless else f"{split} {sum(len(inputs) for inputs, _ in found):,}")
    return f"(size, {task.length}) int64; sequences: {', '.join(sequences)}"


def _check_pair(where: str, task: Task, pair: tuple[Tensor, Tensor], sizes: range) -> None:
    for name, part in zip(("inputs", "targets"), pair, strict=True):
        right = isinstance(part, Tensor) and part.dtype == torch.int64 and part.device.type == "cpu"
        require(right, f"{where} {name} are {_described(part)}, not int64 on the CPU")
        right = part.dim() == 2 and part.shape[1] == task.length and len(part) in sizes and part.shape == pair[0].shape
        require(right, f"{where} {name} are {tuple(part.shape)}, not ({sizes[-1]}, {task.length})")


def _described(part: Any) -> str:
    return f"{tuple(part.shape)} {part.dtype}".replace("torch.", "") if isinstance(part, Tensor) else type(part).__name__


@check("batches")
def ids(subject: Subject) -> str:
    """Ids are in 0..vocabulary - 1.

    Count from 0, and include padding and delimiters in the vocabulary.
    """
    task: Task = subject.make()
    found = [part for split in _SPLITS for pair in _first(task, split, 8) for part in pair]
    low, high = min(int(part.min()) for part in found), max(int(part.max()) for part in found)
    return require(low >= 0 and high < task.vocabulary, f"{low}..{high}, vocabulary {task.vocabulary}")


@check("batches", "ids")
def same_seed(subject: Subject) -> str:
    """A batch is a function of split, size, seed and number.

    Make a generator for each batch from bench.tasks.task.derive_seed(name, split, seed, size, number).
    """
    task, other = subject.make(), subject.make()
    for split in _SPLITS:
        reference = _first(task, split, 3)
        require(_equal(reference, _first(task, split, 3)), f"{split}: a second call gives other batches")
        torch.manual_seed(5)
        require(_equal(reference, _first(other, split, 3)), f"{split}: another instance gives other batches")
        third = _first(other, split, 1, first=2)[: len(reference[2:])]
        require(_equal(reference[2:], third), f"{split}: first=2 does not begin with batch number 2")
    return "the same batches"


@check("batches", "ids", "same seed")
def seeds(subject: Subject) -> str:
    """Training follows the seed, held-out splits do not.

    Put the seed into derive_seed for train, and a constant for valid and test.
    """
    task: Task = subject.make()
    follows = {split: not _equal(_first(task, split, 2, seed=0), _first(task, split, 2, seed=1)) for split in _SPLITS}
    require(follows.pop("train"), "training batches of seeds 0 and 1 are the same")
    for split, moved in follows.items():
        require(not moved, f"{split} changes with the seed")
    return "train differs, valid and test do not"


@check("batches", "ids", "same seed")
def splits(subject: Subject) -> str | Result:
    """Splits have no sequences in common beyond chance.

    Put the split's name into derive_seed, and cut the data before they are shuffled or repeated.
    """
    task: Task = subject.make()
    rows: dict[str, list[bytes]] = {  # up to 2048 sequences of each split
        split: [row.numpy().tobytes() for pair in _first(task, split, 32, 64) for row in torch.cat(pair, dim=1)]
        for split in _SPLITS
    }
    found = []
    for first, second in (("test", "train"), ("valid", "train"), ("test", "valid")):
        distinct = set(rows[second])
        overlap = sum(row in distinct for row in rows[first]) / len(rows[first])
        allowed = _OVERLAP + 3 * len(distinct) * min(_coincidence(rows[first]), _coincidence(rows[second]))
        if allowed >= 0.9:
            return Result("skip", "", "there are so few different sequences that splits must share them")
        share = f"{100 * overlap:.0f} % of the {first} sequences are in {second}"
        require(overlap <= allowed, f"{share} (chance: below {100 * allowed:.0f} %)")
        found.append(f"{first} in {second} {100 * overlap:.1g} %")
    return ", ".join(found)


def _coincidence(rows: Sequence[bytes]) -> float:
    """An upper estimate of the probability that two draws are the same sequence: three pairs more than were seen."""
    equal = sum(math.comb(count, 2) for count in Counter(rows).values())
    return (equal + 3) / max(1, math.comb(len(rows), 2))


@check("batches", "ids")
def score(subject: Subject) -> str:
    """Scores are sums and counts that add up over batches.

    Return {name: (sum, count)} with the sum in float64, not a mean (cross_entropy(…, reduction="sum"), targets.numel()); metrics
    that derive from others come from summarise.
    """
    task: Task = subject.make()
    ((_, targets),) = _first(task, "test", 1)
    logits = torch.randn(*targets.shape, task.vocabulary, generator=torch.Generator().manual_seed(0))
    half = len(targets) // 2
    whole, *parts = (task.score(logits[rows], targets[rows]) for rows in (slice(None), slice(half), slice(half, None)))
    for name, (total, count) in whole.items():
        scalar = isinstance(total, Tensor) and not total.dim() and total.dtype == torch.float64
        require(scalar, f"{name}: the sum is {_described(total)}, not a float64 scalar")
        require(isinstance(count, int) and count >= 0, f"{name}: the count is {count!r}, not a non-negative integer")
        sums, counts = sum(part[name][0].item() for part in parts), sum(part[name][1] for part in parts)
        same = counts == count and math.isclose(sums, total.item(), rel_tol=1e-6, abs_tol=1e-6)
        require(same, f"{name}: {total.item():.5g} over {count}, of two halves {sums:.5g} over {counts}")
    means = {name: total.item() / count for name, (total, count) in whole.items() if count}
    missing = sorted(set(task.metrics) - set(task.summarise(means)))
    require(task.parts > 1 or not missing, f"summarise gives no {', '.join(map(repr, missing))}")
    return f"{', '.join(whole)} add up"


TASK = (declaration, batches, ids, same_seed, seeds, splits, score, chance, optimum)
