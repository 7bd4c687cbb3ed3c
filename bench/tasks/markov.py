"""Markov: next-token prediction from the current token alone, for models that work position by position."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from itertools import count
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr
from torch import Tensor
from torch.nn import functional

from bench.records.errors import UserError, unknown
from bench.tasks.task import Metric, Split, Task, derive_seed

Distribution = npt.NDArray[np.float64]

# Transition weights are (standard exponential)^4: a few successors hold most of a row's mass, none is impossible.
PEAKEDNESS = 4


class Markov(Task):
    """A stationary first-order chain over `states` tokens with a random transition matrix, which `chain` chooses.

    The past beyond the current token says nothing of the next, so a model without memory can be trained on it honestly. A table of
    states^2 logits solves it: this tests training, not capacity (a softmax over features narrower than `states` may fall short).

    Sequences begin in the stationary distribution p = p P, so every target has the same law and the yardsticks are exact: the floor
    is the entropy rate sum_s p_s H(P[s]); chance is H(p), what is left to one who knows the frequencies and ignores the input. A
    finite test split scatters the oracle's own loss around the floor, so a small excess is no difference and may be negative.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, *, states: int = 16, length: int = 32, test_samples: int = 512, chain: int = 0) -> None:
        for name, value, least in (("states", states, 2), ("length", length, 1), ("test_samples", test_samples, 1)):
            if value < least:
                raise UserError(f"markov: {name} must be at least {least}, got {value}")
        self.vocabulary, self.length, self._chain = states, length, chain
        generator = np.random.default_rng(derive_seed("markov", "matrix", chain))
        weights = (-np.log1p(-generator.random((states, states)))) ** PEAKEDNESS
        self.transition: Distribution = weights / weights.sum(axis=1, keepdims=True)
        self.stationary = _stationary(self.transition)
        self._held_out: dict[Split, npt.NDArray[np.int64]] = {
            "valid": self._draw(test_samples, derive_seed("markov", "valid", chain)),
            "test": self._draw(test_samples, derive_seed("markov", "test", chain)),
        }
        self.optimum = optimum = float(self.stationary @ entr(self.transition).sum(axis=1))
        chance = float(entr(self.stationary).sum())
        self.metrics = {
            "loss": Metric(unit="nats/token", better="lower", chance=chance, optimum=optimum),
            "perplexity": Metric(unit="per token", better="lower", chance=math.exp(chance), optimum=math.exp(optimum)),
            "excess_nats": Metric(unit="nats/token", better="lower", chance=chance - optimum, optimum=0.0),
        }

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh training sequences for every (seed, size, number); a fixed `test_samples` in each held-out split."""
        if split != "train" and split not in self._held_out:
            raise unknown("split", split, ("train", *self._held_out))
        if size < 1:
            raise UserError(f"markov: batch size must be at least 1, got {size}")
        return self._train(size, seed, first) if split == "train" else self._evaluation(split, size, first)

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in count(first):
            yield _pair(self._draw(size, derive_seed("markov", "train", self._chain, seed, size, number)))

    def _evaluation(self, split: Split, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        sequences = self._held_out[split]
        for start in range(first * size, len(sequences), size):
            yield _pair(sequences[start : start + size])

    def _draw(self, samples: int, seed: int) -> npt.NDArray[np.int64]:
        """(samples, length + 1) tokens by inverse distribution functions, one position at a time."""
        # Without the last column, a sum that rounding ends below 1 stays in range.
        onward = self.transition.cumsum(axis=1)[:, :-1]
        uniform = np.random.default_rng(seed).random((samples, self.length + 1, 1))
        tokens = np.empty((samples, self.length + 1), dtype=np.int64)
        tokens[:, 0] = (uniform[:, 0] >= self.stationary.cumsum()[:-1]).sum(axis=1)
        for t in range(self.length):
            tokens[:, t + 1] = (uniform[:, t + 1] >= onward[tokens[:, t]]).sum(axis=1)
        return tokens

    def oracle(self, tokens: Tensor) -> Tensor:
        """The best possible prediction: log-probabilities (B, T, V) in float64 given the inputs (B, T)."""
        return torch.from_numpy(self.transition)[tokens].log()

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """`loss` over all targets."""
        loss = functional.cross_entropy(logits.double().transpose(1, 2), targets, reduction="sum")
        return {"loss": (loss, targets.numel())}

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Adds `perplexity` (infinite where it overflows) and `excess_nats`, the loss above the entropy rate."""
        loss = means["loss"]
        perplexity = math.inf if loss > 709 else math.exp(loss)  # exp(710) overflows float64
        return {**means, "perplexity": perplexity, "excess_nats": loss - self.optimum}

    def fingerprint(self) -> str:
        """SHA-256 of the chain's settings and of the held-out tokens (training batches follow from the settings)."""
        digest = hashlib.sha256(f"markov {(self.vocabulary, self.length, self._chain)}".encode())
        for split, sequences in self._held_out.items():
            digest.update(f"\n{split} {len(sequences)}\n".encode())
            digest.update(sequences.astype("<i4").tobytes())
        return digest.hexdigest()


def _stationary(transition: Distribution) -> Distribution:
    """The p with p P = p and sum p = 1; unique, since every transition is possible."""
    system = transition.T - np.eye(len(transition))
    system[-1] = 1  # one balance equation follows from the others
    solution: Distribution = np.linalg.solve(system, np.eye(len(transition))[-1])
    return solution


def _pair(sequences: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(sequences)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
