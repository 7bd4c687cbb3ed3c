"""A DEQ with and without CUDA graphs of f: a training step, an evaluation and their memory, alternating in one process."""

import gc
from collections.abc import Callable
from functools import partial

import torch

from bench.instruments.meters import free_workspaces
from bench.peers.measure import Row, seconds_of, time_in_turns
from bench.records.spec import ComponentConfig, Settings, TrainConfig
from bench.training.language_model import LanguageModel, build_model
from bench.training.trainer import loss_of, make_optimiser, training_step
from deq import DEQ

_XL: Settings = {"cell": "transformer-xl", "cell.memory_length": 70}
_ANDERSON: Settings = {"solver": "anderson", "solver.window": 12, "steps": 12, "backward_steps": 8}
_MODELS: dict[str, Settings] = {
    "DEQ-Transformer": {**_XL, **_ANDERSON},
    "DEQ-Transformer, SHINE": {**_XL, "solver": "broyden", "steps": 8, "adjoint": "shine"},
    "DEQ-TrellisNet": {"cell": "trellis", **_ANDERSON, "steps": 20},
}
# Width, heads, inner width of the transformer, sequences, length, words: of the suites on a CPU, of ptb-gpu, of the paper's medium.
SIZES = {
    "small": (64, 4, 256, 16, 64, 65),
    "ptb-gpu": (320, 8, 6800, 32, 70, 10_000),
    "medium": (480, 10, 43_000, 15, 150, 10_000),
}
ROUNDS = 11
_UNTIMED = 3  # steps before the first that counts: the second makes the recordings


def graphs(rounds: int | None = None, device: str = "cuda", sizes: tuple[str, ...] = tuple(SIZES)) -> list[Row]:
    """Seconds of a training step and of an evaluation in every round, and the peak of a step (bytes), of each model and size."""
    return [_row(model, size, ROUNDS if rounds is None else rounds, device) for size in sizes for model in _MODELS]


def _row(name: str, size: str, rounds: int, device: str) -> Row:
    width, heads, inner, batch, times, words = SIZES[size]
    tokens, targets = torch.randint(words, (2, batch, times), generator=torch.Generator().manual_seed(0)).to(device)
    own: Settings = {"width": width, **_MODELS[name], "tied_embedding": True}
    own |= {"inputs": width} if own["cell"] == "trellis" else {"cell.heads": heads, "cell.feedforward": inner}
    row: Row = {"model": name, "size": size}
    turns: list[tuple[list[float], Callable[[], float]]] = []
    for kind, settings in (("eager", own), ("graphs", {**own, "cuda_graphs": True})):
        before = _allocated() if device == "cuda" else 0
        torch.manual_seed(0)
        model = build_model(ComponentConfig(name="deq", settings=dict(settings)), words).to(device)
        step, evaluation = _training(model, tokens, targets), _evaluation(model, tokens, targets)
        for _ in range(_UNTIMED):
            step()
        if device == "cuda":
            row[f"{kind}_bytes"] = _peak(model, step) - before
        for what, do in (("step", step), ("evaluation", evaluation)):
            turns.append((row.setdefault(f"{kind}_{what}_s", []), partial(seconds_of, do, 3, device)))
    time_in_turns(turns, rounds, warmup=2)
    return row


def _allocated() -> int:
    """Bytes of all tensors, without those that nobody can reach and without cuBLAS's workspaces, which are freed."""
    gc.collect()
    free_workspaces()
    return torch.cuda.memory_allocated()


def _peak(model: LanguageModel, step: Callable[[], object]) -> int:
    """Bytes at the peak of a step, recordings included and cuBLAS's workspaces left out; the recordings are dropped then."""
    torch.cuda.reset_peak_memory_stats()
    step()
    peak = torch.cuda.max_memory_allocated()
    gc.collect()
    with_workspaces = torch.cuda.memory_allocated()
    workspaces = with_workspaces - _allocated()
    for layer in model.modules():
        if isinstance(layer, DEQ):
            layer.forget_recordings()  # they would use the freed workspaces
    return peak - workspaces


def _training(model: LanguageModel, tokens: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    """A step that carries its memory on, as in a training of a text."""
    optimiser, _ = make_optimiser(model, TrainConfig(steps=1, batch=1, learning_rate=1e-5))
    memory = None

    def step() -> None:
        nonlocal memory
        model.train()
        _, memory = training_step(model, optimiser, 0.25, tokens, targets, memory)

    return step


def _evaluation(model: LanguageModel, tokens: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def evaluate() -> None:
        model.eval()
        loss_of(model, tokens, targets)

    return evaluate
