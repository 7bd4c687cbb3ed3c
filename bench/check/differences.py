"""How far apart two results are, and whether a gradient is the slope that a difference quotient sees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that the seed decides; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest |found - wanted| / (1 + |wanted|); infinite where shapes differ or a number is not finite."""
    if found.shape != wanted.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    distance = ((found.detach() - wanted.detach()).abs() / (1 + wanted.detach().abs())).max().item()
    return distance if distance == distance else float("inf")


def furthest(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest `apart` of the pairs."""
    return max((apart(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)


def same_bytes(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> bool:
    """Whether every pair is equal to the last bit, or absent on both sides."""
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(found, wanted, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """A gradient beside difference quotients: the largest error by direction, in units of `atol` / `rtol` + |quotient|."""

    errors: dict[str, float]
    rtol: float

    @property
    def worst(self) -> float:
        """The largest error of all directions."""
        return max(self.errors.values())

    @property
    def right(self) -> bool:
        """Whether every |gradient - quotient| is at most atol + rtol |quotient|."""
        return self.worst <= self.rtol


def slopes(
    value: Callable[[], Tensor],
    groups: Mapping[str, Sequence[Tensor]],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    step: float = 1e-6,
    directions: int = 2,
    seed: int = 0,
) -> Slopes:
    """The gradient of a scalar `value()` against central differences along random directions of each group of leaf tensors.

    Costs one backward pass and two evaluations a direction; every tensor is float64 and is given its numbers back.
    """
    leaves = list({id(tensor): tensor for group in groups.values() for tensor in group}.values())
    with torch.enable_grad():
        found = torch.autograd.grad(value(), leaves, allow_unused=True, materialize_grads=True)
    gradients = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
    errors = {}
    for number, (name, group) in enumerate(groups.items()):
        worst = 0.0
        for index in range(directions):
            along = [drawn(*t.shape, seed=seed + 1000 * number + 100 * index + place) for place, t in enumerate(group)]
            slope = sum(((gradients[id(t)] * d).sum().item() for t, d in zip(group, along, strict=True)), 0.0)
            quotient = (_moved(value, group, along, step) - _moved(value, group, along, -step)) / (2 * step)
            error = abs(slope - quotient) / (atol / rtol + abs(quotient))
            worst = max(worst, error if error == error else float("inf"))
        errors[name] = worst
    return Slopes(errors=errors, rtol=rtol)


@torch.no_grad()
def _moved(value: Callable[[], Tensor], group: Sequence[Tensor], along: Sequence[Tensor], step: float) -> float:
    kept = [tensor.clone() for tensor in group]
    for tensor, direction in zip(group, along, strict=True):
        tensor.add_(direction, alpha=step)
    try:
        return value().item()
    finally:
        for tensor, before in zip(group, kept, strict=True):
            tensor.copy_(before)
