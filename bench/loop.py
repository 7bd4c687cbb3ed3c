"""The training loop and the evaluation, the same for every model, and how a training goes on where it was."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from bench.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.machine import Machine
from bench.meters import Clocks, Nvml, Phase
from bench.model import LanguageModel
from bench.ranks import Ranks
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
    """Mean cross-entropy over all positions, plus the Core's penalty and `auxiliary` times the sum of its auxiliary features'."""
    total, output, supervision = model.loss(inputs, targets, memory)
    cross_entropy = total.detach()
    if output.penalty is not None:
        total = total + output.penalty
    if auxiliary and supervision is not None:
        total = total + auxiliary * supervision
    return Losses(total, cross_entropy, output.memory)


class _Loss(nn.Module):
    """`loss_of` as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, memory: Any, auxiliary: float) -> Losses:
        return loss_of(self.model, inputs, targets, memory, auxiliary)


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
    loss: Callable[..., Losses] | None = None,
) -> tuple[Tensor, Any]:
    """Forward, backward, clipped update; the cross-entropy (detached) and the memory to carry on. `loss`: instead of `loss_of`."""
    optimiser.zero_grad(set_to_none=True)
    losses = loss_of(model, inputs, targets, memory, auxiliary) if loss is None else loss(inputs, targets, memory, auxiliary)
    losses.total.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)  # after backward: a published baseline clips before, so not at all
    optimiser.step()
    return losses.cross_entropy, losses.memory


@torch.no_grad()
def evaluate(model: LanguageModel, task: Task, split: Split, spec: Spec, ranks: Ranks | None = None) -> dict[str, float]:
    """The task's metrics over a whole split, in evaluation mode, the same whatever `evaluation_batch`.

    A memory is carried along the task's own lanes, `evaluation_batch` of them at a time: were there as many lanes as the batch is
    large, the score would depend on it, by how many memories begin with nothing. Ranks take the batches in turn, but for a carried
    memory.
    """
    carry, most = spec.train.carry, spec.train.evaluation_batch
    shared = ranks is not None and ranks.size > 1 and not carry
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    training = model.training
    model.eval()
    memories: dict[int, tuple[Any, int]] = {}  # of each part of the lanes, and its number of lanes
    for number, (inputs, targets) in enumerate(task.batches(split, task.lanes(split) if carry else most, seed=0)):
        if shared and ranks is not None and not ranks.mine(number):
            continue
        for part, (some, wanted) in enumerate(zip(inputs.split(most), targets.split(most), strict=True)):
            memory, lanes = memories.get(part, (None, len(some)))
            output, (y, *_) = model.run(_filled(some, lanes).to(spec.device), memory)
            if carry:
                memories[part] = output.memory, lanes
            for name, total, count in _scores(model, task, y[: len(some)], wanted.to(spec.device)):
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=total.device)) + total
                counts[name] = counts.get(name, 0) + count
    model.train(training)
    if shared and ranks is not None:
        sums, counts = _over_ranks(ranks, sums, counts)
    return task.summarise({name: sums[name].item() / counts[name] for name in sums})


def _filled(inputs: Tensor, lanes: int) -> Tensor:
    """A smaller batch with as many lanes as its memory has, whose layout only the model knows; what is added is not scored."""
    return torch.cat((inputs, inputs[-1:].expand(lanes - len(inputs), -1)))


def _scores(model: LanguageModel, task: Task, y: Tensor, targets: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """The task's scores of the features, some sequences at a time."""
    samples = max(1, _LOGITS // (targets.shape[1] * task.vocabulary))
    for some, wanted in zip(y.split(samples), targets.split(samples), strict=True):
        for name, (total, count) in task.score(model.logits(some), wanted).items():
            yield name, total, count


def _over_ranks(ranks: Ranks, sums: dict[str, Tensor], counts: dict[str, int]) -> tuple[dict[str, Tensor], dict[str, int]]:
    parts = ranks.gather({"sums": {name: value.item() for name, value in sums.items()}, "counts": counts})
    names = {name: None for part in parts for name in part["sums"]}  # a rank may have had no batch
    total = {name: torch.tensor(sum(part["sums"].get(name, 0.0) for part in parts), dtype=torch.float64) for name in names}
    return total, {name: sum(part["counts"].get(name, 0) for part in parts) for name in names}


class Training:
    """One model's training: runs the steps, keeps the curve. `curve` holds what was reached even when `run` raises Diverged.

    With a checkpoint it goes on where that was, and ends in the same numbers, to the last bit on a CPU: batches are a function of
    their number, and model, optimiser, schedule, random generators, carried memory and telemetry are in the file. What else a
    user's model keeps, outside parameters and buffers, is not.
    """

    numerics: ClassVar[int] = 1

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
        checkpoint: Checkpoint | None = None,
        interrupt: Interrupt | None = None,
        ranks: Ranks | None = None,
        peaks: Callable[[], dict[str, float | None]] = dict,
    ) -> None:
        self.model, self.task, self.spec = model, task, spec
        self.clocks, self.telemetry, self.nvml, self.machine, self.progress = clocks, telemetry, nvml, machine, progress
        self.checkpoint, self.interrupt, self.ranks = checkpoint or Checkpoint(), interrupt or Interrupt(), ranks or Ranks()
        self.loss = self.ranks.together(_Loss(model)) if self.ranks.size > 1 else None
        self.optimiser, self.schedule = make_optimiser(model, spec.train)
        self.course = Course(model, spec.recipe, spec.train.steps)
        self.curve: list[Point] = []
        self.done = 0
        self.resumed: dict[str, float | None] = {}  # what the meters had read when the checkpoint was written
        self._peaks = peaks
        self._losses: list[Tensor] = []  # since the curve's last point
        self._memory: Any = None

    def run(self) -> None:
        """All steps, with validation every `evaluate_every` and at the end.

        Diverged at the first loss that is not finite, Interrupted once a request to stop has been heard and the state saved.
        """
        train = self.spec.train
        batches = self.task.batches("train", train.batch, self.spec.seed, self.done)
        interval = max(1, train.steps // 100)
        self.model.train()
        try:
            while self.done < train.steps or self._losses:
                before = self.done - len(self._losses)
                end = min(before + interval, train.steps)
                phase: Phase = "train" if before else "warmup"
                with self.machine.shared(), self.clocks.phase(phase), self.interrupt.deferred():
                    while self.done < end:
                        self._step(*next(batches))
                        self._stop_or_save()
                self.nvml.sample()
                if end == train.steps:
                    self.course.end()  # what is validated last, tested and probed is the model itself
                self._close(before, end)
        except Interrupted:
            self.telemetry.forget("evaluation")
            self.telemetry.split = "train"
            self.model.train()
            self.save()
            raise

    def _close(self, before: int, end: int) -> None:
        """Add the point that these steps end in to the curve."""
        losses = self.ranks.sum(torch.stack(self._losses).double()).cpu() / self.ranks.size
        point = self._point(before, end, losses)
        with self.interrupt.deferred():
            self.curve.append(point)
            self._losses = []

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        self.course.at(self.done)
        inputs, targets = (self.ranks.share(part).to(self.spec.device) for part in (inputs, targets))
        if self.task.begins(self.done, self.spec.train.batch):
            self._memory = None
        auxiliary, clip = self.course.auxiliary, self.spec.train.clip
        loss, carried = training_step(self.model, self.optimiser, clip, inputs, targets, self._memory, auxiliary, self.loss)
        self._memory = carried if self.spec.train.carry else None
        self.schedule.step()
        self._losses.append(loss)
        self.done += 1
        self.progress(self.done, self.spec.train.steps, self.curve[-1].train_loss if self.curve else None)

    def _stop_or_save(self) -> None:
        self.ranks.stop(self.interrupt)
        if self.ranks.told(self.checkpoint.due()):
            self.save()

    def save(self) -> None:
        """Write the checkpoint, if one is kept: all that the rest of the run depends on."""
        if not self.ranks.told(self.checkpoint.kept):
            return
        with self.clocks.phase("checkpoint"):
            cuda = self.spec.device == "cuda"
            own = {
                "generator": torch.get_rng_state(),
                "cuda_generator": torch.cuda.get_rng_state() if cuda else None,
                "memory": [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(self._memory)],
                "telemetry": self.telemetry.state(),
                "losses": [loss.cpu() for loss in self._losses],
            }
            state = {
                "done": self.done,
                "curve": [point.model_dump() for point in self.curve],
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "clocks": self.clocks.state(),
                "peaks": _largest(self.resumed, self._peaks()),
                "ranks": self.ranks.gather(own),
            }
            if self.ranks.first:
                self.checkpoint.save(state, self.done)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; anything may be raised where it is not this run's, and the model is then spoilt."""
        own = state["ranks"][self.ranks.rank]
        _check_steps(state, own["losses"], self.spec.train.steps)
        self.done, self._losses = state["done"], [loss.to(self.spec.device) for loss in own["losses"]]
        self.curve = [Point.model_validate(point) for point in state["curve"]]
        self.course.at(max(0, self.done - 1))  # before the weights: pre-training has another core
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self._memory = self._remembered(own["memory"])
        self.telemetry.restore(own["telemetry"])
        self.clocks.restore(state["clocks"])
        self.resumed = {str(name): value for name, value in state["peaks"].items()}
        torch.set_rng_state(own["generator"])
        if own["cuda_generator"] is not None:
            torch.cuda.set_rng_state(own["cuda_generator"])
        if self.done == self.spec.train.steps and not self._losses:
            self.course.end()

    def _remembered(self, leaves: list[Any]) -> Any:
        """The carried memory from its tensors, shaped like the memory that the model's first batch leaves."""
        if not leaves:
            return None
        inputs, _ = next(self.task.batches("train", self.spec.train.batch, self.spec.seed))
        with torch.no_grad(), self.telemetry.deaf():
            output, _ = self.model.run(self.ranks.share(inputs).to(self.spec.device))
        form = tree_flatten(output.memory)[1]
        return tree_unflatten([leaf.to(self.spec.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)

    def _point(self, before: int, done: int, losses: Tensor) -> Point:
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
                valid = evaluate(self.model, self.task, "valid", self.spec, self.ranks)
                self.telemetry.forget("evaluation")
                self.telemetry.split = "train"
            bad = [name for name, value in valid.items() if not math.isfinite(value)]
            if bad:
                raise Diverged(f"validation {bad[0]} is {valid[bad[0]]} after step {done}")
        solves = len(losses) * len(self.telemetry.layers)
        forward, residual = self.telemetry.recent("forward", solves)
        backward, _ = self.telemetry.recent("backward", solves)
        return Point(
            step=done,
            seconds=(self.clocks.seconds("train") or 0.0) + (self.clocks.seconds("warmup") or 0.0),
            train_loss=losses.mean().item(),
            valid=valid,
            forward_nfe=forward,
            backward_nfe=backward,
            residual=residual,
        )


def _check_steps(state: dict[str, Any], losses: Sequence[Tensor], steps: int) -> None:
    """ValueError where the steps that a state names contradict each other, or are more than the training has."""
    done, points = state["done"], [0, *(point["step"] for point in state["curve"])]
    rising = all(before < after for before, after in pairwise(points))
    if not (type(done) is int and rising and points[-1] + len(losses) == done == state["schedule"]["last_epoch"] <= steps):
        raise ValueError(f"no state of this training: step {done} of {steps}, a curve up to step {points[-1]}")


def _largest(before: dict[str, float | None], now: dict[str, float | None]) -> dict[str, float | None]:
    pairs = {name: [value for value in (before.get(name), now.get(name)) if value is not None] for name in {**before, **now}}
    return {name: max(values) if values else None for name, values in pairs.items()}
