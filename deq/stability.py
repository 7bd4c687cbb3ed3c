"""The Jacobian of a map at its fixed point: a penalty on its norm and an estimate of its spectral radius."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deq.checks import check_whole
from deq.precision import in_float32
from deq.solve import Map


@dataclass(frozen=True, kw_only=True)
class Jacobian:
    """Jacobian regularisation of a DEQ: `weight` times the penalty, added with `probability` in a training step.

    Bai, Koltun, Kolter (ICML 2021), arXiv 2106.14342, train WikiText-103 at weights 1.6 to 2.5 and probability 0.35.
    """

    weight: float
    probability: float = 1.0
    probes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, got {self.weight}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be in (0, 1], got {self.probability}")
        check_whole(probes=self.probes)

    def penalty(self, f: Map, z: Tensor) -> Tensor | None:
        """Return the weighted penalty, or None in a step without one."""
        if self.probability < 1 and torch.rand(()).item() >= self.probability:
            return None
        return self.weight * jacobian_penalty(f, z, self.probes)


def jacobian_penalty(f: Map, z: Tensor, probes: int = 1) -> Tensor:
    """Estimate ||J||_F^2 / N by Hutchinson's method, J = df/dz at z (B, ...), N the size of a sample; the mean over samples.

    Differentiable in what f depends on, not in z, which is detached; float32 at least. Zero where f ignores z. Each probe
    e ~ N(0, 1) costs a vector-Jacobian product with a graph: E ||e^T J||^2 = ||J||_F^2.
    """
    f, z = in_float32(f, z.detach())
    z.requires_grad_()
    total = z.new_zeros(())
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        fz = f(z)
        if not fz.requires_grad:
            return total
        for _ in range(probes):
            e = torch.randn_like(fz)
            (product,) = torch.autograd.grad(fz, z, e, create_graph=True, allow_unused=True, materialize_grads=True)
            total = total + product.square().sum()
    return total / (probes * max(1, z.numel()))


def spectral_radius(f: Map, z: Tensor, steps: int = 50) -> Tensor:
    """Estimate the largest |eigenvalue| (B,) of df/dz at each sample of z (B, ...) by power iteration on its transpose.

    Below one, plain iteration converges near z. Growth is averaged over the second half of the steps, since the single
    steps of a complex pair oscillate. Samples must be independent. No gradient.
    """
    check_whole(least=2, steps=steps)
    f, z = in_float32(f, z.detach())
    z.requires_grad_()
    with torch.enable_grad():
        fz = f(z)
    v = torch.randn_like(z)
    if not fz.requires_grad:
        return v.new_zeros(len(v))
    growth = []
    for _ in range(steps):
        v = v / _norm(v).clamp(min=torch.finfo(v.dtype).tiny)
        (v,) = torch.autograd.grad(fz, z, v.to(fz.dtype), retain_graph=True, allow_unused=True, materialize_grads=True)
        growth.append(_norm(v).flatten())
    late = torch.stack(growth[steps // 2 :])
    return late.clamp(min=torch.finfo(v.dtype).tiny).log().mean(0).exp()


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v.flatten(1), dim=1).view(-1, *[1] * (v.dim() - 1))
