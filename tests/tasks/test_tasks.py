"""Tasks serve the data they describe, and their chance and floor are what an explicit predictor scores."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.tasks.agreement import Agreement
from bench.tasks.copy import CopyMemory
from bench.tasks.markov import Markov
from bench.tasks.maze import Maze
from bench.tasks.recall import Recall
from bench.tasks.state_tracking import StateTracking
from bench.tasks.sudoku import Sudoku
from bench.tasks.task import Task
from bench.tasks.text import Text
from bench.training import trainer as loop
from bench.training.run import run

REAL_TEXT = Path(__file__).resolve().parents[2] / "../shared/data"


def small_copy() -> CopyMemory:
    return CopyMemory(T=5, samples=50, test_samples=20)


def small_agreement() -> Agreement:
    return Agreement(vocabulary=7, classes=2, dependency=2, sentences=3, test_samples=20)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    letters = np.random.default_rng(0).choice(list("abcde \n"), size=3_000)
    (tmp_path / "corpus.txt").write_text("".join(letters), encoding="utf-8")
    return tmp_path


MAKERS: dict[str, Callable[[], Task]] = {
    "copy": small_copy,
    "agreement": small_agreement,
    "markov": lambda: Markov(test_samples=20),
    "state tracking": lambda: StateTracking(group="S5", test_lengths="16", test_samples=20),
    "sudoku": lambda: Sudoku(test_blanks="8", test_samples=20),
    "maze": lambda: Maze(test_sizes="3", test_samples=20),
    "recall": lambda: Recall(test_samples=20),
}


@pytest.fixture(params=[*MAKERS, "char", "word"])
def task(request: pytest.FixtureRequest, corpus: Path) -> Task:
    if request.param in MAKERS:
        return MAKERS[request.param]()
    return Text(data="c", paths={"c": corpus}, unit=request.param, length=8, vocabulary_size=20)


def read_text(folder: Path, **given: object) -> Text:
    return Text(data="c", paths={"c": folder}, **given)  # type: ignore[arg-type]


def means(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    return task.summarise({name: float(total.detach()) / count for name, (total, count) in task.score(logits, targets).items()})


def whole(task: Task, split: str, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*task.batches(split, size, 0), strict=True)  # type: ignore[arg-type]
    return torch.cat(inputs), torch.cat(targets)


# every task ---------------------------------------------------------------------------------------------------------


def test_batches_have_the_promised_shape_type_and_range(task: Task) -> None:
    for split, numbers in (("train", 3), ("valid", 1), ("test", 1)):
        for inputs, targets in islice(task.batches(split, 4, 0), numbers):  # type: ignore[arg-type]
            for tokens in (inputs, targets):
                assert tokens.shape == (4, task.length)
                assert tokens.dtype == torch.int64
                assert tokens.min() >= 0
                assert tokens.max() < task.vocabulary


@pytest.mark.parametrize("first", [1, 11, 25, 90])
def test_a_training_batch_is_a_pure_function_of_its_number(task: Task, first: int) -> None:
    # epochs have 12 batches of 50 samples, or 84 of 2700 characters in 4 lanes of windows of 8
    stretch = list(islice(task.batches("train", 4, 3), first + 3))
    again = list(islice(task.batches("train", 4, 3, first=first), 3))
    for (inputs, targets), (inputs_again, targets_again) in zip(stretch[first:], again, strict=True):
        assert torch.equal(inputs, inputs_again)
        assert torch.equal(targets, targets_again)
    assert not torch.equal(stretch[first][0], stretch[first + 1][0])


def test_the_seed_changes_training_batches_and_nothing_else(task: Task) -> None:
    assert not torch.equal(next(task.batches("train", 4, 0))[0], next(task.batches("train", 4, 1))[0])
    for split in ("valid", "test"):
        for one, other in zip(task.batches(split, 4, 0), task.batches(split, 4, 1), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_held_out_split_ends_and_can_be_entered_anywhere(task: Task, split: str) -> None:
    batches = list(task.batches(split, 3, 0))  # type: ignore[arg-type]
    assert {len(inputs) for inputs, _ in batches[:-1]} == {3}
    assert 1 <= len(batches[-1][0]) <= 3
    for first in range(len(batches) + 2):
        rest = list(task.batches(split, 3, 0, first=first))  # type: ignore[arg-type]
        assert len(rest) == max(0, len(batches) - first)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(rest, batches[first:], strict=True))


def test_a_held_out_split_holds_the_same_sequences_at_every_batch_size(task: Task) -> None:
    def multiset(size: int) -> Counter[tuple[int, ...]]:
        inputs, targets = whole(task, "test", size)
        return Counter(tuple(row) for row in torch.cat([inputs, targets], dim=1).tolist())

    assert multiset(1) == multiset(3) == multiset(1_000)


def test_scores_are_float64_sums_whose_means_are_metrics(task: Task) -> None:
    inputs, targets = next(task.batches("test", 4, 0))
    logits = torch.randn(*inputs.shape, task.vocabulary, requires_grad=True)
    scores = task.score(logits, targets)
    for total, count in scores.values():
        assert total.dtype == torch.float64
        assert total.shape == ()
        assert isinstance(count, int)
    assert set(means(task, logits, targets)) == set(task.metrics)
    assert task.headline in task.metrics
    assert scores["loss"][1] == targets.numel()
    by_hand = -logits.log_softmax(-1).gather(-1, targets[..., None]).sum()
    assert float(scores["loss"][0].detach()) == pytest.approx(float(by_hand.detach()), rel=1e-6)
    scores["loss"][0].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_splits_share_no_sequences_beyond_chance(task: Task) -> None:
    if isinstance(task, Agreement):
        task = Agreement(test_samples=20)  # long sequences, so that none recurs by chance
    splits = [{tuple(row) for row in whole(task, split)[1].tolist()} for split in ("valid", "test")]
    splits.append({tuple(row) for _, batch in islice(task.batches("train", 4, 0), 12) for row in batch.tolist()})
    for one, other in itertools.combinations(splits, 2):
        assert not one & other


def test_wrong_batches_are_refused_before_the_first_is_asked_for(task: Task) -> None:
    with pytest.raises(UserError, match=r"unknown split 'vaild'; did you mean 'valid'"):
        task.batches("vaild", 4, 0)  # type: ignore[arg-type]
    for split in ("train", "test"):
        with pytest.raises(UserError, match=r"got 0"):
            task.batches(split, 0, 0)


@pytest.mark.parametrize(
    ("make", "settings", "changes"),
    [
        (CopyMemory, {"T": 5, "samples": 50}, [{"T": 6}, {"samples": 51}, {"delimiter": "run"}, {"data_seed": 1}]),
        (Agreement, {}, [{"noise": 0.1}, {"data_seed": 1}]),
        (Markov, {}, [{"states": 17}, {"length": 33}, {"chain": 1}]),
        (StateTracking, {"group": "S5"}, [{"group": "A5"}, {"length": 32}, {"data_seed": 1}]),
        (Sudoku, {}, [{"test_blanks": "8,9"}, {"data_seed": 1}]),
        (Maze, {}, [{"size": 4}, {"data_seed": 1}]),
        (Recall, {}, [{"keys": 16}, {"power": 0.02}, {"data_seed": 1}]),
    ],
)
def test_the_fingerprint_follows_the_data(make: Any, settings: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    given = {"test_samples": 20, **settings}
    prints = [make(**given | change).fingerprint() for change in ({}, *changes, {"test_samples": 19})]
    assert len(set(prints)) == len(prints)
    assert make(**given).fingerprint() == prints[0]
    assert len(prints[0]) == 64


# copy memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delimiter", "tail"),
    [
        # positions 11..25 for T = 5, counted from 1: the delimiter is at 15
        ("single", [0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("run", [0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
    ],
)
def test_copy_layout_by_hand(delimiter: str, tail: list[int]) -> None:
    task = CopyMemory(T=5, delimiter=delimiter, samples=300, test_samples=10)  # type: ignore[arg-type]
    assert (task.length, task.vocabulary) == (25, 10)
    inputs, targets = next(task.batches("train", 300, 0))
    assert inputs[:, 10:].tolist() == [tail] * 300
    assert targets[:, :15].tolist() == [[0] * 15] * 300
    assert torch.equal(targets[:, 15:], inputs[:, :10])
    share = torch.bincount(inputs[:, :10].flatten(), minlength=10) / 3_000
    assert share[0] == share[9] == 0
    assert share[1:9].sub(1 / 8).abs().max() < 0.03  # five standard errors


def test_copy_with_the_shortest_delay_keeps_the_payload_and_the_delimiter_apart() -> None:
    inputs, targets = next(CopyMemory(T=1, samples=10, test_samples=2).batches("train", 10, 0))
    assert inputs.shape == (10, 21)
    assert inputs[:, :10].max() < 9
    assert inputs[:, 10].tolist() == [9] * 10
    assert torch.equal(targets[:, 11:], inputs[:, :10])


@pytest.mark.parametrize("T", [5, 400])
def test_copy_chance_is_what_a_memoryless_predictor_scores(T: int) -> None:
    task = CopyMemory(T=T, samples=10, test_samples=40)
    _, targets = next(task.batches("test", 40, 0))
    probabilities = torch.zeros(40, T + 20, 10, dtype=torch.float64)
    probabilities[:, : T + 10, 0] = 1
    probabilities[:, T + 10 :, 1:9] = 1 / 8
    found = means(task, probabilities.log(), targets)
    assert found["loss"] == pytest.approx(task.metrics["loss"].chance, rel=1e-12)
    assert found["loss_last10"] == pytest.approx(task.metrics["loss_last10"].chance, rel=1e-12)
    assert found["loss"] == pytest.approx(10 * math.log(8) / (T + 20), rel=1e-12)
    assert task.metrics["accuracy_last10"].chance == 0.125


def test_copy_floor_is_what_perfect_recall_scores_and_a_wrong_symbol_costs_its_share() -> None:
    task = small_copy()
    _, targets = next(task.batches("test", 20, 0))
    logits = functional.one_hot(targets, 10) * 1e4
    assert means(task, logits, targets) == {name: metric.optimum for name, metric in task.metrics.items()}
    logits[0, -1] = functional.one_hot(torch.tensor(0), 10) * 1e4
    assert task.score(logits, targets)["accuracy_last10"] == (torch.tensor(199.0, dtype=torch.float64), 200)
    logits[0, 0] = functional.one_hot(torch.tensor(1), 10) * 1e4  # outside the last ten
    assert means(task, logits, targets)["accuracy_last10"] == pytest.approx(199 / 200)


def test_copy_losses_keep_their_digits_near_zero() -> None:
    task = small_copy()
    _, targets = next(task.batches("test", 20, 0))
    logits = functional.one_hot(targets, 10).float() * 25
    exact = math.log1p(9 * math.exp(-25))
    assert means(task, logits, targets)["loss"] == pytest.approx(exact, rel=1e-4)  # 1.2e-10: float32 would say 0


def test_copy_data_are_fixed_and_the_seed_only_orders_them() -> None:
    task = small_copy()

    def epoch(seed: int, number: int) -> list[tuple[int, ...]]:
        return [tuple(row) for inputs, _ in islice(task.batches("train", 10, seed, first=5 * number), 5) for row in inputs.tolist()]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    assert len(set(orders[0])) == 50
    assert all(Counter(order) == Counter(orders[0]) for order in orders)
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    other_data = CopyMemory(T=5, samples=50, test_samples=20, data_seed=1)
    assert not set(orders[0]) & {tuple(row) for row in next(other_data.batches("train", 50, 0))[0].tolist()}


def test_copy_epochs_drop_the_remainder_and_never_repeat_a_sample() -> None:
    task = small_copy()
    rows = [tuple(row) for inputs, _ in islice(task.batches("train", 8, 0), 6) for row in inputs.tolist()]
    assert len(set(rows)) == 48
    assert [len(whole(task, split)[0]) for split in ("valid", "test")] == [10, 20]


def test_copy_refuses_wrong_settings() -> None:
    with pytest.raises(UserError, match=r"T must be at least 1, got 0"):
        CopyMemory(T=0)
    with pytest.raises(UserError, match=r"samples must be at least 1, got -3"):
        CopyMemory(samples=-3)
    with pytest.raises(UserError, match=r"unknown delimiter 'sinlge'; did you mean 'single'"):
        CopyMemory(delimiter="sinlge")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"1\.\.50 .*got 51"):
        small_copy().batches("train", 51, 0)


# agreement ----------------------------------------------------------------------------------------------------------


def enumerate_language(task: Agreement) -> dict[tuple[int, ...], float]:
    """The probability of every sequence x_0..x_T with one sentence, by walking the generative story token by token."""
    K, fillers = task.classes, range(task.vocabulary - 2 * task.classes)
    joint: dict[tuple[int, ...], float] = {}
    for opener, chain, closer, following in itertools.product(
        range(K), itertools.product(fillers, repeat=task.dependency), range(K), range(K)
    ):
        p = float(task.opener[opener] * task.start[chain[0]])
        for one, other in itertools.pairwise(chain):
            p *= float(task.transition[one, other])
        p *= task.noise / K + (1 - task.noise) * (opener == closer)
        p *= float(task.opener[following])
        joint[(opener, *(2 * K + filler for filler in chain), K + closer, following)] = p
    return joint


def entropy(probabilities: list[float]) -> float:
    return math.fsum(-p * math.log(p) for p in probabilities if p)


@pytest.mark.parametrize(
    ("vocabulary", "classes", "dependency", "noise"),
    [(5, 1, 2, 0.05), (5, 2, 2, 0.3), (7, 2, 3, 0.1), (8, 2, 1, 0.5), (9, 3, 2, 0.0), (9, 3, 2, 1.0)],
)
def test_agreement_floor_and_chance_equal_brute_force(vocabulary: int, classes: int, dependency: int, noise: float) -> None:
    task = Agreement(vocabulary=vocabulary, classes=classes, dependency=dependency, noise=noise, sentences=1, test_samples=1)
    joint = enumerate_language(task)
    assert math.fsum(joint.values()) == pytest.approx(1, abs=1e-12)
    opener, frequency = Counter[int](), Counter[int]()
    closer, closer_with_opener = Counter[int](), Counter[tuple[int, int]]()
    for sequence, p in joint.items():
        opener[sequence[0]] += p  # type: ignore[assignment]
        for token in sequence[1:]:
            frequency[token] += p / task.length  # type: ignore[assignment]
        closer[sequence[-2]] += p  # type: ignore[assignment]
        closer_with_opener[sequence[0], sequence[-2]] += p  # type: ignore[assignment]

    # chain rule: the targets' conditional entropies given their whole prefixes sum to H(x_0..x_T) - H(x_0)
    rate = (entropy(list(joint.values())) - entropy(list(opener.values()))) / task.length
    assert task.optimum == pytest.approx(rate, abs=1e-12)
    assert task.unigram == pytest.approx(entropy(list(frequency.values())), abs=1e-12)
    agreement = task.metrics["loss_agreement"]
    assert agreement.chance == pytest.approx(entropy(list(closer.values())), abs=1e-12)
    given_opener = entropy(list(closer_with_opener.values())) - entropy(list(opener.values()))
    assert agreement.optimum == pytest.approx(given_opener, abs=1e-12)


def test_agreement_generator_draws_the_language_that_is_described() -> None:
    task = Agreement(vocabulary=6, classes=2, dependency=2, noise=0.3, sentences=1, test_samples=1)
    joint = enumerate_language(task)
    draws = 100_000
    inputs, targets = next(task.batches("train", draws, 0))
    found = Counter(map(tuple, torch.cat([inputs, targets[:, -1:]], dim=1).tolist()))
    assert set(found) <= set(joint)
    for sequence, p in joint.items():
        assert abs(found[sequence] - draws * p) < 5.5 * math.sqrt(draws * p * (1 - p)) + 1


def test_agreement_sentences_follow_one_another_independently() -> None:
    task = small_agreement()
    inputs, targets = next(task.batches("train", 40_000, 0))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    sentences = inputs.reshape(-1, 3, 4)
    openers, closers = torch.cat([sentences[..., 0], targets[:, -1:]], dim=1), sentences[..., -1] - 2
    assert openers.max() < 2
    assert (sentences[..., 1:3] >= 4).all()
    assert 0 <= closers.min() <= closers.max() < 2
    for place in range(3):
        # openers 2/3 and 1/3; closers agree but for half of the noise; the next opener depends on neither
        assert (openers[:, place] == 0).double().mean() == pytest.approx(2 / 3, abs=0.012)
        assert (openers[:, place] == closers[:, place]).double().mean() == pytest.approx(0.975, abs=0.004)
        after = openers[:, place + 1][openers[:, place] == 1]
        assert (after == 0).double().mean() == pytest.approx(2 / 3, abs=0.02)


def test_agreement_oracle_reaches_the_floor() -> None:
    task = Agreement()
    inputs, targets = next(task.batches("train", 8_000, 0))  # 384 000 tokens: standard error 0.1 % of the floor
    found = means(task, task.oracle(inputs), targets)
    assert found["loss"] == pytest.approx(task.optimum, rel=0.005)
    assert found["excess_nats"] == pytest.approx(found["loss"] - task.optimum, abs=1e-15)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    closer = task.metrics["loss_agreement"]
    assert closer.optimum is not None
    assert found["loss_agreement"] == pytest.approx(closer.optimum, rel=0.05)


def test_agreement_unigram_predictor_scores_chance() -> None:
    task = Agreement()
    _, targets = next(task.batches("train", 8_000, 0))
    frequency = torch.bincount(targets.flatten(), minlength=32).double() / targets.numel()
    loss = means(task, frequency.log().expand(*targets.shape, 32), targets)["loss"]
    assert loss == pytest.approx(task.unigram, rel=0.002)
    assert task.unigram > 2 * task.optimum
    # who knows that a closer is due, but not the opener, scores the closers' own entropy
    closers = torch.full((32,), -math.inf, dtype=torch.float64)
    closers[8:16] = torch.from_numpy(0.95 * task.opener + 0.05 / 8).log()
    blind = task.oracle(torch.zeros(1, 48, dtype=torch.int64)).expand(8_000, -1, -1).clone()
    blind[:, 10::12] = closers
    assert means(task, blind, targets)["loss_agreement"] == pytest.approx(task.metrics["loss_agreement"].chance, rel=0.01)


def test_agreement_oracle_is_a_distribution_equal_to_enumerated_conditionals() -> None:
    task = Agreement(vocabulary=7, classes=2, dependency=3, noise=0.3, sentences=1, test_samples=1)
    joint = enumerate_language(task)
    prefixes = Counter[tuple[int, ...]]()
    for sequence, p in joint.items():
        for end in range(1, len(sequence) + 1):
            prefixes[sequence[:end]] += p  # type: ignore[assignment]
    sequences = torch.tensor(list(joint))
    found = task.oracle(sequences[:, :-1])
    assert torch.allclose(found.exp().sum(-1), torch.ones((), dtype=torch.float64), atol=1e-12)
    chosen = found.gather(-1, sequences[:, 1:, None]).squeeze(-1).tolist()
    for sequence, row in zip(joint, chosen, strict=True):
        for end, logit in enumerate(row, start=1):
            assert math.exp(logit) == pytest.approx(prefixes[sequence[: end + 1]] / prefixes[sequence[:end]], rel=1e-9)


@pytest.mark.parametrize("changed_from", [1, 11, 12, 13, 30, 47])
def test_agreement_oracle_is_causal(changed_from: int) -> None:
    task = Agreement()
    inputs, _ = next(task.batches("train", 8, 0))
    changed = torch.cat([inputs[:, :changed_from], inputs.roll(1, dims=0)[:, changed_from:]], dim=1)
    assert not torch.equal(changed, inputs)
    before, after = task.oracle(inputs), task.oracle(changed)
    assert torch.equal(before[:, :changed_from], after[:, :changed_from])
    assert torch.equal(before[:, :changed_from], task.oracle(inputs[:, :changed_from]))


def test_agreement_oracle_uses_the_opener_across_the_fillers() -> None:
    task = Agreement()
    inputs, _ = next(task.batches("train", 8, 0))
    other = inputs.clone()
    other[:, 0] = (inputs[:, 0] + 1) % 8
    changed = (task.oracle(inputs) != task.oracle(other)).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == [10]
    with pytest.raises(UserError, match=r"needs an opener, id 0\.\.7"):
        task.oracle(inputs[:, 1:])


def test_agreement_training_data_never_recur() -> None:
    task = Agreement(test_samples=64)
    batches = [next(task.batches("train", size, seed, first=n)) for size in (2, 4) for seed in (0, 1) for n in (0, 1)]
    rows = [tuple(row) for inputs, _ in batches for row in inputs.tolist()]
    assert len(set(rows)) == len(rows)
    assert task.optimum != Agreement(test_samples=64, data_seed=1).optimum


def test_agreement_perplexity_of_a_diverged_loss_is_infinite() -> None:
    assert Agreement(test_samples=1).summarise({"loss": 1e4})["perplexity"] == math.inf


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": 16}, r"exceed 2 \* classes = 16 .*got 16"),
        ({"classes": 0}, r"classes must be at least 1, got 0"),
        ({"dependency": 0}, r"dependency must be at least 1, got 0"),
        ({"sentences": 0}, r"sentences must be at least 1, got 0"),
        ({"test_samples": 0}, r"test_samples must be at least 1, got 0"),
        ({"noise": 1.5}, r"0\.\.1, got 1\.5"),
        ({"noise": math.nan}, r"0\.\.1, got nan"),
    ],
)
def test_agreement_refuses_wrong_settings(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Agreement(**wrong)  # type: ignore[arg-type]


# text ---------------------------------------------------------------------------------------------------------------


def decode(task: Text, split: str) -> str:
    return "".join(task.symbols[token] for token in task.tokens[split].tolist())  # type: ignore[index]


def test_a_single_file_is_cut_90_5_5_in_order(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    task = read_text(tmp_path / "a.txt", length=4)
    assert (decode(task, "train"), decode(task, "valid"), decode(task, "test")) == (text[:90], text[90:95], text[95:])


def test_a_folder_without_named_splits_is_joined_in_name_order(tmp_path: Path) -> None:
    for name, text in {"b.txt": "b" * 50, "a.txt": "a" * 49, "c.md": "c" * 9, ".hidden.txt": "h", "d.txt": ""}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.txt").mkdir()
    task = read_text(tmp_path, length=4)
    assert "".join(decode(task, split) for split in ("train", "valid", "test")) == "a" * 49 + "\n" + "b" * 50 + "\n"
    for name in ("a.txt", "b.txt", "d.txt"):
        (tmp_path / name).unlink()
    (tmp_path / "d.rst").write_text("d" * 90)
    task = read_text(tmp_path, length=3)
    assert "".join(decode(task, split) for split in ("train", "valid", "test")) == "c" * 9 + "\n" + "d" * 90


@pytest.mark.parametrize(
    ("names", "cut"),
    [
        (("train.txt", "valid.txt", "test.txt"), (200, 30, 30)),
        (("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"), (200, 30, 30)),
        (("ptb.train.txt", "ptb-validation.txt", "Ptb_Test.txt"), (200, 30, 30)),
        (("corpus_train", "corpus_dev", "README.md"), (190, 30, 10)),
        (("train.txt", "devices.md", "test.txt"), (190, 10, 30)),
        (("train.txt", "contest.md", "latest.md"), (180, 10, 10)),
        (("training.txt", "val.txt", "tst.txt"), (200, 30, 30)),
        (("train (1).txt", "eval.txt", "TestSet.txt"), (200, 30, 30)),
        (("trn.txt", "dev2.txt", "testdata.txt"), (200, 30, 30)),
    ],
)
def test_named_splits_are_found_and_missing_ones_are_cut_from_train(
    tmp_path: Path, names: tuple[str, str, str], cut: tuple[int, int, int]
) -> None:
    train = "".join(chr(97 + i % 26) for i in range(200))
    for name, text in zip(names, (train, "v" * 30, "t" * 30), strict=True):
        (tmp_path / name).write_text(text)
    task = read_text(tmp_path, length=4)
    assert tuple(len(task.tokens[split]) for split in ("train", "valid", "test")) == cut
    rest = [decode(task, split) for split, size in zip(("valid", "test"), cut[1:], strict=True) if size == 10]
    assert decode(task, "train") + "".join(rest) == train
    if cut[1] == 30:
        assert decode(task, "valid") == "v" * 30
    if cut[2] == 30:
        assert decode(task, "test") == "t" * 30


def test_words_end_lines_and_the_vocabulary_is_the_most_frequent_of_train(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("b a  c\n\na b\td d\n" * 3, encoding="utf-8")
    (tmp_path / "valid.txt").write_text("a secret a\nb", encoding="utf-8")
    (tmp_path / "test.txt").write_text("c d secret secret secret secret\n", encoding="utf-8")
    task = read_text(tmp_path, unit="word", length=2, vocabulary_size=3)
    # <eos> 9 times; a, b, d 6 times each in the order of the words; c 3 times
    assert task.symbols == ["<eos>", "a", "b", "<unk>"]
    assert task.vocabulary == 4
    assert task.tokens["train"].tolist() == [2, 1, 3, 0, 0, 1, 2, 3, 3, 0] * 3
    assert task.tokens["valid"].tolist() == [1, 3, 1, 0, 2]
    assert task.tokens["test"].tolist() == [3, 3, 3, 3, 3, 3, 0]
    everything = read_text(tmp_path, unit="word", length=2)
    assert everything.symbols == ["<eos>", "a", "b", "d", "c", "<unk>"]  # and no "secret"


def test_an_unknown_mark_in_the_text_is_the_unknown_symbol(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("<unk> <unk> a a a b " * 5)
    (tmp_path / "valid.txt").write_text("<unk> c a b")
    (tmp_path / "test.txt").write_text("a b c")
    task = read_text(tmp_path, unit="word", length=2)
    assert task.symbols == ["a", "<unk>", "b"]
    assert task.tokens["valid"].tolist() == [1, 1, 0, 2]


def test_characters_outside_train_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("aé😀" * 9, encoding="utf-8")
    (tmp_path / "valid.txt").write_text("a😀zéß", encoding="utf-8")
    (tmp_path / "test.txt").write_text("ééz", encoding="utf-8")
    task = read_text(tmp_path, length=2)
    assert task.symbols == ["a", "é", "😀", "<unk>"]
    assert task.tokens["valid"].tolist() == [0, 2, 3, 1, 3]


def numbered(folder: Path, tokens: int, length: int) -> Text:
    """A text with every character once, so that a token's id is its place in the stream."""
    (folder / "train.txt").write_text("".join(chr(0x4E00 + i) for i in range(tokens)), encoding="utf-8")
    for name in ("valid.txt", "test.txt"):
        (folder / name).write_text("x" * 9)
    return read_text(folder, length=length)


@given(tokens=st.integers(60, 400), size=st.integers(1, 9), length=st.integers(1, 6), seed=st.integers(0, 5))
def test_training_lanes_are_contiguous_and_an_epoch_never_repeats(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, size: int, length: int, seed: int
) -> None:
    task = numbered(tmp_path_factory.mktemp("text"), tokens, length)
    per_epoch = tokens // size // length
    batches = list(islice(task.batches("train", size, seed), 2 * per_epoch))
    for inputs, targets in batches:
        assert torch.equal(targets, (inputs + 1) % tokens)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        seen = torch.cat([inputs.flatten() for inputs, _ in epoch])
        assert len(seen) == len(seen.unique()) == size * per_epoch * length
        for (_, ended), (begun, _) in itertools.pairwise(epoch):
            assert torch.equal(ended[:, -1], begun[:, 0])


def test_training_epochs_and_seeds_start_at_different_offsets(corpus: Path) -> None:
    task = read_text(corpus, length=8)
    per_epoch = len(task.tokens["train"]) // 4 // 8
    starts = [next(task.batches("train", 4, seed, first=e * per_epoch))[0] for seed in range(3) for e in range(3)]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(starts, 2))


@given(tokens=st.integers(60, 400), size=st.integers(1, 9), length=st.integers(1, 6), first=st.integers(0, 40))
def test_a_training_batch_goes_on_where_the_last_one_ended_unless_it_begins(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, size: int, length: int, first: int
) -> None:
    task = numbered(tmp_path_factory.mktemp("text"), tokens, length)
    begins = [number for number in range(first, first + 30) if task.begins(number, size)]
    assert begins == [number for number in range(first, first + 30) if number % (tokens // size // length) == 0]
    batches = dict(zip(range(first, first + 30), task.batches("train", size, 0, first), strict=False))
    for number in range(first + 1, first + 30):
        if number not in begins:
            assert torch.equal(batches[number][0][:, 0], batches[number - 1][1][:, -1])


def test_a_carried_memory_begins_anew_with_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 4)  # 162 to train: 10 batches of 2 x 8
    carried, step = [], loop.training_step

    def seen(model: Any, optimiser: Any, clip: Any, inputs: Any, targets: Any, memory: Any, *more: Any) -> Any:
        carried.append(memory is not None)
        return step(model, optimiser, clip, inputs, targets, memory, *more)

    monkeypatch.setattr(loop, "training_step", seen)
    spec = RunSpec(
        group="g",
        label="l",
        role="trial",
        model=ComponentConfig(name="gru", settings={"width": 4}),
        task=ComponentConfig(name="text", settings={"data": "a", "length": 8}),
        train=TrainConfig(steps=25, batch=2, learning_rate=0.01, carry=True, evaluation_batch=1),
        seed=0,
    )
    assert run(spec, suite="s", data={"a": tmp_path / "a.txt"}).status == "ok"
    assert [number for number, memory in enumerate(carried) if not memory] == [0, 10, 20]


@given(tokens=st.integers(9, 200), size=st.integers(1, 40), length=st.integers(1, 8))
def test_evaluation_scores_every_token_once_in_contiguous_lanes(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, size: int, length: int
) -> None:
    folder = tmp_path_factory.mktemp("text")
    text = "".join(chr(0x4E00 + i) for i in range(tokens))
    for name in ("train.txt", "valid.txt", "test.txt"):
        (folder / name).write_text(text, encoding="utf-8")
    task = read_text(folder, length=length)
    batches = list(task.batches("test", size, 0))
    targets = torch.cat([targets.flatten() for _, targets in batches])
    # all but the first token, which nothing predicts, and the tail that fills no window
    assert targets.sort().values.tolist() == list(range(1, (tokens - 1) // length * length + 1))
    for inputs, targets in batches:
        assert torch.equal(targets, inputs + 1)
        assert inputs.shape[1] == length
    for (_, ended), (begun, _) in itertools.pairwise(batches):
        assert torch.equal(ended[: len(begun), -1], begun[:, 0])


def test_windows_of_a_held_out_split_are_its_first(corpus: Path) -> None:
    everything, some = read_text(corpus, length=8), read_text(corpus, length=8, windows=3)
    for split in ("valid", "test"):
        assert torch.equal(whole(some, split, 1)[1], whole(everything, split, 1)[1][:3])
    assert torch.equal(next(some.batches("train", 2, 0))[0], next(everything.batches("train", 2, 0))[0])
    logits = torch.zeros(3, 8, some.vocabulary, dtype=torch.float64)
    assert some.metrics["loss"].chance != everything.metrics["loss"].chance
    assert means(some, logits, whole(some, "test")[1])["loss"] == pytest.approx(math.log(some.vocabulary))


def test_text_chance_is_what_the_smoothed_frequencies_of_train_score(corpus: Path) -> None:
    task = read_text(corpus, length=8)
    counts = Counter(decode(task, "train"))
    total = sum(counts.values()) + task.vocabulary
    logits = torch.tensor([math.log((counts[symbol] + 1) / total) for symbol in task.symbols], dtype=torch.float64)
    _, targets = whole(task, "test")
    found = means(task, logits.expand(*targets.shape, -1), targets)
    assert found.keys() == {"loss", "perplexity", "bits_per_char"}
    for name, value in found.items():
        assert value == pytest.approx(task.metrics[name].chance, rel=1e-6)
    assert found["bits_per_char"] == pytest.approx(found["loss"] / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert read_text(corpus, length=8, unit="word").metrics.keys() == {"loss", "perplexity"}
    assert task.summarise({"loss": 1e4})["perplexity"] == math.inf


def test_text_fingerprint_follows_tokens_and_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd" * 50)
    (tmp_path / "b.txt").write_text("abce" * 50)  # the same ids, another vocabulary
    (tmp_path / "c.txt").write_text("abcd" * 49 + "dcba")
    prints = [read_text(tmp_path / name, length=4).fingerprint() for name in ("a.txt", "b.txt", "c.txt")]
    assert len(set(prints)) == 3
    assert read_text(tmp_path / "a.txt", length=4).fingerprint() == prints[0]


def test_text_errors_name_what_is_wrong(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text("abcdefghij" * 20)
    with pytest.raises(UserError, match=r"'wiki'.*pass --data wiki=PATH\. Known: ptb, shakespeare"):
        Text(data="wiki", paths={"shakespeare": good, "ptb": good})
    with pytest.raises(UserError, match=r"pass --data wiki=PATH\. Known: none"):
        Text(data="wiki", paths={})
    with pytest.raises(UserError, match=r"no such file or folder: .*absent"):
        read_text(tmp_path / "absent")
    with pytest.raises(UserError, match=r"unknown unit 'chars'; did you mean 'char'"):
        read_text(good, unit="chars")
    with pytest.raises(UserError, match=r"length must be at least 1, got 0"):
        read_text(good, length=0)
    with pytest.raises(UserError, match=r"vocabulary_size must be at least 1, got 0"):
        read_text(good, vocabulary_size=0)
    with pytest.raises(UserError, match=r"the valid split .* has 10 tokens: too few for length 10, which needs 11"):
        read_text(good, length=10)
    with pytest.raises(UserError, match=r"batch size 21 .* has 180, enough for batches up to 20"):
        read_text(good, length=9).batches("train", 21, 0)
    assert next(read_text(good, length=9).batches("train", 20, 0))[0].shape == (20, 9)


def test_text_errors_name_the_file_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no text: no files"):
        read_text(tmp_path)
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(UserError, match=r"the train text of 'c' .* is empty"):
        read_text(tmp_path)
    (tmp_path / "train.txt").write_text("fine " * 50)
    (tmp_path / "test.txt").write_bytes(b"fine \xff not")
    with pytest.raises(UserError, match=r"test\.txt is not UTF-8: byte 0xff at offset 5"):
        read_text(tmp_path)
    (tmp_path / "other.test.txt").write_text("fine")
    with pytest.raises(UserError, match=r"has 2 test files, need one: other\.test\.txt, test\.txt"):
        read_text(tmp_path)


@pytest.fixture(scope="module")
def real_text() -> Path:
    if not REAL_TEXT.is_dir():
        pytest.skip(f"no real text: {REAL_TEXT} is absent")
    return REAL_TEXT


def test_shakespeare_by_character(real_text: Path) -> None:
    folder = real_text / "tinyshakespeare"
    text = (folder / "input.txt").read_text(encoding="utf-8")
    task = read_text(folder)
    assert [len(task.tokens[split]) for split in ("train", "valid", "test")] == [1_003_856, 55_769, 55_769]
    assert task.vocabulary == len(set(text[:1_003_856])) + 1 == 66
    assert "".join(decode(task, split) for split in ("train", "valid", "test")) == text
    inputs, targets = next(task.batches("train", 32, 0))
    assert "".join(task.symbols[token] for token in inputs[5].tolist()) in text
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert task.metrics["bits_per_char"].chance == pytest.approx(4.85, abs=0.01)


def test_wikitext_by_word(real_text: Path) -> None:
    folder = real_text / "wikitext-2"
    splits = ("train", "valid", "test")
    lines = {split: (folder / f"{split}.txt").read_text("utf-8").split("\n")[:-1] for split in splits}
    words = {split: [word for line in lines[split] for word in [*line.split(), "<eos>"]] for split in splits}
    task = read_text(folder, unit="word", vocabulary_size=1_000)
    assert {split: len(task.tokens[split]) for split in splits} == {split: len(words[split]) for split in splits}
    ranked = sorted(Counter(words["train"]).items(), key=lambda item: (-item[1], item[0]))[:1_000]
    assert task.symbols == [word for word, _ in ranked]
    kept = set(task.symbols)
    served = [task.symbols[token] for token in task.tokens["valid"].tolist()]
    assert served == [word if word in kept else "<unk>" for word in words["valid"]]
