"""The contract of a task: batches that depend on the seed alone, disjoint splits, scores that add up."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bench.conformance.compare import same_bytes
from bench.conformance.reference_predictors import chance, optimum
from bench.conformance.result import Result, check, judge
from bench.conformance.subject import Subject
from bench.records.metric import Metric
from bench.tasks.task import Split, Task

Pairs = list[tuple[Tensor, Tensor]]
_SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_MAX_BATCHES = 1000  # of 64, in a held-out split
_OVERLAP = 0.02


def _first(task: Task, split: Split, number: int, size: int = 8, seed: int = 0, first: int = 0) -> Pairs:
    return list(islice(task.batches(split, size, seed, first), number))


def _equal(some: Pairs, others: Pairs) -> bool:
    return len(some) == len(others) and all(map(same_bytes, some, others))


@check()
def declaration(subject: Subject) -> Result:
    """Vocabulary, length, metrics and fingerprint are declared.

    Set self.vocabulary, self.length and self.metrics = {name: Metric(unit=…, better=…, chance=…, optimum=…)} in __init__;
    fingerprint is the SHA-256 of what decides the data, the same in every process (hash() is not).
    """
    task: Task = subject.make()
    for name in ("vocabulary", "length"):
        value = getattr(task, name, None)
        if not isinstance(value, int) or value < 1:
            return judge(False, f"{name} is {value!r}, not a positive integer")
    for name, metric in task.metrics.items():
        if not isinstance(metric, Metric):
            return judge(False, f"metric {name!r} is a {type(metric).__name__}, not a bench.records.metric.Metric")
        sign = 1 if metric.better == "higher" else -1
        if metric.chance is not None and metric.optimum is not None and sign * metric.chance > sign * metric.optimum:
            values = f"chance is {metric.chance:.4g} and optimum {metric.optimum:.4g}"
            return judge(False, f"{name}: {metric.better} is better, yet {values}")
    one, other = task.fingerprint(), subject.make().fingerprint()
    if not isinstance(one, str) or one != other:
        return judge(False, f"fingerprints of two instances: {one!r:.40} and {other!r:.40}")
    return judge(True, f"{task.vocabulary} ids, {task.length} positions, metrics {', '.join(task.metrics)}")


@check()
def batches(subject: Subject) -> Result:
    """Batches are (inputs, targets), each (size, length) int64.

    batches(split, size, seed, first=0) yields pairs of integer tensors; only `train` is endless, and only the last batch of `valid`
    and `test` may be smaller.
    """
    task, sequences = subject.make(), []
    for split in _SPLITS:
        endless = split == "train"
        found = _first(task, split, 3 if endless else _MAX_BATCHES + 1, 64)
        if not found or (endless and len(found) < 3):
            return judge(False, f"{split} gave {len(found)} batches of 64" + (" and ended" if endless else ""))
        if len(found) > _MAX_BATCHES:
            return judge(False, f"{split} has not ended after {_MAX_BATCHES} batches of 64")
        for number, pair in enumerate(found):
            smallest = 1 if not endless and number == len(found) - 1 else 64
            wrong = _wrong_pair(task, pair, range(smallest, 65))
            if wrong:
                return judge(False, f"{split}, batch {number}: {wrong}")
        sequences.append("train without end" if endless else f"{split} {sum(len(inputs) for inputs, _ in found):,}")
    return judge(True, f"(size, {task.length}) int64; sequences: {', '.join(sequences)}")


def _wrong_pair(task: Task, pair: tuple[Tensor, Tensor], sizes: range) -> str | None:
    for name, part in zip(("inputs", "targets"), pair, strict=True):
        if not isinstance(part, Tensor) or part.dtype != torch.int64 or part.device.type != "cpu":
            return f"{name} are {_described(part)}, not int64 on the CPU"
        if part.dim() != 2 or part.shape[1] != task.length or len(part) not in sizes or part.shape != pair[0].shape:
            return f"{name} are {tuple(part.shape)}, not ({sizes[-1]}, {task.length})"
    return None


def _described(part: Any) -> str:
    return f"{tuple(part.shape)} {part.dtype}".replace("torch.", "") if isinstance(part, Tensor) else type(part).__name__


@check("batches")
def ids(subject: Subject) -> Result:
    """Ids are in 0..vocabulary - 1.

    Count from 0, and include padding and delimiters in the vocabulary.
    """
    task: Task = subject.make()
    found = [part for split in _SPLITS for pair in _first(task, split, 8) for part in pair]
    low, high = min(int(part.min()) for part in found), max(int(part.max()) for part in found)
    return judge(low >= 0 and high < task.vocabulary, f"{low}..{high}, vocabulary {task.vocabulary}")


@check("batches", "ids")
def same_seed(subject: Subject) -> Result:
    """A batch is a function of split, size, seed and number.

    Make a generator for each batch from bench.tasks.task.derive_seed(name, split, seed, size, number).
    """
    task, other = subject.make(), subject.make()
    for split in _SPLITS:
        reference = _first(task, split, 3)
        if not _equal(reference, _first(task, split, 3)):
            return judge(False, f"{split}: a second call gives other batches")
        torch.manual_seed(5)
        if not _equal(reference, _first(other, split, 3)):
            return judge(False, f"{split}: another instance gives other batches")
        if not _equal(reference[2:], _first(other, split, 1, first=2)[: len(reference[2:])]):
            return judge(False, f"{split}: first=2 does not begin with batch number 2")
    return judge(True, "the same batches")


@check("batches", "ids", "same seed")
def seeds(subject: Subject) -> Result:
    """Training follows the seed, held-out splits do not.

    Put the seed into derive_seed for train, and a constant for valid and test.
    """
    task: Task = subject.make()
    follows = {split: not _equal(_first(task, split, 2, seed=0), _first(task, split, 2, seed=1)) for split in _SPLITS}
    if not follows["train"]:
        return judge(False, "training batches of seeds 0 and 1 are the same")
    moved = [split for split in ("valid", "test") if follows[split]]
    return judge(not moved, f"{moved[0]} changes with the seed" if moved else "train differs, valid and test do not")


@check("batches", "ids", "same seed")
def splits(subject: Subject) -> Result:
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
        if overlap > allowed:
            share = f"{100 * overlap:.0f} % of the {first} sequences are in {second}"
            return judge(False, f"{share} (chance: below {100 * allowed:.0f} %)")
        found.append(f"{first} in {second} {100 * overlap:.1g} %")
    return judge(True, ", ".join(found))


def _coincidence(rows: Sequence[bytes]) -> float:
    """An upper estimate of the probability that two draws are the same sequence: three pairs more than were seen."""
    equal = sum(math.comb(count, 2) for count in Counter(rows).values())
    return (equal + 3) / max(1, math.comb(len(rows), 2))


@check("batches", "ids")
def score(subject: Subject) -> Result:
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
        if not isinstance(total, Tensor) or total.dim() or total.dtype != torch.float64:
            return judge(False, f"{name}: the sum is {_described(total)}, not a float64 scalar")
        if not isinstance(count, int) or count < 0:
            return judge(False, f"{name}: the count is {count!r}, not a non-negative integer")
        sums, counts = sum(part[name][0].item() for part in parts), sum(part[name][1] for part in parts)
        if counts != count or not math.isclose(sums, total.item(), rel_tol=1e-6, abs_tol=1e-6):
            return judge(False, f"{name}: {total.item():.5g} over {count}, of two halves {sums:.5g} over {counts}")
    means = {name: total.item() / count for name, (total, count) in whole.items() if count}
    missing = sorted(set(task.metrics) - set(task.summarise(means)))
    return judge(not missing, f"summarise gives no {missing[0]!r}" if missing else f"{', '.join(whole)} add up")


TASK = (declaration, batches, ids, same_seed, seeds, splits, score, chance, optimum)
