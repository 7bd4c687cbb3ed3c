"""Anderson acceleration: combine the last `window` images f(z_i) so that their residuals are smallest.

Type II, difference-free: minimise ||sum_i a_i g_i|| subject to sum_i a_i = 1 over residuals g_i = f(z_i) - z_i, step to
sum_i a_i (z_i + mixing g_i). D. G. Anderson, J. ACM 12 (1965); H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq.checks import check_whole
from deq.solve import Map, is_sync_free
from deq.solvers.history import combined, inner


class AndersonMemory(NamedTuple):
    """State of a solve, written in place."""

    residuals: Tensor  # (B, window, N)
    images: Tensor  # (B, window, N)
    gram: Tensor  # (B, window, window) of the residuals, with the ridge on its diagonal; one row changes per step
    ridged: tuple[Tensor, ...]  # `window` rows: ones, and 1 + ridge where the diagonal is
    ones: Tensor  # (B, window, 1)
    picard: tuple[Tensor, ...]  # `window` rows (window,): all weight on one image
    taken: int  # steps so far


@dataclass(frozen=True, kw_only=True)
class Anderson:
    """Anderson acceleration over `window` steps; stores at most 2 window states.

    `ridge` is relative to the diagonal of each sample's Gram matrix, since an absolute ridge stalls tight tolerances (one library's
    default at 1e-6). None takes the smallest with which Cholesky works in the dtype. A sample whose system is singular all the same
    takes a Picard step, without effect on the others.
    """

    numerics: ClassVar[int] = 1

    window: int = 6
    mixing: float = 1.0
    ridge: float | None = None
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole(window=self.window)
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing must be in (0, 1], got {self.mixing}")
        if self.ridge is not None and not self.ridge >= 0:
            raise ValueError(f"ridge must not be negative, got {self.ridge}")

    def init(self, z: Tensor, steps: int) -> AndersonMemory:
        """Allocate the window, or room for all steps where they are fewer."""
        window = min(self.window, steps)
        batch, size = z.shape[0], math.prod(z.shape[1:])
        ridge = self.ridge if self.ridge is not None else 8 * torch.finfo(z.dtype).eps
        eye = torch.eye(window, dtype=z.dtype, device=z.device)
        return AndersonMemory(
            residuals=z.new_empty(batch, window, size),
            images=z.new_empty(batch, window, size),
            gram=z.new_zeros(batch, window, window),
            ridged=torch.add(1, eye, alpha=ridge).unbind(),
            ones=z.new_ones(batch, window, 1),
            picard=eye.unbind(),
            taken=0,
        )

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: AndersonMemory) -> tuple[Tensor, AndersonMemory]:
        """Compute the new Gram row (one bmm), the weights (a Cholesky solve) and the combination of the images (one bmm)."""
        residuals, images, gram, ridged, ones, picard, count = memory
        window = residuals.shape[1]
        newest, used = count % window, count + 1
        image, newer, row = fz.flatten(1), residuals.select(1, newest), ridged[newest]
        torch.sub(image, z.flatten(1), out=newer)
        images.select(1, newest).copy_(image)
        if used < window:
            residuals, images, gram, row = residuals[:, :used], images[:, :used], gram[:, :used, :used], row[:used]
            ones = ones[:, :used]
        row = inner(residuals, newer) * row
        gram.select(1, newest).copy_(row)
        gram.select(2, newest).copy_(row)
        weights = self._weights(gram, ones, picard[newest][:used])
        proposal = combined(weights, images)
        if self.mixing != 1:
            proposal = proposal + (self.mixing - 1) * combined(weights, residuals)
        return proposal.view(z.shape), memory._replace(taken=count + 1)

    @staticmethod
    def _weights(gram: Tensor, ones: Tensor, picard: Tensor) -> Tensor:
        """Return weights (B, used) that sum to one; a sample without a solution has those of a Picard step."""
        factor, failed = torch.linalg.cholesky_ex(gram)
        solved = torch.cholesky_solve(ones, factor).squeeze(2)
        limits, total = torch.finfo(gram.dtype), solved.sum(1, keepdim=True)
        # NaN is not equal to itself.
        if is_sync_free(gram) and not failed.any() and torch.equal(total.clamp(limits.tiny, limits.max), total):
            return solved / total
        # A factorisation that failed puts its sum far below the least.
        total = torch.sub(total, failed.unsqueeze(1), alpha=limits.max)
        return torch.where(total.clamp(limits.tiny, limits.max) == total, solved / total, picard)
