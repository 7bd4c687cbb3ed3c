"""Broyden's good method with only the steps as memory.

The estimate of the inverse Jacobian is a product of rank-one factors, each from two successive steps, so only `window` states are
stored (U, V forms store twice that). C. G. Broyden, Math. Comp. 19 (1965); C. T. Kelley, Solving Nonlinear Equations with
Newton's Method (SIAM 2003), section 4.2.

With `backtrack`, p_j is a whole direction, of which a trial takes a share, and a factor of the estimate is
I + (p_{j+1} - own_j p_j) p_j^T / <p_j, p_j>: own is 1 - share after an accepted trial, 1 after a rejected one.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from deq.checks import check_whole
from deq.solve import Map, is_sync_free
from deq.solvers.history import inner

_FIRST_ROOM = 128  # steps; training takes fewer, and growing holds the old and the new storage for a moment


class Trials(NamedTuple):
    """What a solve that backtracks knows of its trials; a trial is an accepted iterate plus `share` of the last direction."""

    gap: Tensor  # (B,) of that iterate
    share: Tensor  # (B,) at most one
    rejected: Tensor  # (B,) bool: the last trial was
    own: Tensor  # (B, window): the coefficient of a direction in its own factor

    def judged(self, residual: Tensor, most: float) -> "Trials":
        """Reject the trials whose residual (B, N) is more than `most` times as long as that of the iterate they started from."""
        gap = torch.linalg.vector_norm(residual, dim=1)
        rejected = gap > most * self.gap
        return self._replace(gap=torch.where(rejected, self.gap, gap), rejected=rejected)

    def weights(self, c: Tensor) -> Tensor:
        """Return the weights (B, k + 1, 1) of all directions in a product of k factors with the coefficients c (B, k, 1)."""
        return pad(c, (0, 0, 1, 0)) - pad(c * self.own[:, : c.shape[1]].unsqueeze(2), (0, 0, 0, 1))

    def next(self, newer: Tensor, last: Tensor, growth: Tensor) -> tuple["Trials", Tensor]:
        """Return the next trial's share of the newer direction, and its move (B, N) from the last trial.

        `last`: the direction before; `growth` (B,): the square of the newer one's length over that of the last one.
        """
        taken = self.share.unsqueeze(1)
        share = torch.where(self.rejected, (0.5 * self.share / growth.sqrt()).clamp(max=1), 1)
        back = torch.where(self.rejected.unsqueeze(1), share.unsqueeze(1) * newer - taken * last, newer)
        return self._replace(share=share), back


class BroydenMemory(NamedTuple):
    """State of a solve; the large tensors are written in place."""

    steps: Tensor  # (B, window, N); with `backtrack`, the whole directions
    gram: Tensor  # (B, window, window) of the steps
    system: Tensor  # (B, window, window), lower triangular: the left side of the system for the coefficients
    square: Tensor  # (B,) <s, s> of the last step
    one: Tensor  # (B,)
    stored: int  # number of steps stored
    window: int  # the most that may be stored; the tensors grow to it
    trials: Trials | None  # with `backtrack`

    @property
    def divisors(self) -> Tensor:
        """(B, window) <s, s> of the stored steps, infinite where the update that divides by it was skipped as singular."""
        return self.system.diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, kw_only=True)
class Broyden:
    """Quasi-Newton on g(z) = f(z) - z from the estimate -I, full steps; stores at most `window` states, then restarts.

    With `backtrack`, a trial that multiplies a sample's gap by more than that is rejected: its secant updates the estimate, and the
    next trial starts from the same iterate in the new direction, at most half as far. That is a search without derivatives, one
    evaluation a step, for maps where full steps diverge or cycle; where they converge it may take longer. Of 150 tanh maps
    of 20 numbers with spectral radius 10 it solves 0.74 at a bound of 1.5, full steps 0.61. A trial may still end its sample, by
    `Stop.growth`. Powell's hybrid method (1970) learns from failed trials and halves likewise.
    """

    numerics: ClassVar[int] = 1

    window: int = 30
    backtrack: float | None = None
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole(least=2, window=self.window)
        if self.backtrack is not None and not 1 < self.backtrack < math.inf:
            raise ValueError(f"backtrack must be None or finite and above 1, got {self.backtrack}")

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
            trials=None if self.backtrack is None else _first_trials(z, window),
        )

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: BroydenMemory) -> tuple[Tensor, BroydenMemory]:
        """Make two passes over the stored steps and a triangular solve; the new Gram row follows without a third pass."""
        earlier = memory
        if memory.stored == memory.steps.shape[1]:
            memory = _grown(memory) if memory.stored < memory.window else memory._replace(stored=0)
        old = z.flatten(1)
        residual = torch.sub(fz.flatten(1), old)
        if self.backtrack is not None and memory.trials is not None:
            memory = memory._replace(trials=memory.trials.judged(residual, self.backtrack))
        steps, gram, system, _, one, count, window, trials = memory
        newer = steps.select(1, count)
        if count == 0:
            newer.copy_(residual)
            if trials is not None:  # the window was full: after a rejected trial, back to the accepted iterate
                newer.masked_fill_(trials.rejected.unsqueeze(1), 0)
        else:
            row = self._quasi_newton(residual, newer, memory)
            gram[:, count, :count] = row
            gram[:, :count, count] = row
        square = torch.linalg.vecdot(newer, newer).clamp_min_(torch.finfo(newer.dtype).tiny)
        gram[:, count, count] = square
        system[:, count, count] = square
        if count > 0:
            torch.neg(gram[:, count, 1 : count + 1], out=system[:, count, :count])
            if trials is not None:
                system[:, count, :count].addcmul_(trials.own[:, :count], gram[:, count, :count])
        move = newer
        if trials is not None:
            trials, move = trials.next(newer, earlier.steps.select(1, earlier.stored - 1), square / earlier.square)
        return torch.add(old, move).view(z.shape), BroydenMemory(steps, gram, system, square, one, count + 1, window, trials)

    @staticmethod
    def _quasi_newton(residual: Tensor, newer: Tensor, memory: BroydenMemory) -> Tensor:
        """Write the step -B^-1 g to `newer` (B, N); return its inner products (B, count) with the stored steps.

        B^-1 g = w_k with w_0 = -g and w_{j+1} = w_j + c_j s_{j+1}, c_j = <s_j, w_j> / <s_j, s_j>: a lower triangular system for c.
        The last factor involves the step itself, s_k = -w / (1 + <s_{k-1}, w> / <s_{k-1}, s_{k-1}>).
        """
        count, gram, trials = memory.stored, memory.gram, memory.trials
        steps = memory.steps[:, :count]
        against = inner(steps, residual)  # <s_j, g>
        opposite, along = residual, against  # -w and <s_j, -w>
        if count > 1:
            last = count - 1
            left, right = memory.system[:, :last, :last], against[:, :last].unsqueeze(2)
            c, first = torch.linalg.solve_triangular(left, right, upper=False), 1  # -c
            if trials is not None:
                c, first = trials.weights(c), 0
            opposite = torch.baddbmm(residual.unsqueeze(1), c.mT, steps[:, first:]).squeeze(1)
            along = torch.baddbmm(against.unsqueeze(2), gram[:, :count, first:count], c).squeeze(2)  # without another pass
        denominator = torch.addcdiv(memory.one, along.select(1, count - 1), memory.square, value=-1)
        limit = torch.finfo(gram.dtype).eps ** 0.5
        # NaN is not equal to itself.
        if not (is_sync_free(residual) and torch.equal(denominator.clamp_min(limit), denominator)):
            # Where the update would be singular, a sample skips it, here and, by an infinite divisor, in every later product.
            singular = denominator.abs() < limit
            memory.system[:, count - 1, count - 1].masked_fill_(singular, torch.inf)
            denominator = denominator.masked_fill(singular, 1)
            if trials is not None:
                denominator = denominator.masked_fill(singular & trials.rejected, torch.inf)  # the old direction, shorter
        denominator = denominator.unsqueeze(1)
        if trials is None:
            torch.div(opposite, denominator, out=newer)
            return along / denominator
        own, untaken = trials.own[:, count - 1 : count], (1 - trials.share).unsqueeze(1)
        own.copy_(untaken.masked_fill(trials.rejected.unsqueeze(1), 1))

        def updated(direction: Tensor, opposite: Tensor) -> Tensor:
            return own * direction + (opposite - untaken * direction) / denominator

        newer.copy_(updated(steps.select(1, count - 1), opposite))
        return updated(gram[:, count - 1, :count], along)


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


def _first_trials(z: Tensor, window: int) -> Trials:
    batch = len(z)
    never = torch.zeros(batch, dtype=torch.bool, device=z.device)
    return Trials(gap=z.new_full((batch,), math.inf), share=z.new_ones(batch), rejected=never, own=z.new_zeros(batch, window))
