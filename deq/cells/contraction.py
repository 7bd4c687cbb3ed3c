"""A causal cell with exactly one fixed point, whatever its weights: plain iteration finds it at a known rate."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq.cells.cell import Cell
from deq.checks import check_whole
from deq.precision import at_least_float32
from deq.recurrence import linear_recurrence
from deq.solve import Map


class ContractionCell(Cell):
    """A gated recurrence that contracts, so that it has exactly one fixed point (row sums as in arXiv 1908.06315).

        f(z)_t = a_t f(z)_{t-1} + (1 - a_t) tanh(W z_t + U x_t + b),   a_t = sigmoid(A x_t + c)

    Where the absolute values of a row of W sum to more than `rate` < 1, the row is scaled down to that sum. Then f is a contraction
    in the largest absolute value over positions and channels, |z| = max_{t,i} |z_{t,i}|: tanh has no slope above one, so that the
    second term changes by at most (1 - a_t) rate |z - z'|; by induction over t, from the same memory at t = -1,

        |f(z)_t - f(z')_t| <= a_t rate |z - z'| + (1 - a_t) rate |z - z'| = rate |z - z'|.

    By Banach's theorem there is one fixed point z*, whatever the weights, the input and its length, and k evaluations of plain
    iteration from z_0 end within rate^k / (1 - rate) |f(z_0) - z_0| of it. Row sums are exact: nothing is estimated. The price: a
    change of z*_{t-1} reaches z*_t by a factor of at most max_i a_{t,i} / (1 - (1 - a_{t,i}) rate) < 1, so that no state is kept
    for ever.

    Initial a_t are spread over [0.1, 0.99] by channel; x has `inputs` (default `width`) channels; the memory is z* at the last
    position. The bound is that of implicit deep learning (El Ghaoui et al. 2019), over a selective diagonal recurrence as in
    fixed-point RNNs (Movahedi et al. 2025, arXiv 2503.10799). Parameters: D^2 + 2 D I + 2 D for I inputs.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, *, width: int, inputs: int | None = None, rate: float = 0.8) -> None:
        super().__init__()
        inputs = width if inputs is None else inputs
        check_whole(width=width, inputs=inputs)
        if not 0 < rate < 1:
            raise ValueError(f"rate must be between 0 and 1, got {rate}")
        self.width, self.rate = width, rate
        self.inject = nn.Linear(inputs, 2 * width)  # c and A, b and U
        self.mix = nn.Linear(width, width, bias=False)  # W before its rows are scaled
        with torch.no_grad():
            self.inject.bias[:width] = torch.logit(torch.linspace(0.1, 0.99, width))

    def weight(self) -> Tensor:
        """Return W (D, D), whose rows have absolute sums of at most `rate`."""
        free = self.mix.weight
        return free * (self.rate / free.abs().sum(1, keepdim=True).clamp(min=self.rate))

    def bind(self, x: Tensor, memory: Tensor | None = None) -> Map:
        """Compute a_t, U x_t + b and the scaled weight once."""
        weight = self.weight()
        gate, injection = self.inject(x).chunk(2, dim=-1)
        decay = at_least_float32(gate).sigmoid()  # in bfloat16 none lies between 0.996 and 1

        def f(z: Tensor) -> Tensor:
            a = decay.to(z.dtype)  # under autocast z is as wide
            return linear_recurrence(a, (1 - a) * torch.tanh(F.linear(z, weight) + injection), memory)

        return f

    def remember(self, z: Tensor, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return a detached copy of the solution (B, D) at the last position."""
        return z[:, -1].detach().clone()
