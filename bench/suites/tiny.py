"""A dozen runs of one or two seconds, including one of each failure, to try and test the harness."""

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn

from bench.records.spec import Comparison, ComponentConfig, Limits, RunSpec, RunStatus, TrainConfig
from bench.suites.recipes import row
from deq import Core, Output


class Faulty(Core):
    """A linear layer that fails at its `at`-th training step in the way `how`.

    The count is a buffer, and so in the checkpoint: a resumed run gets past that step.
    """

    count: Tensor

    def __init__(self, *, inputs: int, width: int, how: str, at: int = 3) -> None:
        super().__init__()
        if how not in FAULTS:
            raise ValueError(f"how must be one of {', '.join(FAULTS)}, got {how!r}")
        self.width, self.how, self.at = width, how, at
        self.layer = nn.Linear(inputs, width)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.held: list[Tensor] = []

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Return the layer's output, or fail."""
        y = self.layer(x)
        if self.training:
            self.count += 1
            if self.count >= self.at:
                y = getattr(self, f"_{self.how}")(y)
        return Output(y)

    def _nan(self, y: Tensor) -> Tensor:
        return y * float("nan")

    def _grow(self, y: Tensor) -> Tensor:
        self.held.append(torch.ones(2**24))
        return y

    def _dawdle(self, y: Tensor) -> Tensor:
        time.sleep(0.05)
        return y

    def _crash(self, y: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGSEGV)
        return y

    def _stop(self, y: Tensor) -> Tensor:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return y


FAULTS = ("nan", "grow", "oom", "dawdle", "timeout", "crash", "crashed", "stop", "interrupted")
_COPY = ComponentConfig(name="copy", settings={"T": 5, "samples": 1000, "test_samples": 100})


def _faulty(label: str, how: str, expected: RunStatus, limits: Limits | None = None) -> RunSpec:
    model = ComponentConfig(name="bench.suites.tiny:Faulty", settings={"width": 8, "how": how})
    train = TrainConfig(steps=100, batch=4, learning_rate=1e-2)
    return RunSpec(group="faults", label=label, model=model, task=_COPY, train=train, seed=0, limits=limits, expected=expected)


SPECS = [
    Comparison(
        group="copy memory T=5",
        task=_COPY,
        train=TrainConfig(steps=60, batch=16, learning_rate=1e-2, warmup=10, evaluate_every=20),
        rows={
            "DEQ": row("deq", {"width": 16, "cell.heads": 2, "steps": 8, "backward_steps": 6}),
            "GRU": row("gru", {"inputs": 16}),
        },
        reference="DEQ",
        learning_rates=(3e-3, 1e-2),
        trial_steps=30,
        seeds=(0, 1),
        depths=(2, 4, 8),
    ),
    _faulty("not a number", "nan", "diverged"),
    _faulty("too much memory", "grow", "oom", Limits(memory_bytes=2**29)),
    _faulty("too slow", "dawdle", "timeout", Limits(seconds=1.5)),
    _faulty("crashes", "crash", "crashed"),
    _faulty("interrupted", "stop", "interrupted"),
]
