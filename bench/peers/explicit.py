"""Cost of the explicit baselines and of the harness against plain torch, and of inference by a solver against layers.

The same step, alternating in one process.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers.libraries import METHODS, NEVER
from bench.peers.measure import Row, seconds_of, time_in_turns
from bench.peers.problems import TransformerBlock
from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.training.context import make_context
from bench.training.language_model import build_model
from bench.training.registry import build_task
from bench.training.trainer import Trainer, make_optimiser, training_step

_VOCABULARY, _LAYERS, _HEADS = 65, 4, 4
SHAPES = ((16, 64, 32), (8, 128, 128))  # batch, length, width
ROUNDS = 31
INFERENCE = (4, 6, 8, 12)  # evaluations of a solve, and layers
_STEPS = {"cpu": 200, "cuda": 60}  # of a training, in a plain loop and in the harness; on a GPU minutes are few


class _GPTBlock(TransformerBlock):
    """A pre-norm block of GPT-2."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x))
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norms[1](x))))
        return out


class _GPT(nn.Module):
    """GPT-2 in plain torch: learned positions, fused attention, no dropout."""

    def __init__(self, times: int, width: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(_VOCABULARY, width), nn.Parameter(0.02 * torch.randn(times, width))
        self.layers, self.norm = nn.Sequential(*(_GPTBlock(width, _HEADS) for _ in range(_LAYERS))), nn.LayerNorm(width)
        self.head = nn.Linear(width, _VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.layers(self.embedding(tokens) + self.positions)))
        return logits


class _PlainRecurrent(nn.Module):
    """Embedding, one of torch's own recurrent networks, output layer."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(_VOCABULARY, width), nn.Linear(width, _VOCABULARY)
        self.network = kind(width, width, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(self.embedding(tokens))[0])
        return logits


def _plain(model: nn.Module, tokens: Tensor, targets: Tensor) -> Callable[[], None]:
    """A plain training step with the loss, clipping and optimiser of the harness."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimiser.step()

    return step


def _ours(name: str, settings: Settings, tokens: Tensor, targets: Tensor) -> Callable[[], object]:
    model = build_model(ComponentConfig(name=name, settings=settings), _VOCABULARY).to(tokens.device).train()
    optimiser, _ = make_optimiser(model, TrainConfig(steps=1, batch=1, learning_rate=1e-3))
    return lambda: training_step(model, optimiser, 0.25, tokens, targets)


def _pairs(
    batch: int, times: int, width: int, device: str
) -> Iterator[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """Each baseline and its plain reference of the same size: their names and training steps on one batch."""
    tokens, targets = torch.randint(_VOCABULARY, (2, batch, times), generator=torch.Generator().manual_seed(0)).to(device)
    gpt = _plain(_GPT(times, width).to(device), tokens, targets)
    tied: Settings = {"width": width, "depth": _LAYERS, "cell.heads": _HEADS}
    xl: Settings = {"width": width, "layers": _LAYERS, "heads": _HEADS}
    yield "tied Transformer, rotary", "GPT", _ours("tied", {**tied, "cell": "transformer"}, tokens, targets), gpt
    yield "tied Transformer, relative", "GPT", _ours("tied", {**tied, "cell": "transformer-xl"}, tokens, targets), gpt
    yield "Transformer-XL", "GPT", _ours("transformer-xl", xl, tokens, targets), gpt
    for kind in (nn.LSTM, nn.GRU):
        name, plain = kind.__name__, _plain(_PlainRecurrent(kind, width).to(device), tokens, targets)
        yield name, f"nn.{name}", _ours(name.lower(), {"width": width}, tokens, targets), plain


def baselines(rounds: int | None = None, device: str = "cpu") -> list[Row]:
    """Seconds of a training step of each baseline and of its plain reference, in every round."""
    rows: list[Row] = []
    for batch, times, width in SHAPES:
        shape, turns = f"batch {batch}, T {times}, D {width}", []
        for model, reference, mine, theirs in _pairs(batch, times, width, device):
            row: Row = {"shape": shape, "model": model, "reference": reference, "model_s": [], "reference_s": []}
            turns += [
                (row[f"{side}_s"], partial(seconds_of, do, device=device)) for side, do in (("model", mine), ("reference", theirs))
            ]
            rows.append(row)
        time_in_turns(turns, ROUNDS if rounds is None else rounds, warmup=2)
    return rows


def inference(rounds: int | None = None, device: str = "cpu") -> list[Row]:
    """Seconds of a forward pass without gradients, in every round: of a DEQ that stops at a cap, and of its cell applied as often.

    `more_s`: at a cap of one more, which is what a solver costs that evaluates its result once again.
    """
    batch, times, width = SHAPES[0]
    tokens = torch.randint(_VOCABULARY, (batch, times), generator=torch.Generator().manual_seed(0)).to(device)
    cell: Settings = {"width": width, "cell.heads": _HEADS}
    rows: list[Row] = []

    def timed(name: str, settings: Settings) -> Callable[[], float]:
        model = build_model(ComponentConfig(name=name, settings=settings), _VOCABULARY).to(device).eval()
        forward = torch.inference_mode()(lambda: model(tokens))
        return partial(seconds_of, forward, repeats=3, device=device)

    for steps in INFERENCE:
        for method in METHODS:
            row: Row = {"evaluations": steps, "solver": method, "deq_s": [], "more_s": [], "tied_s": []}
            deq, more = (
                {**cell, "solver": method, "rtol": NEVER, "steps": cap, "evaluation_steps": cap} for cap in (steps, steps + 1)
            )
            turns = [(row["deq_s"], timed("deq", deq)), (row["more_s"], timed("deq", more))]
            turns.append((row["tied_s"], timed("tied", {**cell, "depth": steps})))
            time_in_turns(turns, ROUNDS if rounds is None else rounds, warmup=2)
            rows.append(row)
    return rows


def harness(rounds: int | None = None, device: Literal["cpu", "cuda"] = "cpu") -> list[Row]:
    """Seconds per step of a training by the harness, without its validation, and of the same steps in a plain loop."""
    deq: Settings = {"width": 32, "cell.heads": 4, "steps": 12, "backward_steps": 8}
    rows, steps = [], _STEPS[device]
    for label, name, settings in (
        ("tied Transformer 12", "tied", {"width": 32, "cell.heads": 4}),
        ("DEQ-Transformer", "deq", deq),
        ("GRU", "gru", {"width": 32, "inputs": 32}),
    ):
        train = TrainConfig(steps=steps, batch=16, learning_rate=1e-3)
        task = ComponentConfig(name="copy", settings={"T": 20, "test_samples": 16})
        model = ComponentConfig(name=name, settings=dict(settings))
        spec = RunSpec(group="harness", label=label, model=model, task=task, train=train, seed=0, device=device)
        row: Row = {"model": label, "steps": steps, "harness_s": [], "bare_s": []}
        turns = [(row["harness_s"], partial(_in_the_harness, spec)), (row["bare_s"], partial(_in_a_loop, spec))]
        time_in_turns(turns, 9 if rounds is None else rounds, warmup=1)
        rows.append(row)
    return rows


def _in_the_harness(spec: RunSpec) -> float:
    """Seconds per step."""
    torch.manual_seed(0)
    task = build_task(spec.task, {})
    model, context = build_model(spec.model, task.vocabulary).to(spec.device), make_context(spec, task)
    context.nvml.start()  # the trainer samples it
    seconds = seconds_of(Trainer(model, context).run, device=spec.device) - (context.clocks.seconds("evaluation") or 0.0)
    return seconds / spec.train.steps


def _in_a_loop(spec: RunSpec) -> float:
    """Seconds per step."""
    torch.manual_seed(0)
    task = build_task(spec.task, {})
    model = build_model(spec.model, task.vocabulary).to(spec.device).train()
    optimiser, schedule = make_optimiser(model, spec.train)
    batches = task.batches("train", spec.train.batch, spec.seed)

    def loop() -> None:
        for _ in range(spec.train.steps):
            inputs, targets = (part.to(spec.device) for part in next(batches))
            training_step(model, optimiser, spec.train.clip, inputs, targets)
            schedule.step()

    return seconds_of(loop, device=spec.device) / spec.train.steps
