"""Embedding and head of a language model: dropout, tied and adaptive tables, losses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench.training.evaluation
from baselines import Recurrent
from bench.instruments.operators import operations
from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.training.adaptive_softmax import AdaptiveEmbedding, adaptive_softmax
from bench.training.evaluation import evaluate
from bench.training.language_model import EmbeddingConfig, LanguageModel, build_model
from bench.training.registry import build_task
from bench.training.trainer import loss_of

V = 23
ADAPTIVE: Settings = {"width": 8, "cutoffs": "5,11", "div_value": 2.0}


def gru(vocabulary: int = V, **settings: Any) -> LanguageModel:
    return build_model(ComponentConfig(name="gru", settings={"width": 8, **settings}), vocabulary)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randint(V, (3, 7)), torch.randint(V, (3, 7))


def test_without_settings_nothing_is_drawn_or_changed() -> None:
    torch.manual_seed(4)
    model = gru()
    after = torch.rand(1)
    torch.manual_seed(4)
    core = nn.GRU(8, 8, batch_first=True)
    embedding, head = nn.Embedding(V, 8), nn.Linear(8, V)
    assert torch.equal(torch.rand(1), after)
    inputs, targets = batch()
    logits = head(core(embedding(inputs))[0])
    assert torch.equal(model.train()(inputs)[0], logits)
    assert torch.equal(model.loss(inputs, targets)[0], F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_a_tied_embedding_is_one_table_at_the_scale_of_a_free_one() -> None:
    model = gru(500, tied_embedding=True, width=64)
    assert model.head.weight is model.embedding.weight
    free = gru(500, width=64)
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in model.parameters()) == 500 * 64
    tokens = torch.arange(500).view(1, -1)
    assert model.embed(tokens).std().item() == pytest.approx(free.embed(tokens).std().item(), rel=0.1)
    assert model(tokens)[0].std() < 1.5  # logits of unit size, not of sqrt(64)


def test_all_parameters_start_in_the_initial_range_and_fill_it() -> None:
    model = gru(500, initial_range=0.1, width=64)
    values = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert values.abs().max() <= 0.1
    assert values.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert all(p.abs().max() > 0.09 for p in model.parameters())


def test_embedding_dropout_drops_all_occurrences_of_a_word() -> None:
    model = gru(embedding_dropout=0.5).train()
    tokens = torch.randint(V, (4, 50))
    x, whole = model.embed(tokens), model.eval().embed(tokens)
    kept = {}
    for token, row, full in zip(tokens.flatten().tolist(), x.flatten(0, 1), whole.flatten(0, 1), strict=True):
        assert torch.equal(row, torch.zeros(8)) or torch.allclose(row, 2 * full)
        kept.setdefault(token, set()).add(bool(row.any()))
    assert all(len(states) == 1 for states in kept.values())
    assert {True, False} == {next(iter(states)) for states in kept.values()}


def test_words_are_dropped_at_their_rate_and_scaled_to_the_same_mean() -> None:
    model = build_model(ComponentConfig(name="gru", settings={"width": 2, "embedding_dropout": 0.2}), 20_000).train()
    tokens = torch.arange(20_000).view(1, -1)
    x, whole = model.embed(tokens), model.embedding(tokens)
    dropped = (x == 0).all(-1)
    assert dropped.double().mean().item() == pytest.approx(0.2, abs=0.01)  # three and a half deviations
    torch.testing.assert_close(x[~dropped], whole[~dropped] / 0.8)


@pytest.mark.parametrize(("settings", "waits"), [({"embedding_dropout": 0.5}, 0), ({}, 0), (ADAPTIVE, 9)], ids=str)
def test_a_training_step_waits_for_a_gpu_only_to_sort_words_by_cluster(settings: Settings, waits: int) -> None:
    model, (inputs, targets) = gru(**settings).train(), (torch.arange(V).view(1, -1), torch.arange(V).view(1, -1))
    assert operations(lambda: model.loss(inputs, targets)[0].backward()).syncs == waits


@pytest.mark.parametrize("name", ["input_dropout", "output_dropout"])
def test_channels_are_dropped_at_all_positions_and_only_in_training(name: str) -> None:
    model, tokens = gru(**{name: 0.5}), torch.randint(V, (4, 9))

    def seen() -> Tensor:
        return model.embed(tokens) if name == "input_dropout" else model.run(tokens)[1][0]

    gone = model.train() and (seen() == 0)
    assert gone.any()
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    assert not torch.equal(gone[0], gone[1])
    model.eval()
    assert not (seen() == 0).any()


def test_auxiliary_features_have_the_same_head_and_mask_and_their_summed_loss() -> None:
    settings: Settings = {"width": 8, "depth": 6, "auxiliary_every": 2, "output_dropout": 0.3}
    model = build_model(ComponentConfig(name="trellisnet", settings=settings), V).train()
    inputs, targets = batch()
    torch.manual_seed(0)
    _, features = model.run(inputs)
    torch.manual_seed(0)
    own, output, auxiliary = model.loss(inputs, targets)
    losses = [F.cross_entropy(model.head(y).flatten(0, 1), targets.flatten()) for y in features]
    assert len(losses) == 3
    torch.testing.assert_close(own, losses[0])
    torch.testing.assert_close(auxiliary, losses[1] + losses[2])
    assert len({tuple((y == 0).any(1).flatten().tolist()) for y in features}) == 1
    torch.manual_seed(0)
    torch.testing.assert_close(loss_of(model, inputs, targets, auxiliary=0.3).total, losses[0] + 0.3 * (losses[1] + losses[2]))
    assert len(output.auxiliary) == 2


def dense(softmax: nn.AdaptiveLogSoftmaxWithLoss, own: Any = None) -> Tensor:
    """The embedding's table (V, D) as one matrix."""
    rows = [softmax.head.weight[:5]]
    for n, (project, table) in enumerate(softmax.tail):
        rows.append(table.weight @ (own[n].weight.T if own else project.weight))
    return math.sqrt(softmax.in_features) * torch.cat(rows)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adaptive_embedding_equals_its_dense_table(tied: bool) -> None:
    softmax = adaptive_softmax(8, V, "5,11", 2.0).double()
    embedding = AdaptiveEmbedding(softmax, tied_projections=tied).double()
    tokens = torch.randint(V, (3, 40))
    torch.testing.assert_close(embedding(tokens), dense(softmax, embedding.own)[tokens])
    assert embedding(tokens[:, :0]).shape == (3, 0, 8)


def test_an_adaptive_model_trains_all_its_tables_and_its_probabilities_sum_to_one() -> None:
    model = gru(**ADAPTIVE)
    inputs, targets = torch.arange(V).view(1, -1), torch.arange(V).flip(0).view(1, -1)
    model.loss(inputs, targets)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    logits = model(inputs)[0]
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(1, V))
    expected = F.nll_loss(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(inputs, targets)[0], expected)


def test_an_adaptive_models_parameters_are_counted() -> None:
    tables = 5 * 8 + 6 * 4 + 12 * 2 + 2 * 8 + (8 * 4 + 8 * 2)  # three tables, two cluster rows, two projections
    core = 3 * (8 * 8 + 8 * 8 + 16)
    assert sum(p.numel() for p in gru(**ADAPTIVE).parameters()) == tables + core
    assert sum(p.numel() for p in gru(**ADAPTIVE, tied_projections=False).parameters()) == tables + core + 8 * 4 + 8 * 2
    with torch.device("meta"):
        assert sum(p.numel() for p in gru(**ADAPTIVE).parameters()) == tables + core


def test_evaluation_in_slices_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build_task(ComponentConfig(name="copy", settings={"T": 5, "samples": 20, "test_samples": 20}), {})
    model = gru(task.vocabulary)
    train = TrainConfig(steps=1, batch=2, learning_rate=0.1, evaluation_batch=8)
    spec = RunSpec(group="g", label="l", model=ComponentConfig(name="gru"), task=ComponentConfig(name="copy"), train=train, seed=0)
    whole = evaluate(model, task, "test", spec)
    sizes = []
    logits = LanguageModel.logits
    monkeypatch.setattr(LanguageModel, "logits", lambda self, y: sizes.append(len(y)) or logits(self, y))
    monkeypatch.setattr(bench.training.evaluation, "_LOGITS", 3 * task.length * task.vocabulary)
    assert evaluate(model, task, "test", spec) == pytest.approx(whole)
    assert sizes == [3, 3, 2, 3, 3, 2, 3, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_dropout": 1.0}, "input_dropout must be in [0, 1), got 1.0"),
        ({"embedding_dropout": "much"}, "embedding_dropout"),
        ({"initial_range": -0.1}, "initial_range must be positive and finite, got -0.1"),
        ({"inputs": 4, "tied_embedding": True}, "inputs (4) equal to the core's width (8)"),
        ({"inputs": 4, "cutoffs": "5"}, "inputs (4) equal to the core's width (8)"),
        ({"cutoffs": "5,x"}, "cutoffs must be integers between commas, got '5,x'"),
        ({"cutoffs": "11,5"}, "cutoffs must rise"),
        ({"cutoffs": "5,23"}, "below the vocabulary of 23"),
        ({"cutoffs": "0,5"}, "cutoffs must rise"),
        ({"cutoffs": "5,11", "div_value": 4.0}, "leave the last cluster a number"),
        ({"cutoffs": "5", "div_value": 0.5}, "div_value must be at least 1"),
    ],
)
def test_a_wrong_setting_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(UserError) as caught:
        gru(**settings)
    assert message in str(caught.value)


class Own(Recurrent):
    """A user's model with an output dropout of its own."""

    def __init__(self, *, inputs: int, width: int, output_dropout: float = 0.0) -> None:
        super().__init__(kind="gru", inputs=inputs, width=width)
        self.own = output_dropout


def test_a_model_with_a_setting_of_that_name_keeps_it() -> None:
    model = build_model(
        ComponentConfig(name="test_language_model:Own", settings={"width": 8, "output_dropout": 0.5, "input_dropout": 0.25}), V
    )
    assert model.core.own == 0.5
    assert model.config == EmbeddingConfig(input_dropout=0.25)
