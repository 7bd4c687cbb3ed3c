"""What is checked, and the checks that cells and models share: batch independence, causality, gradients, determinism."""

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from baselines import NeuralODE
from baselines.continuous import ADAPTIVE
from bench.conformance.compare import distance, gradient_errors, max_distance, projection, random_tensor, same_bytes
from bench.conformance.result import Result, check, judge
from bench.records.spec import ComponentConfig
from deq import DEQ, Cell, Core, Implicit, MLPCell, Picard, Stop

BATCH, TIME = 3, 6
TIGHT = Stop(rtol=1e-12, max_steps=400)
SOLVED = Stop(rtol=1e-6, max_steps=200)
_SHAPES = ((BATCH, TIME), (1, 1), (1, 5), (4, 1))


def adaptive(module: nn.Module) -> bool:
    return isinstance(module, NeuralODE) and module.method in ADAPTIVE


def tighten(module: nn.Module) -> nn.Module:
    """Have everything in it solved to the last digits, forward and backward."""
    for part in module.modules():
        if isinstance(part, DEQ):
            part.stop = part.evaluation_stop = TIGHT
            if hasattr(part.adjoint, "stop"):
                part.adjoint = dataclasses.replace(part.adjoint, stop=TIGHT)  # type: ignore[type-var]
        elif isinstance(part, NeuralODE) and adaptive(part):
            part.rtol, part.atol = 1e-9, 1e-11
    return module


def tolerance(module: nn.Module) -> float:
    """How close (relative to 1 + |y|) equal results are; an adaptive ODE solver chooses its steps for the whole batch."""
    return 1e-6 if any(adaptive(part) for part in module.modules()) else 1e-8


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked: `make()` makes the cell, model, solver or task; `named` is the model that a suite would name."""

    make: Callable[[], Any]
    inputs: int = 16
    named: ComponentConfig | None = None
    gradient_rtol: float | None = None  # where the gradient is known to be less exact; None: 1e-4, and inexact adjoints are skipped
    max_evaluations: int = 1000  # of a solver, on the maps with known fixed points

    def build(self, seed: int = 0) -> Any:
        """The cell or model made from that seed: float64, evaluation mode, solved tightly."""
        torch.manual_seed(seed)
        return tighten(self.make()).double().eval()

    def layer(self) -> Core:
        """The model itself; for a cell or a solver, a DEQ with it."""
        made = self.make()
        if isinstance(made, Core):
            return made
        if isinstance(made, Cell):
            return DEQ(made, solver=Picard(), stop=SOLVED, adjoint=Implicit(solver=Picard(), stop=SOLVED))
        return DEQ(MLPCell(width=self.inputs), solver=made, stop=SOLVED)

    def arguments(self, module: nn.Module, *, batch: int = BATCH, time: int = TIME, seed: int = 0) -> tuple[Tensor, ...]:
        """Random features x (B, T, inputs); for a cell, a random state too."""
        x = random_tensor(batch, time, self.inputs, seed=seed)
        return (x, random_tensor(*module.initial_state(x).shape, seed=seed + 500)) if isinstance(module, Cell) else (x,)

    def outputs(self, module: nn.Module, arguments: tuple[Tensor, ...], memory: Any = None) -> tuple[Tensor, ...]:
        """A model's features and auxiliary features; a cell's f(z), and its features where they differ. Each (B, T, ...)."""
        if isinstance(module, Cell):
            x, z = arguments
            fz = module.bind(x, memory)(z)
            shown = module.features(fz)
            return (fz,) if shown is fz else (fz, shown)
        output = module(*arguments, memory)
        return (output.y, *output.auxiliary)

    def memory(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> Any:
        """The memory that it carries to the next batch."""
        if isinstance(module, Cell):
            x, z = arguments
            return module.remember(z, x)
        return module(*arguments).memory


def check_shapes(subject: Subject, wrong: Callable[[Any, Tensor], str | None], found: str) -> Result:
    """`wrong(module, x)` at several batch sizes and lengths, in single and double precision, training and evaluation."""
    for dtype in (torch.float32, torch.float64):
        module = subject.make().to(dtype)
        for training, (batch, time) in [(True, _SHAPES[0]), *((False, shape) for shape in _SHAPES)]:
            message = wrong(module.train(training), random_tensor(batch, time, subject.inputs, seed=0, dtype=dtype))
            if message:
                return judge(False, message)
    return judge(True, f"{found}, float32 and float64")


def wrong_tensor(name: str, part: Any, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
    """What is wrong with a tensor's type, shape or dtype, or None."""
    if not isinstance(part, Tensor):
        return f"{name} is a {type(part).__name__}, not a tensor"
    if part.shape != shape:
        return f"{name} is {tuple(part.shape)}, not {shape}"
    return f"{name} is {part.dtype} for features in {dtype}".replace("torch.", "") if part.dtype != dtype else None


@check()
def finite(subject: Subject) -> Result:
    """All outputs are finite, in training and evaluation.

    A division by zero, the logarithm or root of what may be negative, or a softmax over masked places only. Clamp the argument, or
    mask with a large negative number instead of -inf where a whole row may be masked.
    """
    module = subject.build()
    arguments = subject.arguments(module)
    for training in (False, True):
        module.train(training)
        bad = sum(int((~part.isfinite()).sum()) for part in subject.outputs(module, arguments))
        if bad:
            return judge(False, f"{bad} numbers are not finite in {'training' if training else 'evaluation'} mode")
    return judge(True, "all finite")


@check("finite")
def evaluation(subject: Subject) -> Result:
    """In evaluation mode, two calls give the same.

    Noise or dropout that does not depend on self.training, or a call that changes something (a counter, a running mean). Use
    nn.Dropout or F.dropout(x, p, self.training), and change nothing in forward while self.training is False.
    """
    module = subject.build()
    arguments, results = subject.arguments(module), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append([part.detach() for part in subject.outputs(module, arguments)])
    if not same_bytes(*results):
        return judge(False, f"two calls differ by {max_distance(*results):.2g}")
    with torch.no_grad():
        error = max_distance(subject.outputs(module, arguments), results[0])
    return judge(error <= tolerance(module), f"bitwise equal; {error:.2g} apart without grad mode" if error else "bitwise equal")


@check("finite")
def same_seed(subject: Subject) -> Result:
    """The same seed gives bitwise equal values and gradients.

    Random numbers that do not come from torch (random, numpy, hash(), time), which torch.manual_seed does not reach. Draw with
    torch, or from a generator that you seed in __init__.
    """

    def once() -> list[Tensor | None]:
        module = subject.build().train()
        arguments = subject.arguments(module)
        torch.manual_seed(1)
        outputs = subject.outputs(module, arguments)
        loss = torch.stack([part.square().sum() for part in outputs]).sum()
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if parameters and loss.requires_grad else ()
        return [*(part.detach() for part in outputs), *gradients]

    equal = same_bytes(once(), once())
    return judge(equal, "bitwise equal" if equal else "different")


@check("finite", "evaluation", "solve")
def samples(subject: Subject) -> Result:
    """A sample's result does not depend on the other samples.

    A mean, maximum, norm or softmax over dimension 0, batch normalisation, or a reshape that mixes batch and features. Normalise
    each sample by itself (LayerNorm), and reduce over the last dimensions only.
    """
    module = subject.build()
    error = _batch_dependence(subject, module)
    if error > tolerance(module):
        return judge(False, f"alone and in a batch, they differ by {error:.2g}")

    def train(seed: int, row: slice = slice(None)) -> list[Tensor]:
        module = subject.build().train()  # each time: a step may change its buffers
        arguments = tuple(part[row] for part in subject.arguments(module))
        torch.manual_seed(seed)
        return [part.detach() for part in subject.outputs(module, arguments)]

    if same_bytes(train(0), train(1)):  # nothing is drawn
        rows = [train(0, slice(b, b + 1)) for b in range(BATCH)]
        training = max_distance(train(0), [torch.cat(parts) for parts in zip(*rows, strict=True)])
    else:
        module = subject.build().train()
        arguments = tuple(part.requires_grad_() for part in subject.arguments(module))
        first = projection([part[0] for part in subject.outputs(module, arguments)])
        gradients = torch.autograd.grad(first, arguments, allow_unused=True, materialize_grads=True)
        training = max(distance(gradient[1:], torch.zeros_like(gradient[1:])) for gradient in gradients)
    return judge(training <= tolerance(module), f"differ by {error:.2g}, in training by {training:.2g}")


@torch.no_grad()
def _batch_dependence(subject: Subject, module: nn.Module) -> float:
    arguments = subject.arguments(module)
    rows = [subject.outputs(module, tuple(part[b : b + 1] for part in arguments)) for b in range(BATCH)]
    return max_distance(subject.outputs(module, arguments), [torch.cat(parts) for parts in zip(*rows, strict=True)])


@check("finite", "evaluation", "solve")
def causality(subject: Subject) -> Result:
    """Position t does not depend on later positions.

    Attention without a causal mask, a convolution padded on both sides, a mean over time, a flip or a shift to the left. Mask
    (is_causal=True), pad on the left only (F.pad(x, (0, 0, k, 0))), take cumulative means.
    """
    module = subject.build()
    worst = future_leak(subject, module)
    memory = subject.memory(module, subject.arguments(module, seed=7))
    if memory is not None:
        worst = max(worst, future_leak(subject, module, memory))
    return judge(worst <= tolerance(module), f"the past changes by {worst:.2g}" + ("" if memory is None else ", with a memory too"))


@torch.no_grad()
def future_leak(subject: Subject, module: nn.Module, memory: Any = None) -> float:
    """How much the outputs before t change with the inputs from t on, at most."""
    arguments, others = subject.arguments(module), subject.arguments(module, seed=99)
    before, worst = subject.outputs(module, arguments, memory), 0.0
    for t in range(1, TIME):
        changed = tuple(torch.cat((a[:, :t], b[:, t:]), dim=1) for a, b in zip(arguments, others, strict=True))
        after = subject.outputs(module, changed, memory)
        worst = max(worst, max_distance([part[:, :t] for part in after], [part[:, :t] for part in before]))
    return worst


def module_gradient_errors(subject: Subject, module: nn.Module, seed: int = 0, each: bool = False) -> dict[str, float]:
    """`gradient_errors` along the inputs, the parameters and both; with `each`, along every tensor by itself."""
    arguments = tuple(part.requires_grad_() for part in subject.arguments(module, seed=seed))
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if each:
        names = ("x", "z")[: len(arguments)]
        groups: dict[str, Any] = {name: [part] for name, part in (*zip(names, arguments, strict=True), *parameters.items())}
    else:
        groups = {"inputs": [*arguments], "everything": [*arguments, *parameters.values()]}
        if parameters:
            groups["parameters"] = [*parameters.values()]

    def value() -> Tensor:
        return projection(subject.outputs(module, arguments), seed=50)

    rtol, step = gradient_rtol(subject), 1e-6 if subject.gradient_rtol is None else 1e-4
    return gradient_errors(value, groups, step=step, offset=1e-5 / rtol, seed=seed)


def gradient_rtol(subject: Subject) -> float:
    return subject.gradient_rtol or 1e-4


@check("finite", "evaluation", "solve")
def gradient(subject: Subject) -> Result:
    """The gradient agrees with difference quotients.

    A custom autograd.Function with a wrong backward, a detach(), .data, .item() or no_grad() on the way, or a result overwritten
    in place. torch.autograd.gradcheck on the Function finds the wrong formula.
    """
    module, rtol = subject.build(), gradient_rtol(subject)
    first = module_gradient_errors(subject, module)
    directions = f"{2 * len(first)} directions"
    if max(first.values()) <= rtol:
        return judge(True, f"relative error {max(first.values()):.1g} in {directions}")
    second = module_gradient_errors(subject, module, seed=1)  # at a kink (a ReLU at zero) it is the quotient that is wrong
    if max(second.values()) <= rtol:
        return judge(True, f"relative error {max(second.values()):.1g} in {directions}, at a second point (a kink at the first)")
    each = module_gradient_errors(subject, module, seed=1, each=True)
    wrong = sorted((name for name, error in each.items() if error > rtol), key=lambda name: -each[name])
    where = f", along {_listed(wrong)}" if wrong else ""
    return judge(False, f"relative error {max(*first.values(), *second.values()):.2g}{where}")


@check("finite")
def parameters(subject: Subject) -> Result:
    """Every parameter and the input get a gradient.

    A layer that forward does not use, or a detach() before it. It would count in the parameter budget and never train: use it,
    remove it, or set requires_grad=False.
    """
    module = subject.build()
    missing, zero = _without_gradient(subject, module)
    if missing:
        return judge(False, f"no gradient in {_listed(missing)}")
    if not zero:
        number = sum(1 for parameter in module.parameters() if parameter.requires_grad)
        return judge(True, f"in the input and {number} of {number} parameters")
    with torch.no_grad():  # behind a gate that is initialised to zero, a zero gradient is right
        for place, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * random_tensor(*parameter.shape, seed=place).to(parameter.dtype))
    still = _without_gradient(subject, module)[1]
    if still:
        return judge(False, f"zero in {_listed(still)}")
    return Result("warn", f"zero in {_listed(zero)} as initialised", "not after the first steps: something is initialised to zero")


def _without_gradient(subject: Subject, module: nn.Module) -> tuple[list[str], list[str]]:
    """What gets no gradient, or one that is not finite; and what gets a zero one (of the input, at the first position)."""
    arguments = tuple(part.requires_grad_() for part in subject.arguments(module))
    loss = projection(subject.outputs(module, arguments))
    leaves = {"the input": arguments[0]}
    leaves |= {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not loss.requires_grad:
        return [*leaves], []
    gradients = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()], allow_unused=True), strict=True))
    missing = [name for name, one in gradients.items() if one is None or not one.isfinite().all()]
    shown = {name: one[:, 0] if name == "the input" else one for name, one in gradients.items() if one is not None}
    return missing, [name for name, one in shown.items() if not one.ne(0).any()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@check("finite", "evaluation")
def state(subject: Subject) -> Result:
    """The state_dict, read as data, is the whole state.

    A tensor kept as a plain attribute: it is in no checkpoint, and .double() and .to() do not move it. Make it an nn.Parameter or
    self.register_buffer(name, tensor). Of extra state, only tensors and plain values can be read as data.
    """
    module, other, file = subject.build(0), subject.build(1), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    arguments = subject.arguments(module)
    torch.manual_seed(0)
    with torch.no_grad():
        pair = subject.outputs(module, arguments), subject.outputs(other, arguments)
    equal, loaded = same_bytes(*pair), f"after loading {len(module.state_dict())} tensors"
    return judge(equal, f"bitwise equal {loaded}" if equal else f"{max_distance(*pair):.2g} apart {loaded}")


@check("finite")
def carried_memory(subject: Subject) -> Result:
    """The memory for the next batch is of detached tensors, or none.

    The memory holds the graph of its batch, so that every batch keeps all before it alive and backward runs through them. Return
    memory.detach(); of tensors in tuples or lists, each.
    """
    module = subject.build()
    memory = subject.memory(module, tuple(part.requires_grad_() for part in subject.arguments(module)))
    if memory is None:
        return judge(True, "none")
    leaves = tree_leaves(memory)
    strange = [type(leaf).__name__ for leaf in leaves if leaf is not None and not isinstance(leaf, (Tensor, int, float, bool))]
    if strange:
        return judge(False, f"contains a {strange[0]}, which no checkpoint can store")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    attached = [leaf for leaf in tensors if leaf.requires_grad or leaf.grad_fn is not None]
    if attached:
        return judge(False, f"{len(attached)} of {len(tensors)} tensors hold the graph of their batch")
    subject.outputs(module, subject.arguments(module, seed=3), memory)
    return judge(True, f"detached, {sum(leaf.nbytes for leaf in tensors):,} B in {len(tensors)} tensors")
