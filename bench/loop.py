"""The training loop and the evaluation, the same for every model."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.machine import Machine
from bench.meters import Clocks, Nvml
from bench.model import LanguageModel
from bench.recipe import Course
from bench.record import Point
from bench.spec import Spec, Train
from bench.tasks.task import Split, Task
from bench.telemetry import Telemetry

_LOGITS = 1 << 26  # so many are evaluated at a time: a batch of a word vocabulary may not fit in memory

Progress = Callable[[int, int, float | None], None]


class Diverged(Exception):
    """The training loss is no longer finite."""


class Losses(NamedTuple):
    """What is minimised (scalar, attached), its cross-entropy alone (nats, detached), and the memory to carry on."""

    total: Tensor
    cross_entropy: Tensor
    memory: Any


def loss_of(model: LanguageModel, inputs: Tensor, targets: Tensor, memory: Any = None, auxiliary: float = 0.0) -> Losses:
    """Mean cross-entropy over all positions, plus the Core's penalty and `auxiliary` times that of its auxiliary features."""
    total, output, supervision = model.loss(inputs, targets, memory)
    cross_entropy = total.detach()
    if output.penalty is not None:
        total = total + output.penalty
    if auxiliary and supervision is not None:
        total = total + auxiliary * supervision
    return Losses(total, cross_entropy, output.memory)


def make_optimiser(model: nn.Module, train: Train) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and its learning rate: linear warm-up over `warmup` steps, then a cosine that reaches zero after the last step."""

    def factor(step: int) -> float:
        if step < train.warmup:
            return (step + 1) / train.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - train.warmup) / max(1, train.steps - train.warmup)))

    optimiser = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def training_step(
    model: LanguageModel,
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    inputs: Tensor,
    targets: Tensor,
    memory: Any = None,
    auxiliary: float = 0.0,
) -> tuple[Tensor, Any]:
    """Forward, backward, clipped update; the cross-entropy (detached) and the memory to carry on."""
    optimiser.zero_grad(set_to_none=True)
    losses = loss_of(model, inputs, targets, memory, auxiliary)
    losses.total.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)  # after backward: a published baseline clips before, so not at all
    optimiser.step()
    return losses.cross_entropy, losses.memory


@torch.no_grad()
def evaluate(model: LanguageModel, task: Task, split: Split, spec: Spec) -> dict[str, float]:
    """The task's metrics over a whole split, in evaluation mode."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    training = model.training
    model.eval()
    memory, size = None, 0
    for inputs, targets in task.batches(split, spec.train.evaluation_batch, seed=0):
        inputs, targets = inputs.to(spec.device), targets.to(spec.device)
        if memory is not None and len(inputs) != size:
            memory = None  # the split's last, smaller batch
        size = len(inputs)
        output, (y, *_) = model.run(inputs, memory)
        memory = output.memory if spec.train.carry else None
        samples = max(1, _LOGITS // (inputs.shape[1] * task.vocabulary))
        for some, wanted in zip(y.split(samples), targets.split(samples), strict=True):
            for name, (total, count) in task.score(model.logits(some), wanted).items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=total.device)) + total
                counts[name] = counts.get(name, 0) + count
    model.train(training)
    return task.summarise({name: sums[name].item() / counts[name] for name in sums})


class Training:
    """One model's training: runs the steps, keeps the curve. `curve` holds what was reached even when `run` raises Diverged."""

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        spec: Spec,
        *,
        clocks: Clocks,
        telemetry: Telemetry,
        nvml: Nvml,
        machine: Machine,
        progress: Progress,
    ) -> None:
        self.model, self.task, self.spec = model, task, spec
        self.clocks, self.telemetry, self.nvml, self.machine, self.progress = clocks, telemetry, nvml, machine, progress
        self.optimiser, self.schedule = make_optimiser(model, spec.train)
        self.course = Course(model, spec.recipe, spec.train.steps)
        self.curve: list[Point] = []

    def run(self) -> None:
        """All steps, with validation every `evaluate_every` and at the end; Diverged at the first loss that is not finite."""
        train = self.spec.train
        batches = self.task.batches("train", train.batch, self.spec.seed)
        interval = max(1, train.steps // 100)
        done, memory = 0, None
        self.model.train()
        while done < train.steps:
            chunk = min(interval, train.steps - done)
            losses = []
            with self.machine.shared(), self.clocks.phase("train" if done else "warmup"):
                for step in range(done, done + chunk):
                    self.course.at(step)
                    inputs, targets = (part.to(self.spec.device) for part in next(batches))
                    auxiliary = self.course.auxiliary
                    loss, carried = training_step(self.model, self.optimiser, train.clip, inputs, targets, memory, auxiliary)
                    memory = carried if train.carry else None
                    self.schedule.step()
                    losses.append(loss)
            self.nvml.sample()
            before, done = done, done + chunk
            if done == train.steps:
                self.course.end()  # what is validated last, tested and probed is the model itself
            self._note(before, done, torch.stack(losses).double().cpu())

    def _note(self, before: int, done: int, losses: Tensor) -> None:
        train = self.spec.train
        finite = torch.isfinite(losses)
        if not finite.all():
            step = before + int((~finite).nonzero()[0].item()) + 1
            raise Diverged(f"training loss {losses[step - before - 1].item()} at step {step} of {train.steps}")
        valid: dict[str, float] = {}
        due = train.evaluate_every and done // train.evaluate_every > before // train.evaluate_every
        if due or done == train.steps:
            with self.machine.shared(), self.clocks.phase("evaluation"):
                self.telemetry.split = "evaluation"
                valid = evaluate(self.model, self.task, "valid", self.spec)
                self.telemetry.forget("evaluation")
                self.telemetry.split = "train"
            bad = [name for name, value in valid.items() if not math.isfinite(value)]
            if bad:
                raise Diverged(f"validation {bad[0]} is {valid[bad[0]]} after step {done}")
        solves = len(losses) * len(self.telemetry.layers)
        forward, residual = self.telemetry.recent("forward", solves)
        backward, _ = self.telemetry.recent("backward", solves)
        self.curve.append(
            Point(
                step=done,
                seconds=(self.clocks.seconds("train") or 0.0) + (self.clocks.seconds("warmup") or 0.0),
                train_loss=losses.mean().item(),
                valid=valid,
                forward_nfe=forward,
                backward_nfe=backward,
                residual=residual,
            )
        )
        self.progress(done, train.steps, losses.mean().item())
