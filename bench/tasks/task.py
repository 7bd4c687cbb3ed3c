"""Base class of tasks and the functions that they share."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.records.errors import UserError
from bench.records.metric import Metric

__all__ = ["Metric", "Split", "Task", "check_positive", "derive_seed", "digest", "inputs_and_targets", "perplexity"]

Split = Literal["train", "valid", "test"]
_CHUNK = 1 << 22


class Task(ABC):
    """Sequences of token ids with a target id at every position.

    `vocabulary` is the number of input ids and of target classes, `length` the number of positions T, `metrics` describes the names
    that `summarise` returns, `headline` is the metric that ranks models. `streams`: consecutive training batches continue each
    other, so that a memory can be carried. `parts` above 1: the test split has further parts after that of `length`, of other
    lengths or difficulties; the last batch of each may be smaller, and each has metrics of its own.
    """

    vocabulary: int
    length: int
    metrics: dict[str, Metric]
    parts: int = 1
    headline: ClassVar[str] = "loss"
    streams: ClassVar[bool] = False

    @abstractmethod
    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches (inputs, targets), both (size, T) int64 on the CPU, from batch number `first` on.

        `train` never ends and its order depends on the seed; `valid` and `test` end, ignore the seed and may have a smaller last
        batch. A batch depends only on (split, size, seed, number).
        """

    def begins(self, number: int, size: int) -> bool:
        """Whether training batch `number` starts without a memory."""
        return not self.streams

    def lanes(self, split: Split) -> int:
        """Number of parallel sequences in an evaluation that carries a memory, for any batch size."""
        return 1

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return each score's sum (a float64 scalar) and count for logits (B, T, V) and targets (B, T); losses in nats."""

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a split from the means of its scores, with derived ones (perplexity, excess)."""
        return dict(means)

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) of the data: equal fingerprints mean equal data."""


def derive_seed(*parts: str | int) -> int:
    """Derive a 63-bit seed from names and numbers by SHA-256; unlike `hash()` it is the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_positive(task: str, **values: int) -> None:
    """Raise UserError for a setting below 1."""
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{task}: {name.replace('batch_size', 'batch size')} must be at least 1, got {value}")


def inputs_and_targets(sequences: Any) -> tuple[Tensor, Tensor]:
    """Split sequences (B, T + 1) of ids into inputs (B, T) and the next tokens (B, T)."""
    tokens = torch.as_tensor(sequences).long()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where it overflows float64."""
    return math.inf if loss > 709 else math.exp(loss)


def digest(header: str, splits: Mapping[Split, Any] | Mapping[str, Any], dtype: str = "<i4") -> str:
    """Return the SHA-256 of a header and the ids of all splits or parts of them (arrays or tensors)."""
    found = hashlib.sha256(header.encode())
    for split, ids in splits.items():
        found.update(f"\n{split} {len(ids)}\n".encode())
        for start in range(0, len(ids), _CHUNK):
            found.update(torch.as_tensor(ids[start : start + _CHUNK]).numpy().astype(dtype).tobytes())
    return found.hexdigest()
