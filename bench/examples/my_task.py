"""A task of your own: batches determined by a seed, a score in nats, and the scores of chance and of the best predictor."""

import hashlib
import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from bench.tasks.task import Metric, Split, Task, derive_seed


class Lookback(Task):
    """Output the symbol `lag` positions back, and 0 where there is none. Chance knows the position only."""

    def __init__(self, *, symbols: int = 6, length: int = 12, lag: int = 3) -> None:
        self.vocabulary, self.length, self.lag = symbols, length, lag
        chance = (length - lag) / length * math.log(symbols)
        self.metrics = {"loss": Metric(unit="nats", better="lower", chance=chance, optimum=0.0)}

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets), both (size, T): without end in training, else the same 512 sequences for any size."""
        fresh = (self._draw(size, derive_seed("lookback", split, size, seed, number)) for number in count(first))
        for tokens in fresh if split == "train" else self._draw(512, derive_seed("lookback", split)).split(size)[first:]:
            yield tokens, functional.pad(tokens, (self.lag, 0))[:, : self.length]

    def _draw(self, sequences: int, seed: int) -> Tensor:
        return torch.randint(self.vocabulary, (sequences, self.length), generator=torch.Generator().manual_seed(seed))

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return each score's sum and count."""
        loss = functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="sum")
        return {"loss": (loss, targets.numel())}

    def fingerprint(self) -> str:
        """Return a hash of all that determines the data."""
        return hashlib.sha256(f"lookback {self.vocabulary} {self.length} {self.lag}".encode()).hexdigest()
