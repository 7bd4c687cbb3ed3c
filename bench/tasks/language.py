"""Base class of synthetic languages: sequences drawn at random from a source whose entropy rate is known."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import entr
from torch import Tensor

from bench.tasks.generated import Generated, Ids, total_loss
from bench.tasks.task import Metric, digest, inputs_and_targets, perplexity

Distribution = npt.NDArray[np.float64]

# Transition weights are (standard exponential)^4: a few successors have most of a row's mass, none is impossible.
PEAKEDNESS = 4


class Language(Generated):
    """A task with fresh training sequences and a fixed `test_samples` per held-out split. `_draw` gives (samples, length + 1).

    A finite test split scatters the oracle's own loss around `optimum`, the entropy rate, so that an excess may be negative.
    """

    optimum: float

    def _set_up(self, test_samples: int, data_seed: int, *settings: Any) -> None:
        """Draw the held-out splits; `settings` and the seed identify the language."""
        self._settings = (*settings, data_seed)
        self._hold_out(test_samples, data_seed)

    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        return inputs_and_targets(drawn)

    @abstractmethod
    def oracle(self, tokens: Tensor) -> Tensor:
        """Return the best prediction: log-probabilities (B, T, V) in float64 given the inputs (B, T) so far."""

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return `loss` over all targets."""
        return {"loss": total_loss(logits, targets)}

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Add `perplexity` and `excess_nats`, the loss above the entropy rate."""
        loss = means["loss"]
        return {**means, "perplexity": perplexity(loss), "excess_nats": loss - self.optimum}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings and the held-out tokens; training batches follow from the settings."""
        return digest(f"{self.name} {self._settings}", {split: tokens for split, (tokens,) in self._held_out.items()})


def language_metrics(chance: float, optimum: float, **more: Metric) -> dict[str, Metric]:
    """Return the metrics of a language with the chance level and the optimum in nats per token."""
    return {
        "loss": Metric(unit="nats/token", better="lower", chance=chance, optimum=optimum),
        **more,
        "perplexity": Metric(unit="per token", better="lower", chance=perplexity(chance), optimum=perplexity(optimum)),
        "excess_nats": Metric(unit="nats/token", better="lower", chance=chance - optimum, optimum=0.0),
    }


def normalised_rows(weights: Distribution) -> Distribution:
    """Divide the last axis by its sum."""
    return weights / weights.sum(axis=-1, keepdims=True)


def random_transition(generator: np.random.Generator, states: int) -> Distribution:
    """Draw a transition matrix (states, states)."""
    return normalised_rows((-np.log1p(-generator.random((states, states)))) ** PEAKEDNESS)


def entropy(probabilities: Distribution) -> float:
    """Return the entropy in nats."""
    return float(entr(probabilities).sum())


def pick(cumulative: Distribution, uniform: Distribution) -> Ids:
    """Sample by the inverse distribution function."""
    # Without the last column, a sum that rounding leaves below 1 stays in range.
    ids: Ids = (uniform[..., None] >= cumulative[..., :-1]).sum(axis=-1)
    return ids
