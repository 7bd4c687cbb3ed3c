"""Agreement: a synthetic language with a long-range dependence whose entropy rate is known in closed form."""

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


class Agreement(Task):
    """Sentences open with a class, run through a Markov chain and must close with the class that opened them.

    Ids: openers 0..K-1, closers K..2K-1, fillers 2K..V-1 (K classes, vocabulary V). A sentence is an opener (Zipf:
    probability proportional to 1/rank), `dependency` fillers (a first-order chain that ignores the opener) and a
    closer, which with probability `noise` is uniform over the K closers and otherwise is the opener's own. Each
    sentence has d + 2 tokens, d = `dependency`.

    A sequence is `sentences` whole sentences and the opener of the next: inputs are its tokens 0..T-1, targets its
    tokens 1..T.

    The floor is exact. Inputs begin at a sentence start, so the visible prefix of every target fixes its place in the
    sentence, and contains everything the sentence so far has said. Given the prefix a target therefore has one of these
    laws, and no more can be known:

        first filler   start                               H(start)
        filler i > 1   transition from filler i - 1        sum_f p(f) H(transition[f]),  p = start transition^(i-2)
        closer         noisy copy of the opener            H(closer | opener), the same for every opener by symmetry
        next opener    independent of all before           H(opener)

    T = sentences * (d + 2) targets are whole cycles of these d + 2 places, so their mean conditional entropy is (the
    sum of the right column) / (d + 2) = the entropy rate of the endless language. Chance is the entropy of the token
    frequencies over a cycle.

    A finite test split scatters the oracle's own loss around the floor (default: standard error about 0.007 nats), so
    an excess below that is not a difference and may be negative.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        vocabulary: int = 32,
        classes: int = 8,
        dependency: int = 10,
        noise: float = 0.05,
        sentences: int = 4,
        test_samples: int = 512,
        data_seed: int = 0,
    ) -> None:
        sizes = (
            ("classes", classes),
            ("dependency", dependency),
            ("sentences", sentences),
            ("test_samples", test_samples),
        )
        for name, value in sizes:
            if value < 1:
                raise UserError(f"agreement: {name} must be at least 1, got {value}")
        if vocabulary <= 2 * classes:
            raise UserError(f"agreement: vocabulary must exceed 2 * classes = {2 * classes} to hold fillers, got {vocabulary}")
        if not 0 <= noise <= 1:
            raise UserError(f"agreement: noise is a probability in 0..1, got {noise}")
        self.vocabulary = vocabulary
        self.classes = classes
        self.dependency = dependency
        self.noise = noise
        self.sentences = sentences
        self.length = sentences * (dependency + 2)

        fillers = vocabulary - 2 * classes
        generator = np.random.default_rng(derive_seed("agreement", "language", data_seed))
        self.opener: Distribution = _normalised(1 / np.arange(1, classes + 1))
        self.start: Distribution = _normalised(-np.log1p(-generator.random(fillers)))
        self.transition: Distribution = _normalised((-np.log1p(-generator.random((fillers, fillers)))) ** PEAKEDNESS)
        self._data_seed = data_seed
        self._held_out: dict[Split, npt.NDArray[np.int64]] = {
            "valid": self._draw(test_samples, derive_seed("agreement", "valid", data_seed)),
            "test": self._draw(test_samples, derive_seed("agreement", "test", data_seed)),
        }
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        classes, cycle = self.classes, self.dependency + 2
        places = [self.start]
        while len(places) < self.dependency:
            places.append(places[-1] @ self.transition)
        closer = (1 - self.noise) * self.opener + self.noise / classes
        agreement = _entropy(np.append(np.full(classes - 1, self.noise / classes), 1 - self.noise + self.noise / classes))

        onward = entr(self.transition).sum(axis=1)
        chain = _entropy(self.start) + sum(float(place @ onward) for place in places[:-1])
        optimum = (_entropy(self.opener) + chain + agreement) / cycle
        unigram = _entropy(np.concatenate([self.opener, closer, np.sum(places, axis=0)]) / cycle)
        self.optimum, self.unigram = optimum, unigram
        return {
            "loss": Metric(unit="nats/token", better="lower", chance=unigram, optimum=optimum),
            "loss_agreement": Metric(unit="nats/closer", better="lower", chance=_entropy(closer), optimum=agreement),
            "perplexity": Metric(unit="per token", better="lower", chance=math.exp(unigram), optimum=math.exp(optimum)),
            "excess_nats": Metric(unit="nats/token", better="lower", chance=unigram - optimum, optimum=0.0),
        }

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh training sequences for every (seed, size, number); a fixed `test_samples` in each held-out split."""
        if split != "train" and split not in self._held_out:
            raise unknown("split", split, ("train", *self._held_out))
        if size < 1:
            raise UserError(f"agreement: batch size must be at least 1, got {size}")
        return self._train(size, seed, first) if split == "train" else self._evaluation(split, size, first)

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in count(first):
            yield _pair(self._draw(size, derive_seed("agreement", "train", self._data_seed, seed, size, number)))

    def _evaluation(self, split: Split, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        sequences = self._held_out[split]
        for start in range(first * size, len(sequences), size):
            yield _pair(sequences[start : start + size])

    def _draw(self, samples: int, seed: int) -> npt.NDArray[np.int64]:
        generator = np.random.default_rng(seed)
        shape = (samples, self.sentences)
        openers = _pick(self.opener.cumsum(), generator.random((samples, self.sentences + 1)))
        onward = self.transition.cumsum(axis=1)
        tokens = np.empty((*shape, self.dependency + 2), dtype=np.int64)
        tokens[..., 0] = openers[:, :-1]
        filler = _pick(self.start.cumsum(), generator.random(shape))
        tokens[..., 1] = filler
        for place in range(2, self.dependency + 1):
            filler = _pick(onward[filler], generator.random(shape))
            tokens[..., place] = filler
        tokens[..., 1:-1] += 2 * self.classes
        careless = generator.random(shape) < self.noise
        tokens[..., -1] = np.where(careless, generator.integers(self.classes, size=shape), tokens[..., 0]) + self.classes
        return np.concatenate([tokens.reshape(samples, self.length), openers[:, -1:]], axis=1)

    def oracle(self, tokens: Tensor) -> Tensor:
        """The best possible prediction: log-probabilities (B, T, V) in float64 given the inputs (B, T) so far."""
        K, cycle = self.classes, self.dependency + 2
        following = torch.zeros(self.vocabulary, self.vocabulary, dtype=torch.float64)
        following[:K, 2 * K :] = torch.from_numpy(self.start)
        following[K : 2 * K, :K] = torch.from_numpy(self.opener)
        following[2 * K :, 2 * K :] = torch.from_numpy(self.transition)
        closing = torch.zeros(K, self.vocabulary, dtype=torch.float64)
        closing[:, K : 2 * K] = (1 - self.noise) * torch.eye(K, dtype=torch.float64) + self.noise / K

        if bool((tokens[:, ::cycle] >= K).any()):
            raise UserError(f"agreement: every sequence needs an opener, id 0..{K - 1}, at positions 0, {cycle}, {2 * cycle}, ...")
        probabilities = following[tokens]
        complete = tokens.shape[1] - self.dependency  # openers before this have their closer in reach
        probabilities[:, self.dependency :: cycle] = closing[tokens[:, : max(0, complete) : cycle]]
        return probabilities.log()

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """`loss` over all targets; `loss_agreement` over the closers, which need the opener `dependency` + 1 back."""
        losses = functional.cross_entropy(logits.double().transpose(1, 2), targets, reduction="none")
        closers = losses[:, self.dependency :: self.dependency + 2]
        return {"loss": (losses.sum(), losses.numel()), "loss_agreement": (closers.sum(), closers.numel())}

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Adds `perplexity` (infinite where it overflows) and `excess_nats`, the loss above the entropy rate."""
        loss = means["loss"]
        perplexity = math.inf if loss > 709 else math.exp(loss)  # exp(710) overflows float64
        return {**means, "perplexity": perplexity, "excess_nats": loss - self.optimum}

    def fingerprint(self) -> str:
        """SHA-256 of the language's settings and of the held-out tokens (training batches follow from the settings)."""
        settings = (self.vocabulary, self.classes, self.dependency, self.noise, self.sentences, self._data_seed)
        digest = hashlib.sha256(f"agreement {settings}".encode())
        for split, sequences in self._held_out.items():
            digest.update(f"\n{split} {len(sequences)}\n".encode())
            digest.update(sequences.astype("<i4").tobytes())
        return digest.hexdigest()


def _normalised(weights: Distribution) -> Distribution:
    return weights / weights.sum(axis=-1, keepdims=True)


def _entropy(probabilities: Distribution) -> float:
    return float(entr(probabilities).sum())


def _pick(cumulative: Distribution, uniform: Distribution) -> npt.NDArray[np.int64]:
    # inverse distribution function; without the last column, a sum that rounding ends below 1 stays in range
    return (uniform[..., None] >= cumulative[..., :-1]).sum(axis=-1)


def _pair(sequences: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(sequences)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
