"""The maps that libraries are compared on: bound by Python, by an expensive f, and by memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq import Map


@dataclass(frozen=True)
class Problem:
    """A map to be solved from `z0` (B, ...), the tensors that it depends on, and how many evaluations a solve may take."""

    f: Map
    z0: Tensor
    leaves: list[Tensor]
    cap: int


def _affine_tanh(weight: Tensor, batch: int, dtype: torch.dtype, generator: torch.Generator) -> Problem:
    x = 0.3 * torch.randn(batch, len(weight), generator=generator, dtype=torch.float64)
    w, x = weight.to(dtype).requires_grad_(), x.to(dtype).requires_grad_()
    return Problem(lambda z: torch.tanh(F.linear(z, w) + x), torch.zeros(batch, len(weight), dtype=dtype), [w, x], 200)


def tiny(dtype: torch.dtype = torch.float32, batch: int = 32, width: int = 64, radius: float = 0.95) -> Problem:
    """f(z) = tanh(W z + x), W of the given spectral radius: a few microseconds an evaluation, so that Python's share shows."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return _affine_tanh(w * (radius / torch.linalg.eigvals(w).abs().max()), batch, dtype, generator)


def oscillating(dtype: torch.dtype = torch.float32, batch: int = 32, width: int = 64) -> Problem:
    """tiny with a symmetric W of eigenvalues -2 to 0.5: there is a fixed point, and plain iteration never comes to it."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    return _affine_tanh(q @ torch.diag(torch.linspace(-2, 0.5, width, dtype=torch.float64)) @ q.T, batch, dtype, generator)


class _Block(nn.Module):
    """A post-norm transformer block with its input added after the attention."""

    def __init__(self, width: int, heads: int, gain: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        for layer in (self.qkv, self.project, self.expand, self.contract):
            nn.init.normal_(layer.weight, 0.0, gain * 0.02 * math.sqrt(768 / width))
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        batch, times, width = z.shape
        q, k, v = self.qkv(z).view(batch, times, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, times, width)
        y = self.norms[0](z + self.project(mixed) + x)
        normed: Tensor = self.norms[1](y + self.contract(F.relu(self.expand(y))))
        return normed


def block(dtype: torch.dtype = torch.float32, batch: int = 8, times: int = 128, width: int = 128) -> Problem:
    """A transformer block as in a DEQ-Transformer: milliseconds an evaluation, and little that a solver could add."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _Block(width, heads=4, gain=2.0).to(torch.float64)
        x = torch.randn(batch, times, width, dtype=torch.float64)
    module, x = module.to(dtype), x.to(dtype).requires_grad_()
    return Problem(lambda z: module(z, x), torch.zeros(batch, times, width, dtype=dtype), [*module.parameters(), x], 120)


def large(dtype: torch.dtype = torch.float32, batch: int = 16, times: int = 256, width: int = 512) -> Problem:
    """2.1 million numbers of state and a cheap f: what a solver reads and writes is what it costs."""
    generator = torch.Generator().manual_seed(0)
    a = (0.9 * torch.rand(width, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    b = torch.randn(batch, times, width, generator=generator, dtype=torch.float64).to(dtype)
    return Problem(lambda z: torch.tanh(a * z.roll(1, -1) + b), torch.zeros(batch, times, width, dtype=dtype), [a, b], 40)


PROBLEMS: dict[str, Callable[..., Problem]] = {"tiny": tiny, "oscillating": oscillating, "block": block, "large": large}
