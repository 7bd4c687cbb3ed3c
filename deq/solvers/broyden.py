"""Broyden's good method with only the steps as memory.

The estimate of the inverse Jacobian is a product of rank-one factors, each from two successive steps, so only `window` states are
stored (U, V forms store twice that). C. G. Broyden, Math. Comp. 19 (1965); C. T. Kelley, Solving Nonlinear Equations with
Newton's Method (SIAM 2003), section 4.2.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq.checks import check_whole
from deq.solve import Map, is_sync_free
from deq.solvers.history import inner

_FIRST_ROOM = 128  # steps; training takes fewer, and growing holds the old and the new storage for a moment


class BroydenMemory(NamedTuple):
    """State of a solve; the large tensors are written in place."""

    steps: Tensor  # (B, window, N)
    gram: Tensor  # (B, window, window) of the steps
    system: Tensor  # (B, window, window), lower triangular: the left side of the system for the coefficients
    square: Tensor  # (B,) <s, s> of the last step
    one: Tensor  # (B,)
    stored: int  # number of steps stored
    window: int  # the most that may be stored; the tensors grow to it

    @property
    def divisors(self) -> Tensor:
        """(B, window) <s, s> of the stored steps, infinite where the update that divides by it was skipped as singular."""
        return self.system.diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, kw_only=True)
class Broyden:
    """Quasi-Newton on g(z) = f(z) - z from the estimate -I, full steps; stores at most `window` states, then restarts."""

    numerics: ClassVar[int] = 1

    window: int = 30
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole(least=2, window=self.window)

    def init(self, z: Tensor, steps: int) -> BroydenMemory:
        """Allocate room for the first 128 steps, or for the window or all steps where they are fewer."""
        window, batch = min(self.window, steps), len(z)
        room, size = min(window, _FIRST_ROOM), math.prod(z.shape[1:])
        return BroydenMemory(
            steps=z.new_empty(batch, room, size),
            gram=z.new_empty(batch, room, room),
            system=z.new_empty(batch, room, room),
            square=z.new_ones(batch),
            one=z.new_ones(batch),
            stored=0,
            window=window,
        )

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: BroydenMemory) -> tuple[Tensor, BroydenMemory]:
        """Make two passes over the stored steps and a triangular solve; the new Gram row follows without a third pass."""
        if memory.stored == memory.steps.shape[1]:
            memory = _grown(memory) if memory.stored < memory.window else memory._replace(stored=0)
        steps, gram, system, _, one, count, window = memory
        old = z.flatten(1)
        residual = torch.sub(fz.flatten(1), old)
        newer = steps.select(1, count)
        if count == 0:
            newer.copy_(residual)
        else:
            row = self._quasi_newton(residual, newer, memory)
            gram[:, count, :count] = row
            gram[:, :count, count] = row
        square = torch.linalg.vecdot(newer, newer).clamp_min_(torch.finfo(newer.dtype).tiny)
        gram[:, count, count] = square
        system[:, count, count] = square
        if count > 0:
            torch.neg(gram[:, count, 1 : count + 1], out=system[:, count, :count])
        return torch.add(old, newer).view(z.shape), BroydenMemory(steps, gram, system, square, one, count + 1, window)

    @staticmethod
    def _quasi_newton(residual: Tensor, newer: Tensor, memory: BroydenMemory) -> Tensor:
        """Write the step -B^-1 g to `newer` (B, N); return its inner products (B, count) with the stored steps.

        B^-1 g = w_k with w_0 = -g and w_{j+1} = w_j + c_j s_{j+1}, c_j = <s_j, w_j> / <s_j, s_j>: a lower triangular system for c.
        The last factor involves the step itself, s_k = -w / (1 + <s_{k-1}, w> / <s_{k-1}, s_{k-1}>).
        """
        count, gram = memory.stored, memory.gram
        steps = memory.steps[:, :count]
        against = inner(steps, residual)  # <s_j, g>
        opposite, along = residual, against  # -w and <s_j, -w>
        if count > 1:
            last = count - 1
            left, right = memory.system[:, :last, :last], against[:, :last].unsqueeze(2)
            c = torch.linalg.solve_triangular(left, right, upper=False)  # -c
            opposite = torch.baddbmm(residual.unsqueeze(1), c.mT, steps[:, 1:]).squeeze(1)
            along = torch.baddbmm(against.unsqueeze(2), gram[:, :count, 1:count], c).squeeze(2)  # without another pass
        denominator = torch.addcdiv(memory.one, along.select(1, count - 1), memory.square, value=-1)
        limit = torch.finfo(gram.dtype).eps ** 0.5
        # NaN is not equal to itself.
        if not (is_sync_free(residual) and torch.equal(denominator.clamp_min(limit), denominator)):
            # Where the update would be singular, a sample skips it, here and, by an infinite divisor, in every later product.
            singular = denominator.abs() < limit
            memory.system[:, count - 1, count - 1].masked_fill_(singular, torch.inf)
            denominator = denominator.masked_fill(singular, 1)
        denominator = denominator.unsqueeze(1)
        torch.div(opposite, denominator, out=newer)
        return along / denominator


def _grown(memory: BroydenMemory) -> BroydenMemory:
    """Return the memory with twice the room, at most the window."""
    room, stored = min(2 * memory.stored, memory.window), memory.stored

    def grown(old: Tensor, width: int) -> Tensor:
        new = old.new_empty(len(old), room, width)
        new[:, :stored, : old.shape[2]] = old
        return new

    return memory._replace(
        steps=grown(memory.steps, memory.steps.shape[2]), gram=grown(memory.gram, room), system=grown(memory.system, room)
    )
