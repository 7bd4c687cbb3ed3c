"""Agreement: a synthetic language with a long-range dependence whose entropy rate is known in closed form."""

from typing import ClassVar

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor
from torch.nn import functional

from bench.records.errors import UserError
from bench.tasks.language import Distribution, Ids, Language, entropy, language_metrics, normalised_rows, pick, random_transition
from bench.tasks.task import Metric, check_positive, derive_seed


class Agreement(Language):
    """Sentences open with a class, run through a Markov chain and close with the class that opened them.

    Ids: openers 0..K-1, closers K..2K-1, fillers 2K..V-1 (K classes, vocabulary V). A sentence is an opener (Zipf: probability
    proportional to 1/rank), `dependency` fillers (a first-order chain, independent of the opener) and a closer, which with
    probability `noise` is uniform over the K closers and otherwise is the opener's own. A sentence has d + 2 tokens, d =
    `dependency`. A sequence is `sentences` whole sentences and the opener of the next: inputs are its tokens 0..T-1, targets 1..T.

    The optimum is exact. Inputs start at a sentence start, so the prefix of every target determines its place in the sentence, and
    given the prefix the target has one of these distributions:

        first filler   start                               H(start)
        filler i > 1   transition from filler i - 1        sum_f p(f) H(transition[f]),  p = start transition^(i-2)
        closer         noisy copy of the opener            H(closer | opener), the same for every opener by symmetry
        next opener    independent of all before           H(opener)

    T = sentences * (d + 2) targets are whole cycles of these d + 2 places, so their mean conditional entropy is (the sum of the
    right column) / (d + 2) = the entropy rate of the endless language. Chance is the entropy of the token frequencies over a cycle.
    The oracle's loss on the default test split has a standard error of about 0.007 nats.
    """

    numerics: ClassVar[int] = 1
    name = "agreement"

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
        check_positive(self.name, classes=classes, dependency=dependency, sentences=sentences, test_samples=test_samples)
        if vocabulary <= 2 * classes:
            raise UserError(f"agreement: vocabulary must exceed 2 * classes = {2 * classes} to hold fillers, got {vocabulary}")
        if not 0 <= noise <= 1:
            raise UserError(f"agreement: noise is a probability in 0..1, got {noise}")
        self.vocabulary, self.classes, self.dependency, self.noise = vocabulary, classes, dependency, noise
        self.sentences, self.length = sentences, sentences * (dependency + 2)
        fillers = vocabulary - 2 * classes
        generator = np.random.default_rng(derive_seed("agreement", "language", data_seed))
        self.opener: Distribution = normalised_rows(1 / np.arange(1, classes + 1))
        self.start: Distribution = normalised_rows(-np.log1p(-generator.random(fillers)))
        self.transition = random_transition(generator, fillers)
        self._set_up(test_samples, data_seed, vocabulary, classes, dependency, noise, sentences)
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        classes, cycle = self.classes, self.dependency + 2
        places = [self.start]
        while len(places) < self.dependency:
            places.append(places[-1] @ self.transition)
        closer = (1 - self.noise) * self.opener + self.noise / classes
        agreement = entropy(np.append(np.full(classes - 1, self.noise / classes), 1 - self.noise + self.noise / classes))

        onward = entr(self.transition).sum(axis=1)
        chain = entropy(self.start) + sum(float(place @ onward) for place in places[:-1])
        optimum = (entropy(self.opener) + chain + agreement) / cycle
        unigram = entropy(np.concatenate([self.opener, closer, np.sum(places, axis=0)]) / cycle)
        self.optimum, self.unigram = optimum, unigram
        closers = Metric(unit="nats/closer", better="lower", chance=entropy(closer), optimum=agreement)
        return language_metrics(unigram, optimum, loss_agreement=closers)

    def _draw(self, samples: int, seed: int) -> Ids:
        generator = np.random.default_rng(seed)
        shape = (samples, self.sentences)
        openers = pick(self.opener.cumsum(), generator.random((samples, self.sentences + 1)))
        onward = self.transition.cumsum(axis=1)
        tokens = np.empty((*shape, self.dependency + 2), dtype=np.int64)
        tokens[..., 0] = openers[:, :-1]
        filler = pick(self.start.cumsum(), generator.random(shape))
        tokens[..., 1] = filler
        for place in range(2, self.dependency + 1):
            filler = pick(onward[filler], generator.random(shape))
            tokens[..., place] = filler
        tokens[..., 1:-1] += 2 * self.classes
        careless = generator.random(shape) < self.noise
        tokens[..., -1] = np.where(careless, generator.integers(self.classes, size=shape), tokens[..., 0]) + self.classes
        return np.concatenate([tokens.reshape(samples, self.length), openers[:, -1:]], axis=1)

    def oracle(self, tokens: Tensor) -> Tensor:
        """Return the best prediction: log-probabilities (B, T, V) in float64 given the inputs (B, T) so far."""
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
        complete = tokens.shape[1] - self.dependency  # openers before this position have their closer in the sequence
        probabilities[:, self.dependency :: cycle] = closing[tokens[:, : max(0, complete) : cycle]]
        return probabilities.log()

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return `loss` over all targets and `loss_agreement` over the closers."""
        losses = functional.cross_entropy(logits.double().transpose(1, 2), targets, reduction="none")
        closers = losses[:, self.dependency :: self.dependency + 2]
        return {"loss": (losses.sum(), losses.numel()), "loss_agreement": (closers.sum(), closers.numel())}
