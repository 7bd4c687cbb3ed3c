"""The checks that cells and models share: determinism, batch independence, causality, gradients, state."""

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.conformance.compare import distance, gradient_errors, max_distance, projection, random_tensor, same_bytes
from bench.conformance.result import Broken, Result, check, require
from bench.conformance.subject import BATCH, TIME, Subject, tolerance
from bench.records.identity import first_of

GRADIENT_RTOL = 1e-4  # of exact gradients


@check()
def finite(subject: Subject) -> str:
    """All outputs are finite, in training and evaluation.

    Clamp the argument of a division, logarithm or root, and mask with a large negative number where a whole row may be masked.
    """
    module = subject.build()
    arguments = subject.arguments(module)
    for training in (False, True):
        bad = sum(int((~part.isfinite()).sum()) for part in subject.outputs(module.train(training), arguments))
        require(not bad, f"{bad} numbers are not finite in {'training' if training else 'evaluation'} mode")
    return "all finite"


@check("finite")
def evaluation(subject: Subject) -> str:
    """In evaluation mode, two calls give the same.

    Make noise and dropout depend on self.training, and change no counter or running mean while it is False.
    """
    module = subject.build()
    arguments, results = subject.arguments(module), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append([part.detach() for part in subject.outputs(module, arguments)])
    require(same_bytes(*results), f"two calls differ by {max_distance(*results):.2g}")
    with torch.no_grad():
        error = max_distance(subject.outputs(module, arguments), results[0])
    found = f"bitwise equal; {error:.2g} apart without grad mode" if error else "bitwise equal"
    return require(error <= tolerance(module), found)


@check("finite")
def same_seed(subject: Subject) -> str:
    """The same seed gives bitwise equal values and gradients.

    Draw random numbers with torch, or from a generator seeded in __init__: torch.manual_seed does not reach random or numpy.
    """

    def once() -> list[Tensor | None]:
        module = subject.build().train()
        arguments = subject.arguments(module)
        torch.manual_seed(1)
        outputs = subject.outputs(module, arguments)
        loss = torch.stack([part.square().sum() for part in outputs]).sum()
        parameters = [*trained(module).values()]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if parameters and loss.requires_grad else ()
        return [*(part.detach() for part in outputs), *gradients]

    require(same_bytes(once(), once()), "different")
    return "bitwise equal"


@check("finite", "evaluation", "solve")
def samples(subject: Subject) -> str:
    """A sample's result does not depend on the other samples.

    Reduce over the last dimensions only and normalise each sample by itself (LayerNorm), never over the batch.
    """

    def outputs(training: bool, seed: int = 0, row: slice = slice(None)) -> list[Tensor]:
        module = subject.build().train(training)  # built for each call: training may change its buffers
        arguments = tuple(part[row] for part in subject.arguments(module))
        torch.manual_seed(seed)
        with torch.no_grad():
            return [*subject.outputs(module, arguments)]

    def batch_dependence(training: bool) -> float:
        rows = [outputs(training, row=slice(b, b + 1)) for b in range(BATCH)]
        return max_distance(outputs(training), [torch.cat(parts) for parts in zip(*rows, strict=True)])

    module = subject.build().train()
    error = batch_dependence(training=False)
    require(error <= tolerance(module), f"alone and in a batch, they differ by {error:.2g}")
    if same_bytes(outputs(training=True), outputs(training=True, seed=1)):
        worst = batch_dependence(training=True)
    else:  # random masks differ between the rows: compare gradients instead
        arguments = tuple(part.requires_grad_() for part in subject.arguments(module))
        first = projection([part[0] for part in subject.outputs(module, arguments)])
        gradients = torch.autograd.grad(first, arguments, allow_unused=True, materialize_grads=True)
        worst = max(distance(gradient[1:], torch.zeros_like(gradient[1:])) for gradient in gradients)
    return require(worst <= tolerance(module), f"differ by {error:.2g}, in training by {worst:.2g}")


@check("finite", "evaluation", "same seed", "solve")
def causality(subject: Subject) -> str:
    """Position t does not depend on later positions.

    Attention without a causal mask, a convolution padded on both sides and a mean over time depend on them: mask
    (is_causal=True), pad on the left only, or take cumulative means.
    """
    module = subject.build()
    memory = subject.memory(module, subject.arguments(module, seed=7))
    memories = [None] if memory is None else [None, memory]
    worst, in_training = (max(future_leak(subject, one, training) for one in memories) for training in (False, True))
    found = f"the past changes by {worst:.2g}, in training by {in_training:.2g}"
    return require(max(worst, in_training) <= tolerance(module), found + ("" if memory is None else ", with a memory too"))


@torch.no_grad()
def future_leak(subject: Subject, memory: Any = None, training: bool = False) -> float:
    """The largest change of outputs before t when the inputs from t on change."""

    def outputs(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        module = subject.build().train(training)  # for each call: training may change its buffers
        torch.manual_seed(0)  # the same masks
        return subject.outputs(module, arguments, memory)

    module = subject.build()
    arguments, others = subject.arguments(module), subject.arguments(module, seed=99)
    before, worst = outputs(arguments), 0.0
    for t in range(1, TIME):
        after = outputs(tuple(torch.cat((a[:, :t], b[:, t:]), dim=1) for a, b in zip(arguments, others, strict=True)))
        worst = max(worst, max_distance([part[:, :t] for part in after], [part[:, :t] for part in before]))
    return worst


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that need a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def module_gradient_errors(subject: Subject, module: nn.Module, seed: int = 0, each: bool = False) -> dict[str, float]:
    """`gradient_errors` along the inputs, the parameters and both; with `each`, along every tensor by itself."""
    arguments = tuple(part.requires_grad_() for part in subject.arguments(module, seed=seed))
    parameters = trained(module)
    groups: dict[str, list[Tensor]] = {"inputs": [*arguments], "everything": [*arguments, *parameters.values()]}
    if each:
        groups = {name: [part] for name, part in (*zip("xz", arguments, strict=False), *parameters.items())}
    elif parameters:
        groups["parameters"] = [*parameters.values()]

    def value() -> Tensor:
        return projection(subject.outputs(module, arguments), seed=50)

    step = 1e-6 if subject.gradient_rtol is None else 1e-4
    return gradient_errors(value, groups, step=step, offset=1e-5 / (subject.gradient_rtol or GRADIENT_RTOL), seed=seed)


@check("finite", "evaluation", "solve")
def gradient(subject: Subject) -> str:
    """The gradient agrees with difference quotients.

    Look for a custom autograd.Function with a wrong backward (torch.autograd.gradcheck finds it), a detach(), .data, .item() or
    no_grad() on the way, or a result overwritten in place.
    """
    module, rtol = subject.build(), subject.gradient_rtol or GRADIENT_RTOL
    largest = 0.0
    for seed, note in ((0, ""), (1, ", at a second point (a kink at the first)")):  # at a kink the quotient is wrong
        errors = module_gradient_errors(subject, module, seed)
        error = max(errors.values())
        if error <= rtol:
            return f"relative error {error:.1g} in {2 * len(errors)} directions{note}"
        largest = max(largest, error)
    each = module_gradient_errors(subject, module, seed=1, each=True)
    wrong = sorted((name for name, error in each.items() if error > rtol), key=lambda name: -each[name])
    raise Broken(f"relative error {largest:.2g}" + (f", along {first_of(wrong)}" if wrong else ""))


@check("finite")
def parameters(subject: Subject) -> str | Result:
    """Every parameter and the input get a gradient.

    Use the parameter in forward without a detach(), remove it, or set requires_grad=False: it counts as trained.
    """
    module = subject.build()
    missing, zero = _without_gradient(subject, module)
    require(not missing, f"no gradient in {first_of(missing)}")
    if not zero:
        number = len(trained(module))
        return f"in the input and {number} of {number} parameters"
    with torch.no_grad():  # a gradient behind a gate that is initialised to zero is rightly zero
        for place, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * random_tensor(*parameter.shape, seed=place).to(parameter.dtype))
    still = _without_gradient(subject, module)[1]
    require(not still, f"zero in {first_of(still)}")
    return Result("warn", f"zero in {first_of(zero)} as initialised", "not after the first steps: something is initialised to zero")


def _without_gradient(subject: Subject, module: nn.Module) -> tuple[list[str], list[str]]:
    """What gets no finite gradient, and what gets a zero one (of the input, at the first position)."""
    arguments = tuple(part.requires_grad_() for part in subject.arguments(module))
    loss = projection(subject.outputs(module, arguments))
    leaves = {"the input": arguments[0], **trained(module)}
    if not loss.requires_grad:
        return [*leaves], []
    gradients = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()], allow_unused=True), strict=True))
    missing = [name for name, one in gradients.items() if one is None or not one.isfinite().all()]
    shown = {name: one[:, 0] if name == "the input" else one for name, one in gradients.items() if one is not None}
    return missing, [name for name, one in shown.items() if not one.ne(0).any()]


@check("finite", "evaluation")
def state(subject: Subject) -> str:
    """The state_dict, read as data, is the whole state.

    Make a tensor that is a plain attribute an nn.Parameter or self.register_buffer(name, tensor): no checkpoint stores it.
    """
    module, other, file = subject.build(0), subject.build(1), io.BytesIO()
    mode = module.training
    with torch.no_grad():
        subject.outputs(module.train(), subject.arguments(module, seed=1))  # what training changes is state too
    module.train(mode)
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    arguments = subject.arguments(module)
    torch.manual_seed(0)
    with torch.no_grad():
        pair = subject.outputs(module, arguments), subject.outputs(other, arguments)
    loaded = f"after loading {len(module.state_dict())} tensors"
    require(same_bytes(*pair), f"{max_distance(*pair):.2g} apart {loaded}")
    return f"bitwise equal {loaded}"


@check("finite")
def carried_memory(subject: Subject) -> str:
    """The memory for the next batch is of detached tensors, or none.

    Return memory.detach() (in tuples or lists, of each tensor): a graph keeps all batches before it alive.
    """
    module = subject.build()
    memory = subject.memory(module, tuple(part.requires_grad_() for part in subject.arguments(module)))
    if memory is None:
        return "none"
    leaves = tree_leaves(memory)
    strange = [type(leaf).__name__ for leaf in leaves if leaf is not None and not isinstance(leaf, (Tensor, int, float, bool))]
    require(not strange, f"contains a {', '.join(strange[:1])}, which no checkpoint can store")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    attached = sum(leaf.requires_grad for leaf in tensors)
    require(not attached, f"{attached} of {len(tensors)} tensors hold the graph of their batch")
    subject.outputs(module, subject.arguments(module, seed=3), memory)
    return f"detached, {sum(leaf.nbytes for leaf in tensors):,} B in {len(tensors)} tensors"
