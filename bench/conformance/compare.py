"""Compare tensors, and a gradient with difference quotients."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def random_tensor(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers; the global generator does not change."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def projection(parts: Sequence[Tensor], seed: int = 0) -> Tensor:
    """The sum of all elements with random weights."""
    weighted = [(part * random_tensor(*part.shape, seed=seed + place)).sum() for place, part in enumerate(parts)]
    return torch.stack(weighted).sum()


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest |found - wanted| / (1 + |wanted|); infinite where shapes differ or a number is not finite."""
    if found.shape != wanted.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    largest = ((found.detach() - wanted.detach()).abs() / (1 + wanted.detach().abs())).max().item()
    return float("inf") if math.isnan(largest) else largest


def max_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest `distance` of the pairs."""
    return max((distance(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)


def same_bytes(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> bool:
    """Whether every pair is bitwise equal, or absent on both sides."""
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def gradient_errors(
    value: Callable[[], Tensor],
    groups: Mapping[str, Sequence[Tensor]],
    *,
    step: float = 1e-6,
    offset: float = 0.1,
    directions: int = 2,
    seed: int = 0,
) -> dict[str, float]:
    """For each group of float64 leaves, the largest |slope - quotient| / (offset + |quotient|) along random directions.

    The slope is that of the gradient of the scalar `value()`, the quotient a central difference.
    """
    errors = dict.fromkeys(groups, 0.0)
    for number, (name, group) in enumerate(groups.items()):
        with torch.enable_grad():
            gradients = torch.autograd.grad(value(), group, allow_unused=True, materialize_grads=True)
        for index in range(directions):
            along = [random_tensor(*t.shape, seed=seed + 1000 * number + 100 * index + place) for place, t in enumerate(group)]
            slope = sum((g * d).sum().item() for g, d in zip(gradients, along, strict=True))
            quotient = (_shifted(value, group, along, step) - _shifted(value, group, along, -step)) / (2 * step)
            error = abs(slope - quotient) / (offset + abs(quotient))
            errors[name] = max(errors[name], float("inf") if math.isnan(error) else error)
    return errors


@torch.no_grad()
def _shifted(value: Callable[[], Tensor], group: Sequence[Tensor], along: Sequence[Tensor], step: float) -> float:
    """The value with every tensor of the group shifted by `step` along its direction; the tensors are restored."""
    before = [tensor.clone() for tensor in group]
    for tensor, direction in zip(group, along, strict=True):
        tensor.add_(direction, alpha=step)
    try:
        return value().item()
    finally:
        for tensor, kept in zip(group, before, strict=True):
            tensor.copy_(kept)
