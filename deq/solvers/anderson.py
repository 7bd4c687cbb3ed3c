"""Anderson acceleration: the combination of the last `window` images whose residuals cancel best.

Type II, difference-free: minimise ||sum_i a_i g_i|| subject to sum_i a_i = 1 over residuals g_i = f(z_i) - z_i, step to
sum_i a_i (z_i + mixing g_i). D. G. Anderson, J. ACM 12 (1965); H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq.solve import Map

_HALF = (torch.bfloat16, torch.float16)


class _Memory(NamedTuple):
    residuals: Tensor  # (B, window, N): contiguous rows, so that writing one is a plain copy
    images: Tensor  # (B, window, N)
    gram: Tensor  # (B, window, window) of the residuals; one row is renewed a step
    taken: int  # steps so far


@dataclass(frozen=True, kw_only=True)
class Anderson:
    """Anderson acceleration over `window` steps; stores at most 2 window states.

    `ridge` is relative to each sample's Gram matrix after scaling its diagonal to one: an absolute ridge ruins tight tolerances
    (a peer's default stalls at 1e-6). None takes the smallest that keeps Cholesky going in the dtype. A sample whose system is
    singular all the same takes a Picard step; the others do not notice.
    """

    window: int = 6
    mixing: float = 1.0
    ridge: float | None = None
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing must be in (0, 1], got {self.mixing}")
        if self.ridge is not None and not self.ridge >= 0:
            raise ValueError(f"ridge must not be negative, got {self.ridge}")

    def init(self, z: Tensor, steps: int) -> _Memory:
        """Room for the window, or for all the steps where they are fewer, allocated once."""
        window = min(self.window, steps)
        batch, size = z.shape[0], z[0].numel()
        gram_dtype = torch.float32 if z.dtype in _HALF else z.dtype
        return _Memory(
            z.new_empty(batch, window, size),
            z.new_empty(batch, window, size),
            z.new_zeros(batch, window, window, dtype=gram_dtype),
            0,
        )

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: _Memory) -> tuple[Tensor, _Memory]:
        """One bmm over the residuals for the new Gram row, a (window, window) Cholesky solve, one bmm over the images."""
        residuals, images, gram, count = memory
        window = residuals.shape[1]
        newest, used = count % window, min(count + 1, window)
        torch.sub(fz.reshape(fz.shape[0], -1), z.reshape(z.shape[0], -1), out=residuals[:, newest])
        images[:, newest] = fz.reshape(fz.shape[0], -1)
        row = torch.bmm(residuals[:, newest, None], residuals[:, :used].mT)[:, 0].to(gram.dtype)
        gram[:, newest, :used] = row
        gram[:, :used, newest] = row
        weights = self._weights(gram[:, :used, :used], newest).to(images.dtype)[:, None]
        proposal = torch.bmm(weights, images[:, :used])
        if self.mixing != 1:
            proposal = torch.baddbmm(proposal, weights, residuals[:, :used], alpha=self.mixing - 1)
        return proposal[:, 0].view(z.shape), _Memory(residuals, images, gram, count + 1)

    def _weights(self, gram: Tensor, newest: int) -> Tensor:
        """(B, used) weights that sum to one; all on the newest image (a Picard step) for a sample that has no solution."""
        ridge = self.ridge if self.ridge is not None else 8 * torch.finfo(gram.dtype).eps
        scale = gram.diagonal(dim1=1, dim2=2).rsqrt()
        scaled = gram * scale[:, :, None] * scale[:, None, :]
        scaled.diagonal(dim1=1, dim2=2).add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(scaled)
        weights = torch.cholesky_solve(scale[:, :, None], factor)[..., 0] * scale
        weights = weights / weights.sum(1, keepdim=True)
        sound = (failed == 0) & torch.isfinite(weights).all(1)
        picard = torch.zeros_like(weights)
        picard[:, newest] = 1
        return torch.where(sound[:, None], weights, picard)
