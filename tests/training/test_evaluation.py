"""The score of a split does not depend on how many sequences are evaluated at a time."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from cases import product
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.tasks.text import Text
from bench.training.evaluation import evaluate
from bench.training.language_model import LanguageModel, build_model
from deq import Core, Output

pytestmark = pytest.mark.end_to_end

CELL: Settings = {"cell": "transformer", "cell.heads": 2, "cell.memory_length": 6}
TIGHT: Settings = {"steps": 200, "rtol": 1e-12, "evaluation_steps": 200}
MODELS: dict[str, tuple[str, Settings]] = {
    "LSTM": ("lstm", {}),
    "GRU": ("gru", {}),
    "TCN": ("tcn", {"kernel": 2, "levels": 2}),
    "Transformer-XL": ("transformer-xl", {"heads": 2, "feedforward": 8, "layers": 2, "memory_length": 6}),
    "TrellisNet": ("trellisnet", {"depth": 3, "cell.hidden": 12}),
    "tied": ("tied", {**CELL, "depth": 3}),
    "Neural ODE": ("ode", {**CELL, "method": "euler", "step_size": 1.0}),
    "DEQ": ("deq", {**CELL, **TIGHT}),
    "DEQ, Transformer-XL": ("deq", {"cell": "transformer-xl", "cell.heads": 2, "cell.memory_length": 6, **TIGHT}),
    "DEQ, TrellisNet": ("deq", {"cell": "trellis", **TIGHT}),
}


class Sums(Core):
    """A user's model whose memory has the batch in its last dimension, and a part without a batch."""

    width = 4
    scale: ClassVar[float] = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        past = {"steps": 0, "sum": torch.zeros(4, len(x), dtype=x.dtype)} if memory is None else memory
        y = self.scale * (past["sum"].T[:, None] + x.cumsum(dim=1)) + 0.01 * past["steps"]
        return Output(self.mix(y), {"steps": past["steps"] + 1, "sum": past["sum"] + x.detach().sum(dim=1).T})


def built(name: str, vocabulary: int) -> LanguageModel:
    if name == "a user's":
        return LanguageModel(vocabulary=vocabulary, inputs=4, core=Sums()).double()
    model, settings = MODELS[name]
    return build_model(ComponentConfig(name=model, settings={"width": 4, **settings}), vocabulary).double()


def text(folder: Path, characters: int) -> Text:
    (folder / "a.txt").write_text("".join("abcdefg"[(3 * i * i + i // 5) % 7] for i in range(20 * characters)))
    return Text(data="a", paths={"a": folder / "a.txt"}, length=4)


def spec(size: int, carry: bool) -> RunSpec:
    train = TrainConfig(steps=1, batch=2, learning_rate=0.1, evaluation_batch=size, carry=carry)
    return RunSpec(
        group="g",
        label="l",
        model=ComponentConfig(name="gru"),
        task=ComponentConfig(name="text", settings={"data": "a"}),
        train=train,
        seed=0,
    )


@pytest.mark.parametrize(("name", "carry"), product([*MODELS, "a user's"], [False, True]))
def test_the_score_is_the_same_at_every_evaluation_batch(name: str, carry: bool, tmp_path: Path) -> None:
    task = text(tmp_path, 70)  # 17 windows
    model = built(name, task.vocabulary)
    losses = [evaluate(model, task, "test", spec(size, carry))["loss"] for size in (1, 2, 3, 5, 8, 17, 40)]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-9)


@pytest.mark.parametrize("name", [*MODELS, "a user's"])
def test_a_memory_is_carried_along_the_lanes_of_the_task(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = text(tmp_path, 70)
    monkeypatch.setattr(Text, "lanes", lambda *_: 3)  # 6, 6 and 5 windows: the last batch has two of the lanes
    model = built(name, task.vocabulary)
    losses = [evaluate(model, task, "test", spec(size, True))["loss"] for size in (1, 2, 3, 4)]
    stream, total = task.tokens["test"].long(), 0.0
    for begin, end in ((0, 6), (6, 12), (12, 17)):
        memory = None
        for window in range(begin, end):
            tokens = stream[None, 4 * window : 4 * window + 5]
            with torch.no_grad():
                logits, output = model.eval()(tokens[:, :-1], memory)
            memory, total = output.memory, total + task.score(logits, tokens[:, 1:])["loss"][0].item()
    assert losses == pytest.approx([total / 68] * 4, rel=1e-6)


def test_a_short_split_is_one_stream_and_a_long_one_ten_lanes(tmp_path: Path) -> None:
    found = {}
    for windows in (17, 127, 128, 640, 2000):
        (tmp_path / "a.txt").write_text("ab" * 40 * (windows + 1))
        found[windows] = Text(data="a", paths={"a": tmp_path / "a.txt"}, length=4, windows=windows).lanes("test")
    assert found == {17: 1, 127: 1, 128: 2, 640: 10, 2000: 10}
