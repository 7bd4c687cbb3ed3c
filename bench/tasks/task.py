"""The contract of a task: token sequences in, named scores out, every batch a pure function of (split, seed, step)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from torch import Tensor

from bench.records.metric import Metric

__all__ = ["Metric", "Split", "Task", "derive_seed"]

Split = Literal["train", "valid", "test"]


class Task(ABC):
    """Sequences of token ids with a next-token style target at every position.

    `vocabulary` is the number of input ids and of target classes, `length` the number of positions T of a sequence, `metrics` says
    what the names in `summarise`'s answer mean, `headline` which of them ranks the models, and `streams` whether consecutive
    training batches continue one another (so that a carried memory makes sense).
    """

    vocabulary: int
    length: int
    metrics: dict[str, Metric]
    headline: ClassVar[str] = "loss"
    streams: ClassVar[bool] = False

    @abstractmethod
    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (inputs, targets), both (size, T) int64 on the CPU, from batch number `first` on.

        `train` never ends and its order depends on the seed; `valid` and `test` end, ignore the seed and may close with a smaller
        batch. The content of a batch depends on (split, size, seed, number) alone.
        """

    def begins(self, number: int, size: int) -> bool:
        """Whether the training batch of that number goes on from none, so that a memory is not carried into it."""
        return not self.streams

    def lanes(self, split: Split) -> int:
        """How many sequences an evaluation that carries a memory reads side by side, whatever its batch: each begins with none."""
        return 1

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """For logits (B, T, V) and targets (B, T): each score's sum (a float64 scalar) and count; losses in nats."""

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a split from the means of its scores; adds what derives from them (perplexity, excess)."""
        return dict(means)

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data that this task serves: equal fingerprints mean equal data."""


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers by SHA-256: unlike `hash()`, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
