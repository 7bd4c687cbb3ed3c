"""The training loop, and how it resumes from a checkpoint."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from bench.instruments.solver_stats import SolverStats
from bench.records.record import CurvePoint, Measure
from bench.records.spec import TrainConfig
from bench.training.checkpoint import Interrupted
from bench.training.context import TrainingContext
from bench.training.evaluation import evaluate
from bench.training.language_model import LanguageModel
from bench.training.recipe_schedule import RecipeSchedule
from deq import DEQ

# Steps hold the machine's lock at least so long: taking it costs 0.07 ms, and on a GPU a wait for the device and reads of NVML.
_HOLD_S = 0.25


class Diverged(Exception):
    """The training loss is no longer finite."""


class Losses(NamedTuple):
    """The loss to minimise (attached), its cross-entropy (nats, detached), and the memory for the next batch."""

    total: Tensor
    cross_entropy: Tensor
    memory: Any


def loss_of(model: LanguageModel, inputs: Tensor, targets: Tensor, memory: Any = None, auxiliary: float = 0.0) -> Losses:
    """Mean cross-entropy over all positions, plus the Core's penalty and `auxiliary` times its auxiliary loss."""
    total, output, supervision = model.loss(inputs, targets, memory)
    cross_entropy = total.detach()
    if output.penalty is not None:
        total = total + output.penalty
    if auxiliary and supervision is not None:
        total = total + auxiliary * supervision
    return Losses(total, cross_entropy, output.memory)


class _Loss(nn.Module):
    """`loss_of` as a module, for DistributedDataParallel."""

    def __init__(self, model: LanguageModel, auxiliary: float) -> None:
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def forward(self, inputs: Tensor, targets: Tensor, memory: Any = None) -> Losses:
        return loss_of(self.model, inputs, targets, memory, self.auxiliary)


def make_optimiser(model: nn.Module, train: TrainConfig) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW or SGD; a rate that rises linearly over `warmup` steps, then falls on a cosine to zero, or is halved."""

    def factor(step: int) -> float:
        if step < train.warmup:
            return (step + 1) / train.warmup
        if train.halve_every:
            return 0.5 ** max(0, 1 + (step - train.halve_from) // train.halve_every)
        return 0.5 * (1 + math.cos(math.pi * (step - train.warmup) / max(1, train.steps - train.warmup)))

    kind = torch.optim.AdamW if train.optimiser == "adamw" else torch.optim.SGD
    optimiser = kind(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def training_step(
    model: LanguageModel,
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    inputs: Tensor,
    targets: Tensor,
    memory: Any = None,
    loss: Callable[[Tensor, Tensor, Any], Losses] | None = None,
) -> tuple[Tensor, Any]:
    """Forward, backward, clipped update; returns the cross-entropy (detached) and the next memory. `loss` replaces `loss_of`."""
    optimiser.zero_grad(set_to_none=True)
    losses = loss_of(model, inputs, targets, memory) if loss is None else loss(inputs, targets, memory)
    losses.total.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)  # before backward it has no effect
    optimiser.step()
    return losses.cross_entropy, losses.memory


class Trainer:
    """Train one model; `curve` holds the points so far also after `run` raises Diverged.

    A resumed training gives the same numbers, bit by bit on a CPU: batches depend on their number only, and model, optimiser,
    schedule, random generators, carried memory and solver statistics are in the checkpoint. Other state of a user's model, outside
    parameters and buffers, is not.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, model: LanguageModel, context: TrainingContext) -> None:
        self.model, self.context, self.spec, self.ranks = model, context, context.spec, context.ranks
        self.solver_stats = SolverStats(model)
        self.recipe = RecipeSchedule(model, self.spec.recipe, self.spec.train.steps)
        self.loss = self.ranks.wrap_ddp(_Loss(model, self.recipe.auxiliary))
        self.optimiser, self.schedule = make_optimiser(model, self.spec.train)
        self.curve: list[CurvePoint] = []
        self.done = 0
        self.resumed_peaks: dict[str, float | None] = {}  # the meters' values at the checkpoint
        self.contended: str | None = None  # why the clocks of earlier attempts are unreliable
        self._losses: list[Tensor] = []  # since the curve's last point
        self._memory: Any = None

    def run(self) -> None:
        """Run all steps, with validation every `evaluate_every` and at the end.

        Raises Diverged at the first loss that is not finite, and Interrupted after a request to stop, with the state saved.
        """
        context, steps = self.context, self.spec.train.steps
        batches = context.task.batches("train", self.spec.train.batch, self.spec.seed, self.done)
        interval = max(1, steps // 100)
        self.model.train()
        try:
            while self.done < steps or self._losses:
                start = self.done - len(self._losses)
                phase, since = context.clocks.phase("train" if start else "warmup"), time.perf_counter()
                with context.machine.shared(), phase, context.interrupt.deferred():
                    while True:
                        end = min(start + interval, steps)
                        self._steps_to(end, batches)
                        if start == 0 or self._is_validated(start, end) or time.perf_counter() - since > _HOLD_S:
                            break
                        self._add_point(start, end)
                        start = end
                context.nvml.sample()
                if end == steps:
                    self.recipe.restore()  # the last validation, the test and the probes are of the model's own core
                self._add_point(start, end)
        except Interrupted:
            self.solver_stats.forget("evaluation")
            self.solver_stats.mode = "train"
            self.model.train()
            self.save()
            raise

    def _steps_to(self, end: int, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Train up to that step; save the state where it is due."""
        while self.done < end:
            self._step(*next(batches))
            if self.ranks.raise_if_interrupted(self.context.interrupt, self.context.checkpoint.due()):
                self.save()

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        train = self.spec.train
        self.recipe.set_step(self.done)
        inputs, targets = (self._on_device(part) for part in (inputs, targets))
        if self.context.task.begins(self.done, train.batch):
            self._memory = None
        loss, memory = training_step(self.model, self.optimiser, train.clip, inputs, targets, self._memory, self.loss)
        self._memory = memory if train.carry else None
        self.schedule.step()
        self._losses.append(loss)
        self.done += 1
        self.context.progress(self.done, train.steps, self.curve[-1].train_loss if self.curve else None)

    def _on_device(self, part: Tensor) -> Tensor:
        """This rank's share of a batch; the copy to a GPU makes the host wait for nothing."""
        part = self.ranks.share(part)
        return part if self.spec.device == "cpu" else part.pin_memory().to(self.spec.device, non_blocking=True)

    def _add_point(self, start: int, done: int) -> None:
        """Add to the curve the mean of the losses since step `start` and, where it is due, a validation."""
        losses = self.ranks.sum(torch.stack(self._losses).double()).cpu() / self.ranks.size
        finite = torch.isfinite(losses)
        if not finite.all():
            index = int((~finite).nonzero()[0].item())
            raise Diverged(f"training loss {losses[index].item()} at step {start + index + 1} of {self.spec.train.steps}")
        valid = self._validate() if self._is_validated(start, done) else {}
        for name, value in valid.items():
            if not math.isfinite(value):
                raise Diverged(f"validation {name} is {value} after step {done}")
        forward, residual = self.solver_stats.recent("forward")
        backward, _ = self.solver_stats.recent("backward")
        clocks = self.context.clocks
        point = CurvePoint(
            step=done,
            seconds=(clocks.seconds("train") or 0.0) + (clocks.seconds("warmup") or 0.0),
            train_loss=losses.mean().item(),
            valid=valid,
            forward_nfe=forward,
            backward_nfe=backward,
            residual=residual,
        )
        with self.context.interrupt.deferred():
            self.curve.append(point)
            self._losses = []

    def _is_validated(self, start: int, done: int) -> bool:
        """Whether a validation is due between the steps: it takes the machine's lock itself."""
        every = self.spec.train.evaluate_every
        return done == self.spec.train.steps or bool(every and done // every > start // every)

    def _validate(self) -> dict[str, float]:
        """The validation scores."""
        with self.context.machine.shared(), self.context.clocks.phase("evaluation"):
            self.solver_stats.mode = "evaluation"
            valid = evaluate(self.model, self.context.task, "valid", self.spec, self.ranks)
            self.solver_stats.forget("evaluation")
            self.solver_stats.mode = "train"
        return valid

    def save(self) -> None:
        """Write the checkpoint, if one is kept."""
        context = self.context
        if not self.ranks.broadcast_flag(context.checkpoint.kept):
            return
        with context.clocks.phase("checkpoint"):
            own = {
                "generator": torch.get_rng_state(),
                "cuda_generator": torch.cuda.get_rng_state() if self.spec.device == "cuda" else None,
                "memory": [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(self._memory)],
                "solver_stats": self.solver_stats.state(),
                "losses": [loss.cpu() for loss in self._losses],
            }
            state = {
                "done": self.done,
                "curve": [point.model_dump() for point in self.curve],
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "clocks": context.clocks.state(),
                "contended": self.contended or context.why_contended(),
                "peaks": {name: measure.value for name, measure in self.read_peaks().items()},
                "ranks": self.ranks.gather(own),
            }
            if self.ranks.first:
                context.checkpoint.save(state, self.done)

    def read_peaks(self) -> dict[str, Measure]:
        """The meters' peaks so far; reading them frees cuBLAS's workspaces, so CUDA graphs are recorded again."""
        measures = self.context.read_peaks(self.resumed_peaks)
        for layer in self.model.modules():
            if isinstance(layer, DEQ):
                layer.forget_recordings()
        return measures

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint's state; another run's may raise any exception, and the model is then unusable."""
        own = state["ranks"][self.ranks.rank]
        _check_steps(state, own["losses"], self.spec.train.steps)
        self.done, self._losses = state["done"], [loss.to(self.spec.device) for loss in own["losses"]]
        self.curve = [CurvePoint.model_validate(point) for point in state["curve"]]
        self.recipe.set_step(max(0, self.done - 1))  # before the weights: pre-training has another core
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if own["memory"]:
            structure = tree_flatten(self.memory_of_first_batch())[1]
            leaves = [leaf.to(self.spec.device) if isinstance(leaf, Tensor) else leaf for leaf in own["memory"]]
            self._memory = tree_unflatten(leaves, structure)
        self.solver_stats.restore(own["solver_stats"])
        self.context.clocks.restore(state["clocks"])
        self.contended = state["contended"]
        self.resumed_peaks = {str(name): value for name, value in state["peaks"].items()}
        torch.set_rng_state(own["generator"])
        if own["cuda_generator"] is not None:
            torch.cuda.set_rng_state(own["cuda_generator"])
        if self.done == self.spec.train.steps and not self._losses:
            self.recipe.restore()

    def memory_of_first_batch(self) -> Any:
        """The memory that the first training batch leaves to the next."""
        inputs, _ = next(self.context.task.batches("train", self.spec.train.batch, self.spec.seed))
        with torch.no_grad(), self.solver_stats.paused():
            output, _ = self.model.run(self.ranks.share(inputs).to(self.spec.device))
        return output.memory


def _check_steps(state: dict[str, Any], losses: Sequence[Tensor], steps: int) -> None:
    """ValueError where a state's step numbers contradict each other or exceed the training's."""
    done, points = state["done"], [0, *(point["step"] for point in state["curve"])]
    rising = all(before < after for before, after in pairwise(points))
    if not (type(done) is int and rising and points[-1] + len(losses) == done == state["schedule"]["last_epoch"] <= steps):
        raise ValueError(f"not a state of this training: step {done} of {steps}, a curve up to step {points[-1]}")
