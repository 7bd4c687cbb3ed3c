"""Track the memory of one whole training step, on fake tensors, which allocate nothing, or on real ones."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)

from baselines import NeuralODE
from baselines.continuous import ADAPTIVE
from bench.memory.storage_tracker import StorageTracker, Waterfall
from bench.records.errors import UserError, one_line
from bench.records.spec import ComponentConfig, TrainConfig
from bench.tasks.task import derive_seed
from bench.training.language_model import LanguageModel, build_model
from bench.training.trainer import Losses, loss_of, make_optimiser, training_step
from deq import DEQ, Map, Output, Solver, SolvingAdjoint, Stop, StoppedAdjoint
from deq.solve import force_device_path

_AFTER = {"forward": "attached evaluation", "backward": "backward"}  # the phase after a solve
_TRAIN = TrainConfig(steps=1, batch=1, learning_rate=1e-3)
Call = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]
_UNTRACEABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException, NotImplementedError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of a training step: `batch` sequences of `length` tokens out of `vocabulary`.

    `carry`: with the memory of a batch before. `ends` off leaves out embedding and softmax: the Core's input is features that
    need a gradient, its loss the mean of its output's square. `steps` and `backward_steps` replace the model's own caps; every
    solve runs to its cap.
    """

    batch: int
    length: int
    vocabulary: int
    carry: bool = False
    ends: bool = True
    auxiliary: float = 0.0
    steps: int | None = None
    backward_steps: int | None = None


def predicted(model: ComponentConfig, shape: Shape) -> Waterfall:
    """The step's bytes without allocating them (but for an LSTM layer, whose kernel is run on zeros).

    UserError where an operator or a decision of the model needs values.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return measured(model, shape)
    except _UNTRACEABLE as error:
        raise UserError(f"memory: model {model.name!r} cannot run without values: {one_line(str(error))}") from error


def measured(named: ComponentConfig, shape: Shape) -> Waterfall:
    """The bytes of a step on the CPU, which is real outside of FakeTensorMode.

    Tracked, autograd adds up the gradients of what is used more than once (tied weights, residual connections) out of place, where
    an untracked step may do so in place and have one gradient less at that moment.
    """
    torch.manual_seed(0)
    inputs, targets = tokens(shape)
    with force_device_path():
        model = build_model(named, shape.vocabulary).train()
        fix_caps(model, shape)
        module = model if shape.ends else model.core
        optimiser = _stepped_optimiser(module)
        memory = None
        if shape.carry:
            with torch.no_grad(), StorageTracker():
                memory = model.run(inputs)[0].memory
        tracker = StorageTracker()
        tables = {*model.embedding.parameters(), *model.head.parameters()} if shape.ends else set()
        tracker.mark([list(tables), [optimiser.state[p] for p in tables if p in optimiser.state]], "embeddings")
        tracker.mark([*module.parameters(), *module.buffers()], "weights")
        tracker.mark([*optimiser.state.values()], "optimiser")
        features = None
        if not shape.ends:
            width: Any = named.settings.get("inputs", named.settings["width"])
            features = torch.zeros(shape.batch, shape.length, width, requires_grad=True)
        tracker.mark([inputs, targets, memory] if shape.ends else [memory, features], "batch")

        def loss(inputs: Tensor, targets: Tensor, memory: Any) -> Losses:
            if features is None:
                return loss_of(model, inputs, targets, memory, shape.auxiliary)
            output = model.core(features, memory)
            total = output.y.square().mean()
            return Losses(total if output.penalty is None else total + output.penalty, total.detach(), output.memory)

        def mark_gradients(*_: Any) -> None:
            for parameter in module.parameters():
                tracker.mark(parameter.grad, "embeddings" if parameter in tables else "gradients")
            tracker.phase = "optimiser"

        optimiser.register_step_pre_hook(mark_gradients)
        with _phases(model, tracker), tracker.tracking():
            training_step(module, optimiser, _TRAIN.clip, inputs, targets, memory, loss)  # type: ignore[arg-type]
        return tracker.waterfall()


@contextmanager
def _phases(model: LanguageModel, tracker: StorageTracker) -> Iterator[None]:
    """Keep the tracker's phase up to date inside."""

    def enter(phase: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            tracker.phase = phase

        return hook

    def leave(core: nn.Module, arguments: Any, output: Output) -> None:
        tracker.phase = "head"
        if output.y.requires_grad:
            output.y.register_hook(enter("backward"))

    with ExitStack() as stack:
        stack.callback(model.core.register_forward_pre_hook(enter("forward")).remove)
        stack.callback(model.core.register_forward_hook(leave).remove)
        for layer in [layer for layer in model.core.modules() if isinstance(layer, DEQ)]:
            for name in ("solver", "adjoint"):
                stack.callback(setattr, layer, name, getattr(layer, name))
            layer.solver = _MarkedSolver(layer.solver, tracker, "forward solve")
            if isinstance(layer.adjoint, SolvingAdjoint):
                solver = _MarkedSolver(layer.adjoint.solver, tracker, "backward solve")
                layer.adjoint = dataclasses.replace(layer.adjoint, solver=solver)
            stack.callback(layer.watch(lambda phase, _: enter(_AFTER[phase])()))
        yield


class _MarkedSolver:
    """A solver whose memory the tracker counts as history; after its last step comes the attached evaluation."""

    def __init__(self, solver: Solver, tracker: StorageTracker, phase: str) -> None:
        self._solver, self._tracker, self._phase = solver, tracker, phase
        self.differentiable = solver.differentiable

    def __getattr__(self, name: str) -> Any:
        """What else the solver has, such as the inverse of its step."""
        return getattr(self._solver, name)

    def init(self, z: Tensor, steps: int) -> Any:
        self._tracker.phase, self._left = self._phase, steps - 1
        memory = self._solver.init(z, steps)
        self._tracker.mark(memory, "solver history")
        return memory

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        z, memory = self._solver.step(f, z, fz, memory)
        self._tracker.mark(memory, "solver history")
        self._left -= 1
        if self._left == 0 and self._phase == "forward solve":
            self._tracker.phase = "attached evaluation"
        return z, memory


def fix_caps(model: LanguageModel, shape: Shape) -> None:
    """Make every solve run to its cap, so that a step's memory does not depend on values."""

    def capped(stop: Stop, steps: int | None) -> Stop:
        return dataclasses.replace(stop, rtol=None, max_steps=steps or stop.max_steps)

    for layer in model.modules():
        if isinstance(layer, DEQ):
            layer.stop, layer.evaluation_stop = (capped(stop, shape.steps) for stop in (layer.stop, layer.evaluation_stop))
            if isinstance(layer.adjoint, StoppedAdjoint):
                layer.adjoint = dataclasses.replace(layer.adjoint, stop=capped(layer.adjoint.stop, shape.backward_steps))
        if isinstance(layer, NeuralODE) and layer.method in ADAPTIVE:
            raise UserError(f"memory: an ODE solver that chooses its steps by values ({layer.method}) has no fixed cost")


def make_steps(model: ComponentConfig, shape: Shape, device: str = "cpu") -> dict[str, Callable[[], None]]:
    """A training step and a forward pass in evaluation, without gradients: {"training": …, "inference": …}."""
    inputs, targets = (tensor.to(device) for tensor in tokens(shape))
    built = build_model(model, shape.vocabulary)
    built = built if device == "cpu" else built.to(device)  # fake parameters cannot move
    fix_caps(built, shape)
    optimiser = _stepped_optimiser(built)

    def training() -> None:
        training_step(
            built.train(), optimiser, _TRAIN.clip, inputs, targets, loss=partial(loss_of, built, auxiliary=shape.auxiliary)
        )

    @torch.no_grad()
    def inference() -> None:
        loss_of(built.eval(), inputs, targets)

    return {"training": training, "inference": inference}


def _stepped_optimiser(module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser with the state that it has after a step."""
    optimiser, _ = make_optimiser(module, _TRAIN)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return optimiser


def tokens(shape: Shape) -> tuple[Tensor, Tensor]:
    """Token ids and targets (B, T) by Zipf's law, the frequent ones low; real tensors also under FakeTensorMode."""
    random = torch.Generator().manual_seed(derive_seed("memory", "tokens"))
    with unset_fake_temporarily():
        weights = 1 / torch.arange(1, shape.vocabulary + 1, dtype=torch.float64)
        drawn = torch.multinomial(weights, shape.batch * (shape.length + 1), replacement=True, generator=random)
        lanes = drawn.view(shape.batch, shape.length + 1)
        return lanes[:, :-1].contiguous(), lanes[:, 1:].contiguous()


def run_calls(calls: Sequence[Call], jobs: int) -> list[dict[str, Any]]:
    """The results of the calls in their order, from `jobs` processes."""
    if jobs == 1:
        return [function(*arguments) for function, arguments in calls]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [future.result() for future in [pool.submit(function, *arguments) for function, arguments in calls]]
