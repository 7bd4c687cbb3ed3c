"""The maps that libraries are compared on: bound by Python, by an expensive f, and by memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq import CELLS, Map


@dataclass(frozen=True)
class Problem:
    """A map to solve from `z0` (B, ...), the tensors that it depends on, and the most evaluations of a solve."""

    f: Map
    z0: Tensor
    leaves: list[Tensor]
    cap: int


def _affine_tanh(weight: Tensor, batch: int, dtype: torch.dtype, device: str, generator: torch.Generator) -> Problem:
    x = 0.3 * torch.randn(batch, len(weight), generator=generator, dtype=torch.float64)
    w, x = weight.to(device, dtype).requires_grad_(), x.to(device, dtype).requires_grad_()
    return Problem(lambda z: torch.tanh(F.linear(z, w) + x), torch.zeros_like(x), [w, x], 200)


def tiny(
    dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 32, width: int = 64, radius: float = 0.95
) -> Problem:
    """f(z) = tanh(W z + x), W of the given spectral radius: a few microseconds an evaluation, so Python dominates."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return _affine_tanh(w * (radius / torch.linalg.eigvals(w).abs().max()), batch, dtype, device, generator)


def oscillating(dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 32, width: int = 64) -> Problem:
    """tiny with a symmetric W of eigenvalues -2 to 0.5: plain iteration does not converge to its fixed point."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    return _affine_tanh(q @ torch.diag(torch.linspace(-2, 0.5, width, dtype=torch.float64)) @ q.T, batch, dtype, device, generator)


class TransformerBlock(nn.Module):
    """The layers of a transformer block without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def attend(self, z: Tensor) -> Tensor:
        """Causal self-attention of z (B, T, D)."""
        q, k, v = self.qkv(z).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.project(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return mixed


class _InjectedBlock(TransformerBlock):
    """A post-norm transformer block with its input added after the attention."""

    def __init__(self, width: int, heads: int, gain: float) -> None:
        super().__init__(width, heads)
        for layer in (self.qkv, self.project, self.expand, self.contract):
            nn.init.normal_(layer.weight, 0.0, gain * 0.02 * math.sqrt(768 / width))
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        y = self.norms[0](z + self.attend(z) + x)
        normed: Tensor = self.norms[1](y + self.contract(F.relu(self.expand(y))))
        return normed


def block(dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 8, times: int = 128, width: int = 128) -> Problem:
    """A transformer block as in a DEQ-Transformer: milliseconds an evaluation, so the solver's own share is small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _InjectedBlock(width, heads=4, gain=2.0).to(torch.float64)
        x = torch.randn(batch, times, width, dtype=torch.float64)
    module, x = module.to(device, dtype), x.to(device, dtype).requires_grad_()
    return Problem(lambda z: module(z, x), torch.zeros_like(x), [*module.parameters(), x], 120)


def large(dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 16, times: int = 256, width: int = 512) -> Problem:
    """2.1 million numbers of state and a cheap f: the solver's memory traffic dominates."""
    generator = torch.Generator().manual_seed(0)
    a = (0.9 * torch.rand(width, generator=generator, dtype=torch.float64)).to(device, dtype).requires_grad_()
    b = torch.randn(batch, times, width, generator=generator, dtype=torch.float64).to(device, dtype)
    return Problem(lambda z: torch.tanh(a * z.roll(1, -1) + b), torch.zeros_like(b), [a, b], 40)


def medium(dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 15, times: int = 150) -> Problem:
    """The cell of the paper's DEQ-Transformer medium (480 wide, inner width 43,000) at its memory column's length and batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell = CELLS["transformer-xl"](width=480, heads=10, feedforward=43_000).to(device, dtype)
        x = torch.randn(batch, times, 480).to(device, dtype)
    with torch.no_grad():  # what is bound once has no graph, which every step would go back through
        f = cell.bind(x)
    return Problem(f, torch.zeros_like(x), [*cell.parameters()], 30)


def in_bfloat16(problem: Problem) -> Problem:
    """The problem with f under autocast to bfloat16; its state stays as it is."""

    def f(z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            fz: Tensor = problem.f(z)
        return fz.to(z.dtype)

    return replace(problem, f=f)


PROBLEMS: dict[str, Callable[..., Problem]] = {"tiny": tiny, "oscillating": oscillating, "block": block, "large": large}
# Timed on a GPU too: the paper's size, and f in bfloat16.
GPU_PROBLEMS: dict[str, Callable[..., Problem]] = {
    "medium": medium,
    "block, bfloat16": lambda **on: in_bfloat16(block(**on)),
    "medium, bfloat16": lambda **on: in_bfloat16(medium(**on)),
}
