"""Broyden's good method with the steps alone as its memory.

The inverse Jacobian estimate is a product of rank-one factors, each made of two successive steps, so that `window` states are all
that is stored (U, V forms store twice that). C. G. Broyden, Math. Comp. 19 (1965); C. T. Kelley, Solving Nonlinear Equations with
Newton's Method (SIAM 2003), section 4.2.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq.solve import Map

_HALF = (torch.bfloat16, torch.float16)


class _Memory(NamedTuple):
    steps: Tensor  # (B, window, N)
    gram: Tensor  # (B, window, window) of the steps; its first column, which no product needs, holds the divisors <s_j, s_j>
    stored: int  # steps in it


@dataclass(frozen=True, kw_only=True)
class Broyden:
    """Quasi-Newton on g(z) = f(z) - z from the estimate -I, full steps; stores at most `window` states, then starts afresh."""

    window: int = 30
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")

    def init(self, z: Tensor, steps: int) -> _Memory:
        """Room for the window, or for all the steps where they are fewer, allocated once."""
        window = min(self.window, steps)
        batch, size = z.shape[0], z[0].numel()
        gram_dtype = torch.float32 if z.dtype in _HALF else z.dtype
        return _Memory(
            z.new_empty(batch, window, size),
            z.new_zeros(batch, window, window, dtype=gram_dtype),
            0,
        )

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: _Memory) -> tuple[Tensor, _Memory]:
        """Two passes over the stored steps and a triangular solve for the coefficients; the new Gram row comes by algebra."""
        steps, gram, count = memory
        residual = fz.reshape(fz.shape[0], -1) - z.reshape(z.shape[0], -1)
        if count == steps.shape[1]:
            count = 0
        if count == 0:
            step = residual
        else:
            step, row = self._quasi_newton(residual, steps[:, :count], gram[:, :count, :count])
            gram[:, count, :count] = row
            gram[:, :count, count] = row
        steps[:, count] = step
        tiny = torch.finfo(gram.dtype).tiny
        norm = torch.linalg.vector_norm(step, dim=1, dtype=gram.dtype).square().clamp_min(tiny)
        gram[:, count, count] = norm
        gram[:, count, 0] = norm
        return (z.reshape(z.shape[0], -1) + step).view(z.shape), _Memory(steps, gram, count + 1)

    @staticmethod
    def _quasi_newton(residual: Tensor, steps: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
        """The step -B^-1 g (B, N) and its inner products (B, count) with the stored steps.

        B^-1 g = w_k with w_0 = -g and w_{j+1} = w_j + c_j s_{j+1}, c_j = <s_j, w_j> / <s_j, s_j>: a lower triangular system for c.
        The last factor involves the step itself, s_k = -w / (1 + <s_{k-1}, w> / <s_{k-1}, s_{k-1}>).
        """
        count = steps.shape[1]
        against = torch.bmm(residual[:, None], steps.mT)[:, 0].to(gram.dtype)  # <s_j, g>
        divisors = gram[:, :, 0]
        if count > 1:
            lower = torch.diag_embed(divisors[:, :-1]) - torch.tril(gram[:, :-1, 1:], -1)
            c = torch.linalg.solve_triangular(lower, -against[:, :-1, None], upper=False)
            w = torch.baddbmm(residual[:, None], c.mT.to(steps.dtype), steps[:, 1:], beta=-1)[:, 0]
            inner = (gram[:, :, 1:] @ c)[..., 0] - against  # <s_j, w> without another pass
        else:
            w, inner = -residual, -against
        denominator = 1 + inner[:, -1] / divisors[:, -1]
        # A vanishing denominator means that the update would be singular: that sample skips it, here and, by an infinite divisor,
        # in every later product.
        singular = denominator.abs() < torch.finfo(gram.dtype).eps ** 0.5
        denominator = torch.where(singular, torch.ones_like(denominator), denominator)
        divisors[:, -1] = torch.where(singular, torch.inf, divisors[:, -1])
        return w / -denominator[:, None].to(w.dtype), inner / -denominator[:, None]
