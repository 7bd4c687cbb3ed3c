"""Transformer-XL: layers of relative attention, each with its own memory, untied or tied."""

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_checkpointed

from baselines.unrolled import Checkpointing, segments
from deq import Core, Output
from deq.cells.attention import RelativeAttention
from deq.cells.transformer_xl import Normalisation
from deq.checks import check_features, check_whole
from deq.dropout import check_rates, masked, variational_mask


class _Layer(nn.Module):
    """Relative attention and an FFN, with affine LayerNorms after (or before) them."""

    def __init__(self, attention: RelativeAttention, feedforward: int, normalisation: Normalisation, dropout: float) -> None:
        super().__init__()
        width = attention.width
        self.attention, self.pre, self.dropout = attention, normalisation == "pre", dropout
        self.expand, self.contract = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def masks(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """Draw dropout masks: after attention, inside the FFN, after the FFN."""
        wide = x.new_empty(len(x), 1, self.expand.out_features)
        return tuple(variational_mask(like, self.dropout, self.training) for like in (x, wide, x))

    def forward(self, x: Tensor, memory: Tensor | None, masks: tuple[Tensor | None, ...]) -> Tensor:
        """Map features (B, T, D), with the layer's earlier inputs (B, M, D) as memory, to features."""
        after, inner, last = masks
        first, second = self.norms
        if self.pre:
            old = None if memory is None else first(memory)
            y = x + masked(self.attention.bind(x, memory=old)(first(x)), after)
            return y + self._feedforward(second(y), inner, last)
        y = first(x + masked(self.attention.bind(x, memory=memory)(x), after))
        z: Tensor = second(y + self._feedforward(y, inner, last))
        return z

    def _feedforward(self, y: Tensor, inner: Tensor | None, last: Tensor | None) -> Tensor:
        return masked(self.contract(masked(F.relu(self.expand(y)), inner)), last)


class TransformerXL(Core):
    """`layers` layers of the DEQ-Transformer's own attention; with `tied`, one layer applied `layers` times.

    Each level attends to its inputs at the last `memory_length` positions before the segment, detached; the memory is their tuple.
    `local`, `normalisation` and dropout are as in TransformerXLCell, one mask per level (independent at every position in the
    authors' code), `checkpointing` as in Unrolled. All layers share the position biases, as there; they start as N(0, 1), as in
    TransformerXLCell, where the authors' code has a standard deviation of 0.02.
    Dai et al. (ACL 2019), arXiv 1901.02860. Parameters: 5 D^2 + F (2 D + 1) + 5 D per layer for F = `feedforward` (default 4 D),
    and 2 D for the biases.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        inputs: int,
        width: int,
        heads: int = 4,
        feedforward: int | None = None,
        layers: int = 4,
        tied: bool = False,
        memory_length: int = 0,
        local: int | None = None,
        normalisation: Normalisation = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        checkpointing: Checkpointing = "none",
        position_base: float = 10_000.0,
    ) -> None:
        super().__init__()
        feedforward = 4 * width if feedforward is None else feedforward
        check_whole(layers=layers, feedforward=feedforward)
        check_whole(least=0, memory_length=memory_length)
        if inputs != width:
            raise ValueError(f"the first layer adds to its input: inputs ({inputs}) must equal width ({width})")
        if normalisation not in ("post", "pre"):
            raise ValueError(f"normalisation must be post or pre, got {normalisation!r}")
        check_rates(dropout=dropout)
        segments(layers, checkpointing)
        self.width, self.levels, self.tied, self.memory_length = width, layers, tied, memory_length
        self.checkpointing: Checkpointing = checkpointing
        make = partial(RelativeAttention, width=width, heads=heads, local=local, position_base=position_base)
        self.layers = nn.ModuleList(
            _Layer(make(dropout=attention_dropout), feedforward, normalisation, dropout) for _ in range(1 if tied else layers)
        )
        attentions = [module for module in self.modules() if isinstance(module, RelativeAttention)]
        for attention in attentions[1:]:
            attention.content_bias, attention.position_bias = attentions[0].content_bias, attentions[0].position_bias

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to the last layer's (B, T, D)."""
        check_features(x)
        layers = [self.layers[0]] * self.levels if self.tied else list(self.layers)
        memories = [None] * self.levels if memory is None else list(memory)
        masks = [layer.masks(x) for layer in layers]  # type: ignore[operator]
        recompute = self.checkpointing != "none" and torch.is_grad_enabled()
        inputs: list[Tensor] = []
        start = 0
        for steps in segments(self.levels, self.checkpointing):
            part = slice(start, start + steps)
            run = partial(_apply, layers[part], memories[part], masks[part])
            x, *seen = run_checkpointed(run, x, use_reentrant=False) if recompute else run(x)
            inputs, start = [*inputs, *seen], start + steps
        return Output(x, self._remember(inputs, memories))

    def _remember(self, inputs: list[Tensor], memories: list[Tensor | None]) -> tuple[Tensor, ...] | None:
        if self.memory_length == 0:
            return None
        pairs = zip(inputs, memories, strict=True)
        whole = (x.detach() if old is None else torch.cat((old, x.detach()), dim=1) for x, old in pairs)
        return tuple(x[:, -self.memory_length :].clone() for x in whole)  # a copy: in-place operations on x must not change it


def _apply(layers: Any, memories: Any, masks: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return the features after all layers, and the inputs of each."""
    inputs = []
    for layer, memory, mask in zip(layers, memories, masks, strict=True):
        inputs.append(x)
        x = layer(x, memory, mask)
    return x, *inputs
