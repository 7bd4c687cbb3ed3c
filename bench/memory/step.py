"""One whole training step of a model, followed byte by byte: on fake tensors, which allocate nothing, or on real ones."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from baselines import NeuralODE
from baselines.continuous import ADAPTIVE
from bench.memory.storage_tracker import Ledger, Waterfall
from bench.records.errors import UserError, one_line
from bench.records.spec import ComponentConfig, TrainConfig
from bench.tasks.task import derive_seed
from bench.training.language_model import LanguageModel, build_model
from bench.training.trainer import Losses, loss_of, make_optimiser, training_step
from deq import DEQ, EquilibriumPropagation, Implicit, Map, Output, Solver, Stop
from deq.solve import force_device_path

_AFTER = {"forward": "attached evaluation", "backward": "backward"}  # what comes when a solve is over
Call = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]
SOLVING = (Implicit, EquilibriumPropagation)
_UNTRACEABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException, NotImplementedError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a step is taken at: `batch` sequences of `length` tokens out of `vocabulary`.

    `carry`: the memory of a batch before is there. `ends` off leaves out embedding and softmax: the Core alone is fed features that
    need a gradient, and the loss is the mean of its output's square. `steps` and `backward_steps` are the solves' caps where they
    are not the model's own; every solve takes them all.
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
    """The step's bytes, without allocating them (but for an LSTM layer, whose kernel is asked for its workspace).

    UserError where an operator or a decision of the model needs values.
    """
    try:
        drawn = tokens(shape)
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _followed(model, shape, *drawn)
    except _UNTRACEABLE as error:
        raise UserError(f"memory: model {model.name!r} cannot be followed without values: {one_line(str(error))}") from error


def measured(model: ComponentConfig, shape: Shape) -> Waterfall:
    """The same of a step that is really taken, on the CPU.

    Followed like this, autograd adds up the gradients of what is used more than once (tied weights, residual connections) out of
    place, where unobserved it may do so in place: at such a moment one gradient is counted that an unobserved step may not have.
    """
    return _followed(model, shape, *tokens(shape))


def _followed(named: ComponentConfig, shape: Shape, inputs: Tensor, targets: Tensor) -> Waterfall:
    torch.manual_seed(0)
    with force_device_path():
        model = build_model(named, shape.vocabulary).train()
        fix_caps(model, shape)
        train = TrainConfig(steps=1, batch=shape.batch, learning_rate=1e-3)
        module = model if shape.ends else model.core
        optimiser = filled(make_optimiser(module, train)[0])
        memory = None
        if shape.carry:
            with torch.no_grad(), Ledger():
                memory = model.run(inputs)[0].memory
        ledger = Ledger()
        tables = {*model.embedding.parameters(), *model.head.parameters()} if shape.ends else set()
        ledger.mark(list(tables), "embeddings")
        ledger.mark([optimiser.state[p] for p in tables if p in optimiser.state], "embeddings")
        ledger.mark([*module.parameters(), *module.buffers()], "weights")
        ledger.mark([*optimiser.state.values()], "optimiser")
        ledger.mark([inputs, targets, memory] if shape.ends else memory, "batch")
        features = None if shape.ends else _features(named, shape)
        ledger.mark(features, "batch")

        def loss(inputs: Tensor, targets: Tensor, memory: Any) -> Losses:
            if features is None:
                return loss_of(model, inputs, targets, memory, shape.auxiliary)
            output = model.core(features, memory)
            total = output.y.square().mean()
            return Losses(total if output.penalty is None else total + output.penalty, total.detach(), output.memory)

        def ready(optimiser: torch.optim.Optimizer, arguments: Any, more: Any) -> None:
            for parameter in module.parameters():
                ledger.mark(parameter.grad, "embeddings" if parameter in tables else "gradients")
            ledger.phase = "optimiser"

        optimiser.register_step_pre_hook(ready)
        with _phases(model, ledger), ledger.following():
            training_step(module, optimiser, train.clip, inputs, targets, memory, loss)  # type: ignore[arg-type]
        return ledger.waterfall()


def _features(named: ComponentConfig, shape: Shape) -> Tensor:
    width = named.settings.get("inputs", named.settings["width"])
    return torch.zeros(shape.batch, shape.length, width, requires_grad=True)  # type: ignore[arg-type]


@contextmanager
def _phases(model: LanguageModel, ledger: Ledger) -> Iterator[None]:
    """Have the ledger told where the step is."""

    def enter(phase: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ledger.phase = phase

        return hook

    def leave(core: nn.Module, arguments: Any, output: Output) -> None:
        ledger.phase = "head"
        if output.y.requires_grad:
            output.y.register_hook(enter("backward"))

    own = [(layer, layer.solver, layer.adjoint) for layer in model.core.modules() if isinstance(layer, DEQ)]
    with ExitStack() as stack:
        stack.callback(model.core.register_forward_pre_hook(enter("forward")).remove)
        stack.callback(model.core.register_forward_hook(leave).remove)
        for layer, solver, adjoint in own:
            layer.solver = _Followed(solver, ledger, "forward solve")
            if isinstance(adjoint, SOLVING):
                layer.adjoint = dataclasses.replace(adjoint, solver=_Followed(adjoint.solver, ledger, "backward solve"))
            stack.callback(layer.watch(lambda phase, _: enter(_AFTER[phase])()))
        try:
            yield
        finally:
            for layer, solver, adjoint in own:
                layer.solver, layer.adjoint = solver, adjoint


class _Followed:
    """A solver whose memory the ledger knows for what it is."""

    def __init__(self, solver: Solver, ledger: Ledger, phase: str) -> None:
        self._solver, self._ledger, self._phase = solver, ledger, phase

    @property
    def differentiable(self) -> bool:
        return self._solver.differentiable

    def init(self, z: Tensor, steps: int) -> Any:
        self._ledger.phase = self._phase
        return self._marked(self._solver.init(z, steps))

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        z, memory = self._solver.step(f, z, fz, memory)
        return z, self._marked(memory)

    def _marked(self, memory: Any) -> Any:
        self._ledger.mark(memory, "solver history")
        return memory


def fix_caps(model: LanguageModel, shape: Shape) -> None:
    """Every solve takes its cap: what a step stores must not depend on values."""
    for layer in model.modules():
        if isinstance(layer, DEQ):
            layer.stop, layer.evaluation_stop = (_capped(stop, shape.steps) for stop in (layer.stop, layer.evaluation_stop))
            if isinstance(layer.adjoint, SOLVING):
                layer.adjoint = dataclasses.replace(layer.adjoint, stop=_capped(layer.adjoint.stop, shape.backward_steps))
        if isinstance(layer, NeuralODE) and layer.method in ADAPTIVE:
            raise UserError(f"memory: an ODE solver that chooses its steps by values ({layer.method}) has no fixed cost")


def _capped(stop: Stop, steps: int | None) -> Stop:
    return dataclasses.replace(stop, rtol=None, max_steps=stop.max_steps if steps is None else steps)


def filled(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser with the state that it has after a step."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return optimiser


def tokens(shape: Shape) -> tuple[Tensor, Tensor]:
    """Token ids and targets (B, T) by Zipf's law, the frequent ones low; real, in either mode."""
    random = torch.Generator().manual_seed(derive_seed("memory", "tokens"))
    weights = 1 / torch.arange(1, shape.vocabulary + 1, dtype=torch.float64)
    drawn = torch.multinomial(weights, shape.batch * (shape.length + 1), replacement=True, generator=random)
    lanes = drawn.view(shape.batch, shape.length + 1)
    return lanes[:, :-1].contiguous(), lanes[:, 1:].contiguous()


def together(calls: Sequence[Call], jobs: int) -> list[dict[str, Any]]:
    """What each call gives, in their order, in so many processes."""
    if jobs == 1:
        return [follow(*arguments) for follow, arguments in calls]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [future.result() for future in [pool.submit(follow, *arguments) for follow, arguments in calls]]
