"""Copy memory: repeat ten symbols after T blanks (Arjovsky et al. 2016; Bai et al. 2018 and 2019, appendix F)."""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.records.errors import UserError, unknown
from bench.tasks.task import Metric, Split, Task, check_positive, derive_seed, digest

Delimiter = Literal["single", "run"]

PAYLOAD = 10
SYMBOLS = 8
DELIMITER = 9


class CopyMemory(Task):
    """Repeat the first ten symbols of a sequence of T + 20 positions at its last ten positions.

    Positions from 1: inputs 1..10 are uniform over 1..8, the rest are 0 except for the delimiter 9, at position T + 10 only
    ("single", the DEQ paper's layout) or at all positions T + 10..T + 20 ("run", the TCN code's). Targets 1..T + 10 are 0, targets
    T + 11..T + 20 the ten symbols.

    `data_seed` determines the data, the training seed only their order: a new permutation every epoch, without the samples that do
    not fill a batch. Validation has half as many samples as the test. Chance knows the position only: right on the zeros, uniform
    over the symbols on the last ten positions, so 10 ln 8 / (T + 20) nats over all positions.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        T: int = 30,
        delimiter: Delimiter = "single",
        samples: int = 20_000,
        test_samples: int = 2_000,
        data_seed: int = 0,
    ) -> None:
        check_positive("copy memory", T=T, samples=samples, test_samples=test_samples)
        if delimiter not in get_args(Delimiter):
            raise unknown("delimiter", delimiter, get_args(Delimiter))
        self.T = T
        self.delimiter = delimiter
        self.vocabulary = DELIMITER + 1
        self.length = T + 2 * PAYLOAD
        sizes: dict[Split, int] = {"train": samples, "valid": max(1, test_samples // 2), "test": test_samples}
        self.payloads = {split: _payloads(split, count, data_seed) for split, count in sizes.items()}
        self.metrics = {
            "loss": Metric(unit="nats", better="lower", chance=PAYLOAD * math.log(SYMBOLS) / self.length, optimum=0.0),
            "loss_last10": Metric(unit="nats", better="lower", chance=math.log(SYMBOLS), optimum=0.0),
            "accuracy_last10": Metric(unit="fraction", better="higher", chance=1 / SYMBOLS, optimum=1.0),
        }

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches in the seed's order without end, or the samples of a held-out split once."""
        if split not in self.payloads:
            raise unknown("split", split, self.payloads)
        samples = len(self.payloads["train"])
        if size < 1 or (split == "train" and size > samples):
            raise UserError(f"copy memory: batch size must be 1..{samples} (the training samples), got {size}")
        if split == "train":
            return self._train(size, seed, first)
        payloads = self.payloads[split]
        return (self._sequences(payloads[start : start + size]) for start in range(first * size, len(payloads), size))

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        payloads = self.payloads["train"]
        epoch, index = divmod(first, len(payloads) // size)
        while True:
            generator = np.random.default_rng(derive_seed("copy memory", "order", seed, epoch))
            order = torch.from_numpy(generator.permutation(len(payloads)))
            for start in range(index * size, len(payloads) - size + 1, size):
                yield self._sequences(payloads[order[start : start + size]])
            epoch, index = epoch + 1, 0

    def _sequences(self, payload: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.zeros(len(payload), self.length, dtype=torch.int64)
        targets = torch.zeros_like(inputs)
        inputs[:, :PAYLOAD] = payload
        delimiter = self.T + PAYLOAD - 1
        inputs[:, delimiter : delimiter + 1 if self.delimiter == "single" else None] = DELIMITER
        targets[:, -PAYLOAD:] = payload
        return inputs, targets

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return `loss` over all positions, `loss_last10` and `accuracy_last10` over the last ten."""
        # float64: float32's log-softmax cannot resolve the losses near 1e-7 of a solved task
        losses = functional.cross_entropy(logits.double().transpose(1, 2), targets, reduction="none")
        recalled = slice(-PAYLOAD, None)
        right = logits[:, recalled].argmax(-1) == targets[:, recalled]
        return {
            "loss": (losses.sum(), losses.numel()),
            "loss_last10": (losses[:, recalled].sum(), right.numel()),
            "accuracy_last10": (right.double().sum(), right.numel()),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the layout and the symbols of all splits."""
        return digest(f"copy memory T={self.T} delimiter={self.delimiter}", self.payloads, "u1")


def _payloads(split: Split, count: int, data_seed: int) -> Tensor:
    generator = np.random.default_rng(derive_seed("copy memory", "payload", split, data_seed))
    return torch.from_numpy(generator.integers(1, SYMBOLS + 1, size=(count, PAYLOAD)))
