"""What the explicit baselines and the harness cost beside plain torch: the same training step, in turns in one process."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.training.context import make_context
from bench.training.language_model import build_model
from bench.training.registry import build_task
from bench.training.trainer import Trainer, make_optimiser, training_step

_VOCABULARY, _LAYERS, _HEADS = 65, 4, 4
SHAPES = ((16, 64, 32), (8, 128, 128))  # batch, length, width
ROUNDS = 31
_STEPS = 60  # of a training, bare and in the harness
Row = dict[str, Any]


class _Layer(nn.Module):
    """A pre-norm block of GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, times, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, times, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, times, width))
        out: Tensor = x + self.contract(F.gelu(self.expand(self.between(x))))
        return out


class _GPT(nn.Module):
    """GPT-2 in plain torch: learned positions, fused attention, no dropout."""

    def __init__(self, times: int, width: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(_VOCABULARY, width), nn.Parameter(0.02 * torch.randn(times, width))
        self.layers, self.norm = nn.Sequential(*(_Layer(width) for _ in range(_LAYERS))), nn.LayerNorm(width)
        self.head = nn.Linear(width, _VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.layers(self.embedding(tokens) + self.positions)))
        return logits


class _Bare(nn.Module):
    """Embedding, one of torch's own recurrent networks, output layer."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(_VOCABULARY, width), nn.Linear(width, _VOCABULARY)
        self.network = kind(width, width, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(self.embedding(tokens))[0])
        return logits


def _plain(model: nn.Module, tokens: Tensor, targets: Tensor) -> Callable[[], None]:
    """A plain training step: the same loss, clipping and optimiser as the harness's."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimiser.step()

    return step


def _ours(name: str, settings: dict[str, Any], tokens: Tensor, targets: Tensor) -> Callable[[], None]:
    model = build_model(ComponentConfig(name=name, settings=settings), _VOCABULARY).train()
    optimiser, _ = make_optimiser(model, TrainConfig(steps=1, batch=1, learning_rate=1e-3))

    def step() -> None:
        training_step(model, optimiser, 0.25, tokens, targets)

    return step


def _seconds(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


def baselines(rounds: int | None = None) -> list[Row]:
    """Seconds of a training step of each baseline, and of its plain reference of the same size on the same batch."""
    rows: list[Row] = []
    for batch, times, width in SHAPES:
        tokens, targets = torch.randint(_VOCABULARY, (2, batch, times), generator=torch.Generator().manual_seed(0))
        gpt = _plain(_GPT(times, width), tokens, targets)
        cell = {"width": width, "depth": _LAYERS, "cell.heads": _HEADS}
        pairs = [
            ("tied Transformer, rotary", "GPT", _ours("tied", {**cell, "cell": "transformer"}, tokens, targets), gpt),
            ("tied Transformer, relative", "GPT", _ours("tied", {**cell, "cell": "transformer-xl"}, tokens, targets), gpt),
            (
                "Transformer-XL",
                "GPT",
                _ours("transformer-xl", {"width": width, "layers": _LAYERS, "heads": _HEADS}, tokens, targets),
                gpt,
            ),
            ("LSTM", "nn.LSTM", _ours("lstm", {"width": width}, tokens, targets), _plain(_Bare(nn.LSTM, width), tokens, targets)),
            ("GRU", "nn.GRU", _ours("gru", {"width": width}, tokens, targets), _plain(_Bare(nn.GRU, width), tokens, targets)),
        ]
        shape = f"batch {batch}, T {times}, D {width}"
        made: list[Row] = [{"shape": shape, "model": a, "reference": b, "model_s": [], "reference_s": []} for a, b, *_ in pairs]
        for number in range(2 + (ROUNDS if rounds is None else rounds)):
            for row, (*_, mine, theirs) in zip(made, pairs, strict=True):
                turns = [("model_s", mine), ("reference_s", theirs)]
                for name, step in turns if number % 2 else reversed(turns):
                    seconds = _seconds(step)
                    if number >= 2:  # the first are for warming up
                        row[name].append(seconds)
        rows += made
    return rows


def harness(rounds: int | None = None) -> list[Row]:
    """Seconds a step of a training by the harness, its validation taken off, and of the same steps in a bare loop."""
    rows = []
    for label, model in (
        ("tied Transformer 12", ComponentConfig(name="tied", settings={"width": 32, "cell.heads": 4})),
        ("DEQ-Transformer", ComponentConfig(name="deq", settings={"width": 32, "cell.heads": 4, "steps": 12, "backward_steps": 8})),
        ("GRU", ComponentConfig(name="gru", settings={"width": 32, "inputs": 32})),
    ):
        train = TrainConfig(steps=_STEPS, batch=16, learning_rate=1e-3)
        task = ComponentConfig(name="copy", settings={"T": 20, "test_samples": 16})
        spec = RunSpec(group="harness", label=label, model=model, task=task, train=train, seed=0)
        row: Row = {"model": label, "steps": _STEPS, "harness_s": [], "bare_s": []}
        for number in range(1 + (7 if rounds is None else rounds)):
            turns = [("harness_s", _in_the_harness), ("bare_s", _bare)]
            for name, go in turns if number % 2 else reversed(turns):
                seconds = go(spec) / _STEPS
                if number:
                    row[name].append(seconds)
        rows.append(row)
    return rows


def _in_the_harness(spec: RunSpec) -> float:
    torch.manual_seed(0)
    task = build_task(spec.task, {})
    model = build_model(spec.model, task.vocabulary)
    context = make_context(spec, task)
    trainer = Trainer(model, context)
    return _seconds(trainer.run) - (context.clocks.seconds("evaluation") or 0.0)


def _bare(spec: RunSpec) -> float:
    torch.manual_seed(0)
    task = build_task(spec.task, {})
    model = build_model(spec.model, task.vocabulary).train()
    optimiser, schedule = make_optimiser(model, spec.train)
    batches = task.batches("train", spec.train.batch, spec.seed)

    def loop() -> None:
        for _ in range(_STEPS):
            inputs, targets = next(batches)
            training_step(model, optimiser, spec.train.clip, inputs, targets)
            schedule.step()

    return _seconds(loop)
