"""TrellisNet's level as a fixed-point map: a causal convolution with LSTM gates over hidden and cell state."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalised

from deq.cells.cell import Cell
from deq.checks import check_whole
from deq.dropout import check_rates, masked, variational_mask
from deq.pack import pack, unpack
from deq.solve import Map


class TrellisMemory(NamedTuple):
    """Memory of a TrellisCell."""

    z: Tensor  # (B, 1, 2 H) solution (h, c) at the last position
    x: Tensor  # (B, 1, D) its input features


def delayed(x: Tensor, past: Tensor | None) -> Tensor:
    """Shift x (B, T, D) by one position: the past (B, 1, D), or zeros, then x without its last position."""
    return F.pad(x[:, :-1], (0, 0, 1, 0)) if past is None else torch.cat((past, x[:, :-1]), dim=1)


class TrellisCell(Cell):
    """f(h, c)_t = (sigma(o) tanh(c'), c'), c' = sigma(f) c_{t-1} + sigma(i) tanh(g), with the gates (i, o, f, g) of position t

        u_t + V (h_{t-1}, h_t),   u_t = U (x_{t-1}, x_t) + b:

    both convolutions have kernel 2 and dilation 1, and the state is z = (h, c), (B, T, 2 H). The features are the last `width`
    channels of h; x has `inputs` (default `width`) channels, h and c have H = `hidden` (default `width`) each. `dropout` drops
    channels of h at the input of V; `weight_dropout` drops entries of U and V for position t-1 (of their direction, with
    `weight_norm`), one draw per bind, as in the authors' code. Weights start at torch's defaults, where the first solves converge
    (Anderson: 13 steps to 1e-3); `initial_std` sets N(0, initial_std) instead (0.01 in the authors' code). The memory is h, c and x
    at the last position, so that segments have the map of the whole sequence; the authors' code carries h and c and pads x with
    zeros. Bai, Kolter, Koltun (ICLR 2019), arXiv 1810.06682. Parameters: 8 D H + 4 H + 8 H^2 for D inputs, and 8 H with
    `weight_norm`.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        width: int,
        inputs: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        weight_dropout: float = 0.0,
        weight_norm: bool = False,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        inputs, hidden = width if inputs is None else inputs, width if hidden is None else hidden
        check_whole(width=width, inputs=inputs)
        check_whole(least=width, hidden=hidden)
        check_rates(dropout=dropout, weight_dropout=weight_dropout)
        if initial_std is not None and not initial_std >= 0:
            raise ValueError(f"initial_std must not be negative, got {initial_std}")
        self.width, self.inputs, self.hidden = width, inputs, hidden
        self.dropout, self.weight_dropout = dropout, weight_dropout
        self.weight_norm, self.initial_std = weight_norm, initial_std
        self.inject = self.injection()
        self.mix = self._convolution(hidden, bias=False)

    def _convolution(self, channels: int, bias: bool) -> nn.Linear:
        """Make the convolution from two neighbouring positions to four gates."""
        layer = nn.Linear(2 * channels, 4 * self.hidden, bias)
        if self.initial_std is not None:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, 0.0, self.initial_std)
        return normalised(layer) if self.weight_norm else layer

    def injection(self) -> nn.Linear:
        """Make a new input convolution U, b."""
        return self._convolution(self.inputs, bias=True)

    def windows(self, x: Tensor, memory: TrellisMemory | None = None) -> Tensor:
        """Return (x_{t-1}, x_t) at every position, (B, T, 2 D): the argument of an injection."""
        return pack(delayed(x, None if memory is None else memory.x), x)

    def _mask(self, layer: nn.Linear) -> Tensor | None:
        """Draw a mask that drops weights of position t-1; None where nothing drops."""
        if not self.training or self.weight_dropout == 0:
            return None
        older = next(layer.parameters()).new_ones(layer.out_features, layer.in_features // 2)
        return pack(F.dropout(older, self.weight_dropout), older)

    def _weight(self, layer: nn.Linear, mask: Tensor | None) -> Tensor:
        """Return the masked weight; of a normalised one the direction is masked, so that its length stays the gain."""
        if mask is None or not self.weight_norm:
            return masked(layer.weight, mask)
        parametrizations: Any = layer.parametrizations
        parts = parametrizations.weight
        weight: Tensor = parts[0](parts.original0, parts.original1 * mask)
        return weight

    def injected(self, layer: nn.Linear, windows: Tensor) -> Callable[[], Tensor]:
        """Draw the mask of a convolution U, b, and return the function that computes the injection u of the windows."""
        mask = self._mask(layer)
        return lambda: F.linear(windows, self._weight(layer, mask), layer.bias)

    def recurrence(self, x: Tensor, memory: TrellisMemory | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """Draw the masks, normalise the weight and return the level (z, u) -> f(z) for any injection u (B, T, 4 H)."""
        hidden, past = self.hidden, None if memory is None else memory.z
        weight = self._weight(self.mix, self._mask(self.mix)).T
        mask = variational_mask(x.new_empty(x.shape[0], 1, hidden), self.dropout, self.training)
        mask = None if mask is None else pack(mask, mask)

        def level(z: Tensor, u: Tensor) -> Tensor:
            h, _ = unpack(z, (hidden, hidden))
            before, c = unpack(delayed(z, past), (hidden, hidden))
            pairs = masked(pack(before, h), mask)
            out = torch.addmm(u.flatten(0, 1), pairs.flatten(0, 1), weight).view_as(u)
            gates, g = unpack(out, (3 * hidden, hidden))
            i, o, f = gates.sigmoid().chunk(3, dim=-1)
            c = torch.addcmul(i * g.tanh(), f, c)
            return pack(o * c.tanh(), c)

        return level

    def bind(self, x: Tensor, memory: TrellisMemory | None = None) -> Map:
        """Compute u, the masks and the normalised weight once."""
        u, level = self.injected(self.inject, self.windows(x, memory))(), self.recurrence(x, memory)
        return lambda z: level(z, u)

    def initial_state(self, x: Tensor) -> Tensor:
        """Return zeros (B, T, 2 H)."""
        return torch.zeros(*x.shape[:-1], 2 * self.hidden, dtype=x.dtype, device=x.device)

    def features(self, z: Tensor) -> Tensor:
        """Return the last `width` channels of h."""
        return z[..., self.hidden - self.width : self.hidden]

    def remember(self, z: Tensor, x: Tensor, memory: TrellisMemory | None = None) -> TrellisMemory:
        """Return a detached copy of the solution and input at the last position."""
        return TrellisMemory(z[:, -1:].detach().clone(), x[:, -1:].detach().clone())
