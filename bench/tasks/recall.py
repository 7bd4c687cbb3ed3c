"""Multi-query associative recall: answer, for each key that returns, with the value that followed it."""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.records.errors import UserError
from bench.tasks.generated import Generated, Ids, total_loss
from bench.tasks.task import Metric, check_positive, digest

FILLER = 0


class Recall(Generated):
    """`pairs` keys with their values, key value key value ..., then each key once more among fillers; `length` tokens in all.

    Ids: filler 0, keys 1..K, values K+1..2K for K = `keys`. The keys of a sequence are different, their values independent and
    uniform. Each key returns at a place drawn without replacement, early ones more often: gap g has probability proportional to
    g^(`power` - 1). Its target there is its value; all other targets are the filler. The protocol of Arora et al. (2023), arXiv
    2312.04927, whose vocabulary is 8,192 and lengths 64 to 512 with 4 to 64 pairs.

    Every training batch is new; held-out splits have `test_samples` sequences. `accuracy` is that of the values asked for, `solved`
    the share of sequences with all of them right.
    """

    numerics: ClassVar[int] = 1
    name = "recall"

    def __init__(
        self, *, length: int = 64, pairs: int = 4, keys: int = 32, power: float = 0.01, test_samples: int = 500, data_seed: int = 0
    ) -> None:
        check_positive(self.name, length=length, pairs=pairs, keys=keys, test_samples=test_samples)
        if pairs > keys:
            raise UserError(f"recall: pairs must be at most keys = {keys}, got {pairs}")
        if length < 3 * pairs:
            raise UserError(f"recall: {pairs} pairs and their keys again need a length of at least {3 * pairs}, got {length}")
        if not 0 < power < math.inf:
            raise UserError(f"recall: power must be positive and finite, got {power}")
        self.length, self.pairs, self.keys, self.power, self.vocabulary = length, pairs, keys, power, 2 * keys + 1
        self._hold_out(test_samples, data_seed)
        self.metrics = {
            "loss": Metric(unit="nats", better="lower", optimum=0.0),
            "accuracy": Metric(unit="fraction", better="higher", optimum=1.0),
            "solved": Metric(unit="fraction", better="higher", optimum=1.0),
        }

    def _draw(self, samples: int, seed: int) -> Ids:
        """Inputs and targets (B, 2, T)."""
        generator, shown = np.random.default_rng(seed), 2 * self.pairs
        keys = 1 + generator.permuted(np.tile(np.arange(self.keys), (samples, 1)), axis=1)[:, : self.pairs]
        values = 1 + self.keys + generator.integers(self.keys, size=keys.shape)
        places = np.arange(1, self.length - shown + 1)
        # The largest of log p + Gumbel noise are a draw without replacement.
        noise = generator.gumbel(size=(samples, len(places))) + (self.power - 1) * np.log(places)
        chosen = shown + np.argsort(-noise, axis=1)[:, : self.pairs]
        inputs = np.full((samples, self.length), FILLER)
        targets = np.full_like(inputs, FILLER)
        inputs[:, 0:shown:2], inputs[:, 1:shown:2] = keys, values
        np.put_along_axis(inputs, chosen, keys, axis=1)
        np.put_along_axis(targets, chosen, values, axis=1)
        return np.stack((inputs, targets), axis=1)

    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(drawn[:, 0]), torch.from_numpy(drawn[:, 1])

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return the loss over all positions, the accuracy on values, and the share of sequences with all of them right."""
        asked = targets != FILLER
        right = logits.argmax(-1) == targets
        return {
            "loss": total_loss(logits, targets),
            "accuracy": (right[asked].double().sum(), int(asked.sum())),
            "solved": ((right | ~asked).all(1).double().sum(), len(targets)),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings and the held-out inputs; training sequences follow from the settings."""
        settings = f"recall {self.length} {self.pairs} {self.keys} {self.power} {self._data_seed}"
        return digest(settings, {split: drawn[:, 0] for split, (drawn,) in self._held_out.items()})
