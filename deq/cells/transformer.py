"""A causal transformer block as a fixed-point map; the input is injected into queries, keys and values."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq.cells.cell import Cell
from deq.cells.kept import KeepLast
from deq.checks import check_whole
from deq.solve import Map


class TransformerMemory(NamedTuple):
    """Memory of a TransformerCell."""

    z: Tensor  # (B, M, D) solution of the last M positions
    x: Tensor  # (B, M, D) their input features


def rotary_phases(positions: int, head_width: int, like: Tensor, base: float) -> Tensor:
    """Return the complex phases (positions, head_width / 2) of a rotary embedding (Su et al., arXiv 2104.09864).

    The exponents of `base` run from 0 to 1 with both ends, where theirs leave out the 1: few pairs then still span all distances.
    """
    frequencies = base ** -torch.linspace(0, 1, head_width // 2, dtype=torch.float64, device=like.device)
    angles = torch.arange(positions, dtype=torch.float64, device=like.device)[:, None] * frequencies
    dtype = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return torch.polar(torch.ones_like(angles), angles).to(dtype)


def rotate(q: Tensor, phases: Tensor) -> Tensor:
    """Rotate pairs of coordinates of q (..., T, E) by phases (T, E/2), so that <rotate(q)_s, rotate(k)_t> depends on s - t.

    A complex product takes a quarter of the time of sines and cosines; for half precision it runs in float32.
    """
    exact = q if phases.dtype == torch.complex128 or q.dtype == torch.float32 else q.float()
    turned = torch.view_as_complex(exact.unflatten(-1, (-1, 2))) * phases
    return torch.view_as_real(turned).flatten(-2).to(q.dtype)


def _constants(past: int, time: int, head_width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Make the phases of all positions and, with a past, the mask (time, past + time) of the positions that the last `time` see."""
    visible = torch.ones(time, past + time, dtype=torch.bool, device=like.device).tril(past) if past else None
    return rotary_phases(past + time, head_width, like, base), visible


class TransformerCell(Cell):
    """f(z) = LN(y + FFN(y)), y = LN(z + attention(W z + U x)): post-LN, as in the DEQ-Transformer of Bai et al. (2019).

    Rotary positions replace the paper's relative sinusoids: both depend only on distances, and rotary uses SDPA's fused kernels. A
    `rotary_base` near the sequence length helps narrow heads, which have few frequencies. LayerNorm has no affine parameters, as in
    the authors' code. `feedforward` is the inner width of the FFN (default 4D). `bias_std` is the initial scale of the biases of
    queries and keys, with which a head attends by distance alone (the paper's two position biases); a wide start finds long copies
    sooner. The other weights start at torch's defaults times gains that weigh the input more than the state, so that the first
    solves converge (at the defaults, or at the paper's N(0, 0.05), many need more than 200 steps); `initial_std` sets
    N(0, initial_std) instead. With `memory_length` M, queries attend to the last M positions of the previous segment, at their
    solution z and input x, detached. Parameters: 7 D^2 + 5 D + feedforward (2 D + 1).
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        width: int,
        heads: int = 4,
        feedforward: int | None = None,
        memory_length: int = 0,
        rotary_base: float = 10_000.0,
        bias_std: float = 1.0,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        feedforward = 4 * width if feedforward is None else feedforward
        check_whole(width=width, heads=heads, feedforward=feedforward)
        check_whole(least=0, memory_length=memory_length)
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width must be heads times an even head width, got width {width}, heads {heads}")
        if not rotary_base > 1:
            raise ValueError(f"rotary_base must be above 1, got {rotary_base}")
        self.width, self.heads, self.memory_length, self.rotary_base = width, heads, memory_length, rotary_base
        self._constants = KeepLast(_constants)
        self.inject = nn.Linear(width, 3 * width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        gains = {self.inject: 2.0, self.qkv: 0.3, self.project: 4.0, self.expand: 1.0, self.contract: 0.5}
        for layer, gain in gains.items():
            with torch.no_grad():
                layer.weight.mul_(gain)
            if initial_std is not None:
                nn.init.normal_(layer.weight, 0.0, initial_std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.inject.bias[: 2 * width].data, 0.0, bias_std)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Split into queries and keys (2, B, H, T, E), which are rotated together, and values (B, H, T, E)."""
        batch, time, _ = qkv.shape
        heads = qkv.view(batch, time, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        return heads[:2], heads[2]

    def bind(self, x: Tensor, memory: TransformerMemory | None = None) -> Map:
        """Compute U x and the keys and values of the memory once."""
        batch, time, width = x.shape
        injection = self.inject(x)
        past = 0 if memory is None else memory.z.shape[1]
        phases, visible = self._constants(past, time, width // self.heads, self.rotary_base, x)
        if memory is not None:
            qk, past_v = self._split(self.qkv(memory.z) + self.inject(memory.x))
            past_k = rotate(qk[1], phases[:past])
        phases = phases[past:]

        def f(z: Tensor) -> Tensor:
            qk, v = self._split(self.qkv(z) + injection)
            q, k = rotate(qk, phases).unbind(0)
            if memory is None:
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                k, v = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            mixed = mixed.transpose(1, 2).reshape(batch, time, width)
            y = F.layer_norm(z + self.project(mixed), (width,))
            return F.layer_norm(y + self.contract(F.relu(self.expand(y))), (width,))

        return f

    def remember(self, z: Tensor, x: Tensor, memory: TransformerMemory | None = None) -> TransformerMemory | None:
        """Return a detached copy of the solution and input at the last `memory_length` positions."""
        if self.memory_length == 0:
            return None
        if memory is not None:
            z, x = torch.cat((memory.z, z), dim=1), torch.cat((memory.x, x), dim=1)
        return TransformerMemory(z[:, -self.memory_length :].detach().clone(), x[:, -self.memory_length :].detach().clone())
