"""Markov: next-token prediction from the current token alone, for models without memory."""

from typing import ClassVar

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from bench.records.errors import UserError
from bench.tasks.language import Distribution, Ids, Language, entropy, language_metrics, pick, random_transition
from bench.tasks.task import check_positive, derive_seed


class Markov(Language):
    """A stationary first-order chain over `states` tokens with a random transition matrix P, determined by `chain`.

    Tokens before the current one carry no information, so a model without memory can reach the optimum. A table of states^2 logits
    solves it: this tests training, not capacity (a softmax over features narrower than `states` may fall short).

    Sequences start in the stationary distribution p = p P, so all targets have the same distribution and the optimum and chance are
    exact: the entropy rate sum_s p_s H(P[s]), and H(p), which ignores the input.
    """

    numerics: ClassVar[int] = 1
    name = "markov"

    def __init__(self, *, states: int = 16, length: int = 32, test_samples: int = 512, chain: int = 0) -> None:
        if states < 2:
            raise UserError(f"markov: states must be at least 2, got {states}")
        check_positive(self.name, length=length, test_samples=test_samples)
        self.vocabulary, self.length = states, length
        self.transition = random_transition(np.random.default_rng(derive_seed("markov", "matrix", chain)), states)
        self.stationary = _stationary(self.transition)
        self._set_up(test_samples, chain, states, length)
        self.optimum = float(self.stationary @ entr(self.transition).sum(axis=1))
        self.metrics = language_metrics(entropy(self.stationary), self.optimum)

    def _draw(self, samples: int, seed: int) -> Ids:
        """Draw (samples, length + 1) tokens, one position at a time."""
        onward = self.transition.cumsum(axis=1)
        uniform = np.random.default_rng(seed).random((samples, self.length + 1))
        tokens = np.empty((samples, self.length + 1), dtype=np.int64)
        tokens[:, 0] = pick(self.stationary.cumsum(), uniform[:, 0])
        for t in range(self.length):
            tokens[:, t + 1] = pick(onward[tokens[:, t]], uniform[:, t + 1])
        return tokens

    def oracle(self, tokens: Tensor) -> Tensor:
        """Return the best prediction: log-probabilities (B, T, V) in float64 given the inputs (B, T)."""
        return torch.from_numpy(self.transition)[tokens].log()


def _stationary(transition: Distribution) -> Distribution:
    """Solve p P = p, sum p = 1; unique, since every transition is possible."""
    system = transition.T - np.eye(len(transition))
    system[-1] = 1  # one balance equation follows from the others
    solution: Distribution = np.linalg.solve(system, np.eye(len(transition))[-1])
    return solution
