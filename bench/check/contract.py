"""What a model and a cell's map have in common: samples apart, the past apart from the future, gradients that are slopes, no luck.

Each function here is a check of a Subject; models.py and cells.py add what is theirs alone.
"""

import io
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.check.differences import Slopes, apart, drawn, furthest, same_bytes, slopes
from bench.check.finding import Check, Outcome, told

BATCH, TIME = 3, 6


class Subject(ABC):
    """A module that is made anew for every check, and how it is fed and looked at; float64, evaluation mode, solved tightly.

    `tolerance`: how far apart (relative to 1 + |y|) what must not depend on something may be. `rtol` and `step`: of its slopes.
    """

    tolerance: float = 1e-8
    rtol: float = 1e-4
    step: float = 1e-6

    @abstractmethod
    def made(self, seed: int = 0) -> nn.Module:
        """The module, made from that seed; the global generator is left as its making left it."""

    @abstractmethod
    def given(self, module: nn.Module, *, batch: int = BATCH, time: int = TIME, seed: int = 0) -> tuple[Tensor, ...]:
        """Random arguments, each (B, T, …); the features x first."""

    @abstractmethod
    def seen(self, module: nn.Module, given: tuple[Tensor, ...], memory: Any = None) -> tuple[Tensor, ...]:
        """What it makes of them, each (B, T, …)."""

    @abstractmethod
    def memory(self, module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        """The memory that it leaves."""


def finite(subject: Subject) -> Outcome:
    """No NaN and no infinity, in training or evaluation."""
    module = subject.made()
    given = subject.given(module)
    for training in (False, True):
        module.train(training)
        bad = sum(int((~part.isfinite()).sum()) for part in subject.seen(module, given))
        if bad:
            return told(False, f"{bad} numbers that are not finite in {'training' if training else 'evaluation'} mode")
    return told(True, "all finite")


def evaluation(subject: Subject) -> Outcome:
    """In evaluation mode nothing is drawn, nothing is counted, and grad mode changes nothing."""
    module = subject.made()
    given, results = subject.given(module), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append([part.detach() for part in subject.seen(module, given)])
    if not same_bytes(*results):
        return told(False, f"two calls differ by {furthest(*results):.2g}")
    with torch.no_grad():
        off = furthest(subject.seen(module, given), results[0])
    return told(off <= subject.tolerance, "the same bytes" if off == 0 else f"without grad mode off by {off:.2g}")


def same_seed(subject: Subject) -> Outcome:
    """Made and trained on from one seed, value and gradient come out the same to the last bit."""

    def once() -> list[Tensor | None]:
        module = subject.made().train()
        given = subject.given(module)
        torch.manual_seed(1)
        seen = subject.seen(module, given)
        loss = torch.stack([part.square().sum() for part in seen]).sum()
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if parameters and loss.requires_grad else ()
        return [*(part.detach() for part in seen), *gradients]

    alike = same_bytes(once(), once())
    return told(alike, "the same bytes" if alike else "other bytes")


def samples(subject: Subject) -> Outcome:
    """A sample alone gives what it gives among others: in evaluation, and in training by value or, where it draws, by gradient."""
    module = subject.made()
    given = subject.given(module)
    with torch.no_grad():
        off = furthest(subject.seen(module, given), _alone(subject, module, given))
    if off > subject.tolerance:
        return told(False, f"alone and among others differ by {off:.2g}")
    training = _samples_in_training(subject)
    return told(training <= subject.tolerance, f"apart by {off:.2g}, in training {training:.2g}")


def _alone(subject: Subject, module: nn.Module, given: tuple[Tensor, ...]) -> list[Tensor]:
    each = [subject.seen(module, tuple(part[b : b + 1] for part in given)) for b in range(len(given[0]))]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def _samples_in_training(subject: Subject) -> float:
    def train(seed: int, one: int | None = None) -> list[Tensor]:
        module = subject.made().train()  # made anew: a step may change its buffers
        given = subject.given(module)
        given = given if one is None else tuple(part[one : one + 1] for part in given)
        torch.manual_seed(seed)
        return [part.detach() for part in subject.seen(module, given)]

    together = train(0)
    if same_bytes(together, train(1)):
        alone = [torch.cat(parts) for parts in zip(*(train(0, b) for b in range(BATCH)), strict=True)]
        return furthest(together, alone)
    module = subject.made().train()
    given = tuple(part.requires_grad_() for part in subject.given(module))
    seen = subject.seen(module, given)
    first = torch.stack([(part[0] * drawn(*part[0].shape, seed=place)).sum() for place, part in enumerate(seen)]).sum()
    gradients = torch.autograd.grad(first, given, allow_unused=True, materialize_grads=True)
    return max(apart(gradient[1:], torch.zeros_like(gradient[1:])) for gradient in gradients)


def causality(subject: Subject) -> Outcome:
    """Other inputs from t on leave every result before t as it was, behind a memory too."""
    module = subject.made()
    worst = future_leak(subject, module, None)
    memory = subject.memory(module, subject.given(module, seed=7))
    if memory is not None:
        worst = max(worst, future_leak(subject, module, memory))
    behind = "" if memory is None else ", behind a memory too"
    return told(worst <= subject.tolerance, f"the past moves by {worst:.2g}{behind}")


@torch.no_grad()
def future_leak(subject: Subject, module: nn.Module, memory: Any) -> float:
    """How far the past moves when the future is another."""
    given, other = subject.given(module), subject.given(module, seed=99)
    before, worst = subject.seen(module, given, memory), 0.0
    for cut in range(1, TIME):
        changed = tuple(torch.cat((a[:, :cut], b[:, cut:]), dim=1) for a, b in zip(given, other, strict=True))
        after = subject.seen(module, changed, memory)
        worst = max(worst, furthest([part[:, :cut] for part in after], [part[:, :cut] for part in before]))
    return worst


def slopes_of(subject: Subject, module: nn.Module, seed: int = 0, each: bool = False) -> Slopes:
    """Its gradient beside difference quotients along the arguments, the parameters and both; `each`: along every one by itself."""
    given = tuple(part.requires_grad_() for part in subject.given(module, seed=seed))
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}

    def value() -> Tensor:
        seen = subject.seen(module, given)
        return torch.stack([(part * drawn(*part.shape, seed=50 + place)).sum() for place, part in enumerate(seen)]).sum()

    names = ("x", "z")[: len(given)]
    if each:
        groups: dict[str, Any] = {name: [part] for name, part in zip(names, given, strict=True)}
        groups |= {name: [parameter] for name, parameter in parameters.items()}
    else:
        groups = {"inputs": [*given], "everything": [*given, *parameters.values()]}
        if parameters:
            groups["parameters"] = [*parameters.values()]
    return slopes(value, groups, rtol=subject.rtol, step=subject.step, seed=seed)


def gradient(subject: Subject) -> Outcome:
    """Two points must disagree before a gradient counts as wrong: at a kink (a ReLU at zero) the quotient is."""
    module = subject.made()
    first = slopes_of(subject, module)
    directions = f"{2 * len(first.errors)} directions"
    if first.right:
        return told(True, f"relative error {first.worst:.1g} in {directions}")
    again = slopes_of(subject, module, seed=1)
    if again.right:
        return told(True, f"relative error {again.worst:.1g} in {directions}, at a second point (a kink at the first)")
    each = slopes_of(subject, module, seed=1, each=True)
    off = sorted((name for name, error in each.errors.items() if error > each.rtol), key=lambda name: -each.errors[name])
    where = f", along {', '.join(off[:3])}" + (f" and {len(off) - 3} more" if len(off) > 3 else "") if off else ""
    return told(False, f"relative error {max(first.worst, again.worst):.2g}{where}")


def arrival(subject: Subject) -> Outcome:
    """Every trainable parameter, and the first position of the input, gets a gradient that is finite and not zero."""
    module = subject.made()
    missing, zero = _unreached(subject, module)
    if missing:
        return told(False, f"no gradient in {_listed(missing)}")
    number = sum(1 for parameter in module.parameters() if parameter.requires_grad)
    if not zero:
        return told(True, f"in the input and {number} of {number} parameters")
    with torch.no_grad():  # a gate that opens at zero is a zero gradient behind it, and no mistake
        for place, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * drawn(*parameter.shape, seed=place).to(parameter.dtype))
    still = _unreached(subject, module)[1]
    if still:
        return told(False, f"zero in {_listed(still)}")
    return Outcome(
        "warn", f"zero in {_listed(zero)} as initialised", "it comes with the first steps: something is initialised to zero"
    )


def _unreached(subject: Subject, module: nn.Module) -> tuple[list[str], list[str]]:
    """What gets no gradient at all (or one that is not finite), and what gets one of zeros."""
    given = tuple(part.requires_grad_() for part in subject.given(module))
    seen = subject.seen(module, given)
    loss = torch.stack([(part * drawn(*part.shape, seed=place)).sum() for place, part in enumerate(seen)]).sum()
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not loss.requires_grad:
        return ["the input", *named], []
    found = torch.autograd.grad(loss, [given[0], *named.values()], allow_unused=True)
    gradients = dict(zip(["the input", *named], found, strict=True))
    missing = [name for name, one in gradients.items() if one is None or not one.isfinite().all()]
    zero = [
        name for name, one in gradients.items() if one is not None and not (one[:, 0] if name == "the input" else one).ne(0).any()
    ]
    return missing, zero


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def state(subject: Subject) -> Outcome:
    """Its state_dict, read as data alone, makes one made from another seed give the same bytes."""
    module, other = subject.made(0), subject.made(1)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    given = subject.given(module)
    torch.manual_seed(0)
    with torch.no_grad():
        pair = subject.seen(module, given), subject.seen(other, given)
    tensors, size = len(module.state_dict()), file.getbuffer().nbytes
    if same_bytes(*pair):
        return told(True, f"{tensors} tensors, {size:,} B, the same bytes after loading")
    return told(False, f"off by {furthest(*pair):.2g} after loading its {tensors} tensors")


def detached(subject: Subject) -> Outcome:
    """What it leaves for the next batch holds no graph, is made of tensors, and can be handed on."""
    module = subject.made()
    given = tuple(part.requires_grad_() for part in subject.given(module))
    memory = subject.memory(module, given)
    if memory is None:
        return told(True, "keeps none")
    leaves = tree_leaves(memory)
    strange = [type(leaf).__name__ for leaf in leaves if leaf is not None and not isinstance(leaf, (Tensor, int, float, bool))]
    if strange:
        return told(False, f"holds a {strange[0]}, which no checkpoint can keep")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    attached = [leaf for leaf in tensors if leaf.requires_grad or leaf.grad_fn is not None]
    if attached:
        return told(False, f"tensors that hold the graph of their batch: {len(attached)} of {len(tensors)}")
    subject.seen(module, subject.given(module, seed=3), memory)
    return told(True, f"detached, {sum(leaf.nbytes for leaf in tensors):,} B in {len(tensors)} parts")


FINITE: Check[Subject] = Check(
    name="finite",
    expected="finite numbers, in training and evaluation",
    cause="A division by zero, the logarithm or root of what may be negative, or a softmax over nothing but masked places. Clamp "
    "the argument, or mask with a large negative number instead of -inf where a whole row may be masked.",
    run=finite,
)
EVALUATION: Check[Subject] = Check(
    name="evaluation",
    expected="in evaluation mode, two calls alike",
    cause="Noise or dropout that does not ask self.training, or something that a call changes (a counter, a running mean). Use "
    "nn.Dropout or F.dropout(x, p, self.training), and change nothing in forward while self.training is False.",
    run=evaluation,
    needs=("finite",),
)
SAME_SEED: Check[Subject] = Check(
    name="same seed",
    expected="from the same seed, the same bytes",
    cause="Random numbers from elsewhere than torch (random, numpy, hash(), time), which torch.manual_seed does not reach. Draw "
    "with torch, or from a generator that you seed in __init__.",
    run=same_seed,
    needs=("finite",),
)
SAMPLES: Check[Subject] = Check(
    name="samples",
    expected="a sample's result does not depend on its neighbours",
    cause="A mean, maximum, norm or softmax over dimension 0, batch normalisation, or a reshape that mixes batch and features. "
    "Normalise each sample by itself (LayerNorm), and reduce over the last dimensions only.",
    run=samples,
    needs=("finite", "evaluation"),
)
CAUSALITY: Check[Subject] = Check(
    name="causality",
    expected="position t does not see what comes after it",
    cause="Attention without a causal mask, a convolution padded on both sides, a mean over time, a flip or a shift to the left. "
    "Mask (is_causal=True), pad on the left only (F.pad(x, (0, 0, k, 0))), take cumulative means.",
    run=causality,
    needs=("finite", "evaluation"),
)
GRADIENT: Check[Subject] = Check(
    name="gradient",
    expected="the slope that difference quotients see",
    cause="A custom autograd.Function with a wrong backward, a detach(), .data, .item() or no_grad() in the way, or a result "
    "written over in place. torch.autograd.gradcheck on the Function finds the formula that is wrong.",
    run=gradient,
    needs=("finite", "evaluation"),
)
ARRIVAL: Check[Subject] = Check(
    name="parameters",
    expected="a gradient in every parameter and in the input",
    cause="A layer that forward does not use, or a detach() before it. It would count in the parameter budget and never train: "
    "use it, remove it, or set requires_grad=False.",
    run=arrival,
    needs=("finite",),
)
STATE: Check[Subject] = Check(
    name="state",
    expected="the state_dict, read as data, is all of it",
    cause="A tensor kept as a plain attribute: it is in no checkpoint, and .double() and .to() leave it behind. Make it an "
    "nn.Parameter or self.register_buffer(name, tensor). Of extra state, only tensors and plain values can be read as data.",
    run=state,
    needs=("finite", "evaluation"),
)
DETACHED: Check[Subject] = Check(
    name="carried memory",
    expected="detached tensors, or none",
    cause="The memory holds the graph of its batch, so that every batch keeps all before it alive and backward runs through them. "
    "Return memory.detach(); of tensors in tuples or lists, each.",
    run=detached,
    needs=("finite",),
)
