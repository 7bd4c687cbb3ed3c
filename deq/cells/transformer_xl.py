"""The DEQ-Transformer's block as in the paper: relative attention, injected queries, keys and values, and a memory."""

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalised

from deq.cells.attention import RelativeAttention
from deq.cells.cell import Cell
from deq.checks import check_whole
from deq.dropout import check_rates, masked, variational_mask
from deq.solve import Map

Normalisation = Literal["post", "pre"]


class TransformerXLMemory(NamedTuple):
    """Memory of a TransformerXLCell."""

    z: Tensor  # (B, M, D) solution of the last M positions
    injection: Tensor  # (B, M, 3 D) what was added to their queries, keys and values


class TransformerXLCell(Cell):
    """f(z) = LN(y + FFN(y)), y = LN(z + attention(W z + U x)) with relative positions: the released block of the DEQ-Transformer.

    With "pre" normalisation f(z) = LN(y) + FFN(LN(y)), y = z + attention(W LN(z) + U x), as released; the paper trains "post". At
    the start and width 32, Picard, Anderson and Broyden reach rtol 1e-3 in 12, 8 and 9 steps. LayerNorms have no parameters, as in
    the code. `memory_length` M keeps the solution and injection of the last M positions, detached; `local` limits how far a query
    sees. `dropout` drops channels after attention and inside and after the FFN, `attention_dropout` attention weights; masks are
    constant through a solve, and channel masks are the same at every position. `weight_norm` normalises all weights but U, as in
    the code. A `position_base` near the sequence length helps narrow models, which have few frequencies. Weights start at torch's
    defaults times gains that weigh the input more than the state, so that the first solves converge, and the biases r_w and r_r
    wide, which finds long copies sooner; `initial_std` sets N(0, initial_std) everywhere instead (0.05 in the paper, 0.01 in its
    code). Bai, Kolter, Koltun (NeurIPS 2019), arXiv 1909.01377. Parameters: 8 D^2 + 7 D + F (2 D + 1) for F = `feedforward`
    (default 4 D), and 6 D + F with weight normalisation.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        width: int,
        heads: int = 4,
        feedforward: int | None = None,
        memory_length: int = 0,
        local: int | None = None,
        normalisation: Normalisation = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        weight_norm: bool = False,
        position_base: float = 10_000.0,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        feedforward = 4 * width if feedforward is None else feedforward
        check_whole(feedforward=feedforward)
        check_whole(least=0, memory_length=memory_length)
        if normalisation not in ("post", "pre"):
            raise ValueError(f"normalisation must be post or pre, got {normalisation!r}")
        check_rates(dropout=dropout)
        self.attention = RelativeAttention(
            width=width, heads=heads, local=local, dropout=attention_dropout, position_base=position_base, output_bias=True
        )
        self.width, self.memory_length, self.normalisation, self.dropout = width, memory_length, normalisation, dropout
        self.inject = nn.Linear(width, 3 * width)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        attention = self.attention
        gains = {self.inject: 2.0, attention.qkv: 0.3, attention.position: 2.0, attention.project: 4.0, self.contract: 0.5}
        with torch.no_grad():
            for layer, gain in gains.items():
                layer.weight.mul_(gain)
            for layer in (self.inject, self.expand, self.contract):
                layer.bias.zero_()
            if initial_std is not None:
                for parameter in self.parameters():
                    parameter.normal_(0.0, initial_std)
        if weight_norm:
            for layer in (attention.qkv, attention.position, attention.project, self.expand, self.contract):
                normalised(layer)

    def bind(self, x: Tensor, memory: TransformerXLMemory | None = None) -> Map:
        """Compute the injection, masks, normalised weights, positions and the memory's keys and values once."""
        pre, injection = self.normalisation == "pre", self.inject(x)
        old, remembered = (None, None) if memory is None else memory
        if old is not None and pre:
            old = self._normed(old)
        attend = self.attention.bind(x, injection=injection, memory=old, remembered=remembered)
        weights = self.expand.weight, self.expand.bias, self.contract.weight, self.contract.bias
        after, last = (variational_mask(x, self.dropout, self.training) for _ in range(2))
        inner = variational_mask(x.new_empty(len(x), 1, self.expand.out_features), self.dropout, self.training)

        def feedforward(y: Tensor) -> Tensor:
            hidden = masked(F.relu(F.linear(y, weights[0], weights[1])), inner)
            return masked(F.linear(hidden, weights[2], weights[3]), last)

        def post_norm(z: Tensor) -> Tensor:
            y = self._normed(z + masked(attend(z), after))
            return self._normed(y + feedforward(y))

        def pre_norm(z: Tensor) -> Tensor:
            y = self._normed(z + masked(attend(self._normed(z)), after))
            return y + feedforward(y)

        return pre_norm if pre else post_norm

    def _normed(self, z: Tensor) -> Tensor:
        return F.layer_norm(z, (self.width,))

    @torch.no_grad()
    def remember(self, z: Tensor, x: Tensor, memory: TransformerXLMemory | None = None) -> TransformerXLMemory | None:
        """Return a detached copy of the solution and injection at the last `memory_length` positions."""
        if self.memory_length == 0:
            return None
        injection = self.inject(x[:, -self.memory_length :])
        if memory is not None:
            z, injection = torch.cat((memory.z, z), dim=1), torch.cat((memory.injection, injection), dim=1)
        return TransformerXLMemory(z[:, -self.memory_length :].detach().clone(), injection[:, -self.memory_length :].clone())
