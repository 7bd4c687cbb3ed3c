"""The Markov task serves the chain that it describes, and its yardsticks are what explicit predictors score."""

import itertools
import math

import numpy as np
import pytest
import torch
from test_tasks import entropy, means, whole

from bench.records.errors import UserError
from bench.tasks.markov import Markov


@pytest.mark.parametrize(("states", "length"), [(2, 1), (5, 9), (16, 32)])
def test_targets_are_the_inputs_one_later(states: int, length: int) -> None:
    task = Markov(states=states, length=length, test_samples=4)
    inputs, targets = next(task.batches("train", 6, 0))
    assert (task.vocabulary, task.length) == (states, length)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.is_contiguous()


def test_frequencies_match_the_matrix_and_the_stationary_distribution_at_every_position() -> None:
    task = Markov(states=4, length=6, test_samples=1)
    draws = 60_000
    inputs, targets = next(task.batches("train", draws, 0))
    for t in range(6):
        share = np.bincount(inputs[:, t], minlength=4)
        spread = np.sqrt(draws * task.stationary * (1 - task.stationary))
        assert (abs(share - draws * task.stationary) < 5.5 * spread + 1).all(), t
        for s in range(4):
            after = targets[:, t][inputs[:, t] == s]
            found, p = np.bincount(after, minlength=4), task.transition[s]
            assert (abs(found - len(after) * p) < 5.5 * np.sqrt(len(after) * p * (1 - p)) + 1).all(), (t, s)


def test_the_past_beyond_the_current_token_says_nothing() -> None:
    task = Markov(states=3, length=2, test_samples=1)
    inputs, targets = next(task.batches("train", 100_000, 0))
    for first, current in itertools.product(range(3), repeat=2):
        after = targets[:, 1][(inputs[:, 0] == first) & (inputs[:, 1] == current)]
        found, p = np.bincount(after, minlength=3), task.transition[current]
        assert (abs(found - len(after) * p) < 5.5 * np.sqrt(len(after) * p * (1 - p)) + 1).all()


def test_samples_of_a_batch_are_independent() -> None:
    """Neighbours agree as often as two draws of the stationary distribution do."""
    task = Markov(states=4, length=3, test_samples=1)
    inputs, _ = next(task.batches("train", 100_000, 0))
    agree = (inputs[0::2] == inputs[1::2]).double().mean(0)
    assert agree.sub(float((task.stationary**2).sum())).abs().max() < 0.012


@pytest.mark.parametrize("chain", range(4))
def test_the_matrix_is_stochastic_and_the_distribution_stationary(chain: int) -> None:
    task = Markov(states=9, chain=chain, test_samples=1)
    assert (task.transition > 0).all()
    np.testing.assert_allclose(task.transition.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(task.stationary @ task.transition, task.stationary, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.matrix_power(task.transition, 4_000)[0], task.stationary, rtol=1e-8)
    assert task.stationary.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize(("states", "length", "chain"), [(2, 5, 0), (3, 4, 1), (4, 3, 7)])
def test_floor_and_chance_equal_brute_force(states: int, length: int, chain: int) -> None:
    """By the chain rule the targets' entropies given all that came before sum to H(x_0..x_T) - H(x_0)."""
    task = Markov(states=states, length=length, chain=chain, test_samples=1)
    joint = []
    for sequence in itertools.product(range(states), repeat=length + 1):
        p = float(task.stationary[sequence[0]])
        for one, other in itertools.pairwise(sequence):
            p *= float(task.transition[one, other])
        joint.append(p)
    assert math.fsum(joint) == pytest.approx(1, abs=1e-12)
    chance = entropy(list(task.stationary))
    assert task.metrics["loss"].chance == pytest.approx(chance, abs=1e-12)
    assert task.metrics["loss"].optimum == pytest.approx((entropy(joint) - chance) / length, abs=1e-12)


def test_the_metrics_agree_with_one_another() -> None:
    metrics = Markov().metrics
    loss = metrics["loss"]
    assert loss.chance is not None
    assert loss.optimum is not None
    assert loss.chance - loss.optimum > 0.5  # there is something to learn
    assert metrics["perplexity"].chance == pytest.approx(math.exp(loss.chance))
    assert metrics["perplexity"].optimum == pytest.approx(math.exp(loss.optimum))
    assert (metrics["excess_nats"].chance, metrics["excess_nats"].optimum) == (loss.chance - loss.optimum, 0.0)


def test_the_perfect_predictor_scores_the_floor_and_the_frequencies_score_chance() -> None:
    task = Markov(test_samples=4_000)
    inputs, targets = whole(task, "test", 1_000)
    found = means(task, task.oracle(inputs), targets)
    assert found["loss"] == pytest.approx(task.optimum, abs=0.012)
    assert found["excess_nats"] == found["loss"] - task.optimum
    assert found["perplexity"] == math.exp(found["loss"])
    frequencies = torch.from_numpy(task.stationary).log().expand(*inputs.shape, -1)
    assert means(task, frequencies, targets)["loss"] == pytest.approx(task.metrics["loss"].chance, abs=0.012)
    assert means(task, torch.zeros(*inputs.shape, 16), targets)["loss"] == pytest.approx(math.log(16), rel=1e-12)


def test_the_oracle_beats_what_is_close_to_it() -> None:
    task = Markov(test_samples=4_000)
    inputs, targets = whole(task, "test", 1_000)
    best = means(task, task.oracle(inputs), targets)["loss"]
    torch.manual_seed(0)
    for _ in range(3):
        other = (task.oracle(torch.arange(16)) + 0.3 * torch.randn(16, 16))[inputs]
        assert means(task, other, targets)["loss"] > best + 0.01


def test_a_loss_that_overflows_is_an_infinite_perplexity() -> None:
    assert Markov(test_samples=1).summarise({"loss": 800.0})["perplexity"] == math.inf


def test_the_global_generators_are_neither_used_nor_moved() -> None:
    def draw() -> torch.Tensor:
        return next(Markov(test_samples=2).batches("train", 4, 0))[0]

    torch.manual_seed(0)
    one, state = draw(), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw(), one)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_chain_chooses_the_matrix_and_the_data_seed_does_not() -> None:
    one, same, other = (Markov(chain=chain, test_samples=4) for chain in (0, 0, 1))
    assert np.array_equal(one.transition, same.transition)
    assert not np.array_equal(one.transition, other.transition)
    assert not torch.equal(whole(one, "test")[0], whole(other, "test")[0])


@pytest.mark.parametrize(
    ("name", "value", "least"), [("states", 1, 2), ("states", -4, 2), ("length", 0, 1), ("test_samples", 0, 1)]
)
def test_wrong_settings_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(UserError, match=f"markov: {name} must be at least {least}, got {value}"):
        Markov(**{name: value})
