"""State tracking: the groups are groups, targets are products, and an automaton is the optimum."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.records.errors import UserError
from bench.tasks.state_tracking import StateTracking, multiplication_table

SIZES = {"parity": 2, "S3": 6, "A5": 60, "S5": 120}


@pytest.mark.parametrize(("group", "size"), SIZES.items())
def test_the_table_is_that_of_the_group(group: str, size: int) -> None:
    table = multiplication_table(group)
    assert table.shape == (size, size)
    everyone = np.arange(size)
    (identity,) = [one for one in everyone if (table[one] == everyone).all()]
    assert (table[:, identity] == everyone).all()
    assert all((np.sort(table[one]) == everyone).all() and (np.sort(table[:, one]) == everyone).all() for one in everyone)
    triples = np.random.default_rng(0).integers(size, size=(3, 2000))
    a, b, c = triples
    assert (table[a, table[b, c]] == table[table[a, b], c]).all()
    assert (table == table.T).all() == (group == "parity")


@pytest.mark.parametrize("group", ["S3", "A5", "S5"])
def test_a_product_is_the_composed_permutation(group: str) -> None:
    degree = int(group[1])
    permutations = list(itertools.permutations(range(degree)))
    if group == "A5":
        permutations = [one for one in permutations if np.linalg.det(np.eye(degree)[list(one)]) > 0]
    task = StateTracking(group=group, length=6, test_lengths="6", test_samples=20)  # type: ignore[arg-type]
    inputs, targets = next(task.batches("test", 20, 0))
    for words, states in zip(inputs.tolist(), targets.tolist(), strict=True):
        state = list(range(degree))
        for word, expected in zip(words, states, strict=True):
            state = [permutations[word][place] for place in state]
            assert tuple(state) == permutations[expected]


@pytest.mark.parametrize(("group", "size"), SIZES.items())
def test_two_generators_reach_the_whole_group(group: str, size: int) -> None:
    task = StateTracking(group=group, generators=True, test_samples=40)  # type: ignore[arg-type]
    words, states = next(task.batches("train", 200, 0))
    letters = words.unique().tolist()
    assert len(letters) == 2
    reached = {*letters}
    while more := {int(task.products[letter, state]) for letter in letters for state in reached} - reached:
        reached |= more
    assert len(reached) == size
    assert {*states.flatten().tolist()} <= reached
    changed = StateTracking(group=group, test_samples=40).fingerprint() != task.fingerprint()  # type: ignore[arg-type]
    assert changed == (group != "parity")  # whose elements generate it


def test_parity_counts_ones() -> None:
    inputs, targets = next(StateTracking().batches("train", 50, 3))
    assert torch.equal(targets, inputs.cumsum(1) % 2)


def one_hot(targets: Tensor, size: int) -> Tensor:
    return 50.0 * torch.nn.functional.one_hot(targets, size).float()


@pytest.mark.parametrize("group", ["parity", "S3"])
def test_the_optimum_and_chance_are_what_predictors_score(group: str) -> None:
    task = StateTracking(group=group, length=8, test_lengths="8,20", test_samples=3000)  # type: ignore[arg-type]
    exact: dict[str, list[float]] = {}
    guessed: dict[str, list[float]] = {}
    for _, targets in task.batches("test", 1000, 0):
        best = one_hot(targets, task.vocabulary)
        blind = torch.zeros_like(best)
        generator = torch.Generator().manual_seed(0)
        blind = blind + 1e-6 * torch.rand(blind.shape, generator=generator)  # a guess among equals
        for logits, found in ((best, exact), (blind, guessed)):
            for name, (total, count) in task.score(logits, targets).items():
                found.setdefault(name, []).append(float(total) / count)
    assert {*exact} == {*task.metrics}
    for name, metric in task.metrics.items():
        assert np.mean(exact[name]) == pytest.approx(metric.optimum, abs=1e-6)
        assert np.mean(guessed[name]) == pytest.approx(metric.chance, abs=0.04 if "last" in name else 0.02)


def test_every_test_length_is_served_and_the_trained_one_first() -> None:
    task = StateTracking(group="S3", length=4, test_lengths="2,4,9", test_samples=5)
    shapes = [tuple(inputs.shape) for inputs, _ in task.batches("test", 3, 0)]
    assert shapes == [(3, 4), (2, 4), (3, 2), (2, 2), (3, 9), (2, 9)]
    assert [tuple(inputs.shape) for inputs, _ in task.batches("test", 3, 0, 4)] == shapes[4:]
    assert [tuple(inputs.shape) for inputs, _ in task.batches("valid", 3, 0)] == [(3, 4), (2, 4)]
    assert {"loss", "loss_T9", "accuracy_T4", "accuracy_last_T2", "accuracy_last_T9"} <= {*task.metrics}


def test_the_loss_of_a_uniform_guess_is_the_logarithm_of_the_size() -> None:
    task = StateTracking(group="A5", length=5, test_lengths="5", test_samples=10)
    _, targets = next(task.batches("valid", 10, 0))
    total, count = task.score(torch.zeros(10, 5, 60), targets)["loss"]
    assert float(total) / count == pytest.approx(math.log(60))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"group": "S4"}, "unknown group 'S4'"),
        ({"length": 0}, "length must be at least 1"),
        ({"test_lengths": "8,x"}, "numbers at least 1 with commas"),
        ({"test_lengths": "8"}, "among them 16; got '8'"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        StateTracking(**wrong)  # type: ignore[arg-type]
