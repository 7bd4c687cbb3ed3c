"""Relative attention as in Transformer-XL, for the equilibrium cell and the explicit network."""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq.cells.kept import KeepLast
from deq.checks import check_whole
from deq.dropout import check_rates
from deq.solve import Map


class _Constants(NamedTuple):
    """Tensors that depend on sizes alone."""

    shrink: Tensor  # (3 D,) the scale of queries, ones for keys and values
    distances: Tensor  # (S, D) sinusoids of the distances S-1..0
    blocked: Tensor  # (T, S) which keys a query does not see


def sinusoids(distances: int, width: int, like: Tensor, base: float = 10_000.0) -> Tensor:
    """Return (distances, width): sines, then cosines of the distances 0, 1, ...; Vaswani et al. (2017), arXiv 1706.03762."""
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=like.device) / width)
    angles = torch.arange(distances, dtype=torch.float64, device=like.device)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()[:, : width // 2]), dim=1).to(like.dtype)


def by_distance(scores: Tensor) -> Tensor:
    """Reorder scores (..., T, S) of T queries from distances S-1..0 to keys 0..S-1.

    The last query is at the last key's position. Entries of keys after a query are arbitrary and must be masked.
    """
    times, keys = scores.shape[-2:]
    return F.pad(scores, (1, 0)).flatten(-2)[..., times:].unflatten(-1, (times, keys))


def _constants(times: int, keys: int, width: int, heads: int, local: int | None, base: float, like: Tensor) -> _Constants:
    """Make what the map of T queries and S keys has of sizes alone."""
    shrink = torch.ones(3 * width, dtype=like.dtype, device=like.device)
    shrink[:width] = 1 / math.sqrt(width // heads)
    seen = torch.ones(times, keys, dtype=torch.bool, device=like.device).tril(keys - times)
    seen = seen if local is None else seen.triu(keys - times - local + 1)
    return _Constants(shrink, sinusoids(keys, width, like, base).flip(0), ~seen)


class RelativeAttention(nn.Module):
    """Causal attention with `heads` heads; the score of query i and key j is, over sqrt(E) for head width E,

        (q_i + r_w) . k_j + (q_i + r_r) . W_r R_{i-j}

    with sinusoids R and learned biases r_w and r_r, which start at N(0, bias_std). Queries see at most `local` positions, their own
    included (None: all). `dropout` drops attention weights. The output projection has no bias in Transformer-XL; with `output_bias`
    it has one that starts at zero, as in the DEQ's code.
    Dai et al. (ACL 2019), arXiv 1901.02860. Parameters: 5 D^2 + 2 D, and D with `output_bias`.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        local: int | None = None,
        dropout: float = 0.0,
        position_base: float = 10_000.0,
        bias_std: float = 1.0,
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        check_whole(width=width, heads=heads, local=1 if local is None else local)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width {width}, heads {heads}")
        if not position_base > 1:
            raise ValueError(f"position_base must be above 1, got {position_base}")
        check_rates(attention_dropout=dropout)
        self.width, self.heads, self.local, self.dropout, self.position_base = width, heads, local, dropout, position_base
        self._constants = KeepLast(_constants)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.position = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        if output_bias:
            self.project.bias = nn.Parameter(torch.zeros(width))
        self.content_bias = nn.Parameter(torch.empty(heads, 1, width // heads).normal_(0.0, bias_std))
        self.position_bias = nn.Parameter(torch.empty(heads, 1, width // heads).normal_(0.0, bias_std))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (B, T, 3 D) into queries, keys and values (B, H, T, E)."""
        return qkv.unflatten(-1, (3, self.heads, self.width // self.heads)).permute(2, 0, 3, 1, 4).unbind(0)

    def bind(
        self, x: Tensor, *, injection: Tensor | None = None, memory: Tensor | None = None, remembered: Tensor | None = None
    ) -> Map:
        """Return the map z (B, T, D) -> attention's output for features shaped like x; precompute all that z does not enter.

        `injection` (B, T, 3 D) is added to queries, keys and values of z, `remembered` (B, M, 3 D) to those of the `memory`
        (B, M, D), which precedes z.
        """
        batch, times, width = x.shape
        past = 0 if memory is None else memory.shape[1]
        keys, scale = past + times, 1 / math.sqrt(width // self.heads)
        weight, project, bias = self.qkv.weight, self.project.weight, self.project.bias
        if memory is not None:
            before = F.linear(memory, weight)
            _, past_k, past_v = self._heads(before if remembered is None else before + remembered)
        # Fold scale and content bias into the injection, so that no evaluation applies them.
        constants = self._constants(times, keys, width, self.heads, self.local, self.position_base, x)
        weight = weight * constants.shrink[:, None]
        added = torch.cat((scale * self.content_bias.flatten(), x.new_zeros(2 * width)))
        added = added.expand(batch, times, -1) if injection is None else torch.addcmul(added, injection, constants.shrink)
        added = added.reshape(-1, 3 * width)
        other = scale * (self.position_bias - self.content_bias)
        distances = self.position(constants.distances)
        by_key = distances.view(keys, self.heads, -1).permute(1, 2, 0)  # (H, E, S)
        kept = None
        if self.training and self.dropout:
            kept = F.dropout(x.new_ones(batch, self.heads, times, keys), self.dropout)

        def attend(z: Tensor) -> Tensor:
            q, k, v = self._heads(torch.addmm(added, z.flatten(0, 1), weight.T).view(batch, times, -1))
            if memory is not None:
                k, v = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
            scores = q @ k.transpose(-1, -2) + by_distance((q + other) @ by_key)
            # All constants live as long as this map: a CUDA graph of `bind` reads them again.
            weights = scores.masked_fill(constants.blocked, -math.inf).softmax(-1)
            mixed = (weights if kept is None else weights * kept) @ v
            return F.linear(mixed.transpose(1, 2).reshape(batch, times, width), project, bias)

        return attend
