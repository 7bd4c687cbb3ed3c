"""Whether a model predicts from the past alone, and its score from prefixes."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from test_evaluation import built
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.tasks.agreement import Agreement
from bench.training.causality import causality
from bench.training.language_model import LanguageModel
from deq import Core, Output

TASK = Agreement(test_samples=8)
SPEC = RunSpec(
    group="g",
    label="l",
    model=ComponentConfig(name="deq"),
    task=ComponentConfig(name="agreement"),
    train=TrainConfig(steps=1, batch=4, learning_rate=0.01, evaluation_batch=8),
    seed=0,
)


class NextToken(Core):
    """Output the features of the next position, zero at the last: with one-hot features, the target of a language."""

    width = TASK.vocabulary

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(torch.cat((x[:, 1:], torch.zeros_like(x[:, :1])), dim=1), None)


def measures(model: LanguageModel) -> dict[str, float | None]:
    return {name: one.value for name, one in causality(model, TASK, SPEC).items()}


def test_a_model_that_reads_its_targets_is_at_chance_from_prefixes() -> None:
    size = TASK.vocabulary
    model = LanguageModel(vocabulary=size, inputs=size, core=NextToken()).double()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(size))
        model.head.weight.copy_(100 * torch.eye(size))
        model.head.bias.zero_()
    inputs, _ = next(TASK.batches("test", 8, 0))
    found = measures(model)
    # Only the last position, which has no next one, is at chance in the whole sequence.
    assert found["prefix_gap"] == pytest.approx(math.log(size) * (1 - 1 / inputs.shape[1]), rel=1e-12)
    assert found["future_leak_nats"] == pytest.approx(100)


@pytest.mark.parametrize("name", ["LSTM", "TCN", "Transformer-XL", "TrellisNet", "tied"])
def test_a_causal_model_has_no_leak_and_needs_no_prefixes(name: str) -> None:
    assert measures(built(name, TASK.vocabulary)) == {"future_leak_nats": 0.0, "prefix_gap": None}


def test_a_solved_deq_scores_alike_from_prefixes() -> None:
    found = measures(built("DEQ, TrellisNet", TASK.vocabulary))
    assert found["prefix_gap"] == pytest.approx(0, abs=1e-10)
    assert found["future_leak_nats"] == pytest.approx(0, abs=1e-9)


def test_the_gap_of_an_unsolved_deq_is_that_of_one_sequence_and_position_at_a_time() -> None:
    torch.manual_seed(2)
    model = built("DEQ", TASK.vocabulary)
    found = measures(model)
    model.eval()
    inputs, targets = next(TASK.batches("test", 8, 0))
    gaps = [
        functional.cross_entropy(model(sequence[None, : end + 1])[0][0, -1], wanted[end])
        - functional.cross_entropy(model(sequence[None])[0][0, end], wanted[end])
        for sequence, wanted in zip(inputs, targets, strict=True)
        for end in range(len(sequence))
    ]
    # Rounding, which depends on the size of the batch, grows in iterations that do not converge.
    assert found["prefix_gap"] == pytest.approx(torch.stack(gaps).mean().item(), rel=0.05)


def test_the_model_goes_on_in_training_mode() -> None:
    model = built("DEQ", TASK.vocabulary)
    model.train()
    measures(model)
    assert model.training


def test_a_task_with_several_test_parts_has_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model = built("DEQ", TASK.vocabulary)
    assert measures(model)["prefix_gap"] is not None
    monkeypatch.setattr(TASK, "parts", 2)
    assert measures(model)["prefix_gap"] is None
