"""State-space model: layers of a selective diagonal linear recurrence, computed for all positions at once."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq import Core, Output
from deq.checks import check_features, check_whole
from deq.dropout import check_rates, masked, variational_mask
from deq.precision import at_least_float32
from deq.recurrence import linear_recurrence


class StateSpace(Core):
    """Residual blocks of a selective diagonal linear recurrence and a feed-forward network, by a parallel scan.

    Each of the `layers` blocks maps x to y = x + W (h * silu(G u)), u = LN(x), and y + FFN(LN(y)). The state of `states` channels
    (default D) is

        h_t = a_t h_{t-1} + (1 - |a_t|) b_t,      a_t = sigmoid(A u_t) or, with `negative`, tanh(A u_t),      b_t = B u_t

    the recurrence of minGRU (Feng et al. 2024, arXiv 2410.01201); selection by the token is Mamba's (Gu and Dao 2023, arXiv
    2312.00752), without its convolution and its expansion of the state. With decays in (0, 1) alone no such network tracks parity
    at every length; negative ones can (Grazzi et al. 2025, arXiv 2411.12537). Initial decays are spread over [0.5, 0.999]. Memory
    is each block's last state.

    The recurrence is a scan of log2 T elementwise operators forward and as many backward, in memory linear in T. A fused kernel
    would read and write each state once; this one does log2 T times.
    Parameters of a block: 4 S D + 3 S + F (2 D + 1) + 6 D for S = `states` and F = `feedforward` (default 4 D).
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        inputs: int,
        width: int,
        layers: int = 2,
        states: int | None = None,
        feedforward: int | None = None,
        negative: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        states, feedforward = width if states is None else states, 4 * width if feedforward is None else feedforward
        check_whole(inputs=inputs, width=width, layers=layers, states=states, feedforward=feedforward)
        check_rates(dropout=dropout)
        self.width = width
        self.enter = nn.Identity() if inputs == width else nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(_Block(width, states, feedforward, negative, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, inputs) to features (B, T, width)."""
        check_features(x)
        y, states = self.enter(x), []
        for number, block in enumerate(self.blocks):
            y, state = block(y, None if memory is None else memory[number])
            states.append(state.detach())
        return Output(self.norm(y), tuple(states))


class _Block(nn.Module):
    """A recurrence and a feed-forward network, each normalised before and added after."""

    def __init__(self, width: int, states: int, feedforward: int, negative: bool, dropout: float) -> None:
        super().__init__()
        self.states, self.negative, self.dropout = states, negative, dropout
        self.project = nn.Linear(width, 3 * states)  # decay, input and gate
        self.mix = nn.Linear(states, width)
        self.expand, self.contract = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        decay = torch.linspace(0.5, 0.999, states)
        with torch.no_grad():
            self.project.bias[:states] = torch.atanh(decay) if negative else torch.logit(decay)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map features (B, T, D) and the state (B, S) before them to features and the last state."""
        first, second = self.norms
        # Under autocast too: in bfloat16 no decay lies between 0.996 and 1, and a sum of many steps has three digits.
        decay, entering, gate = at_least_float32(self.project(first(x))).split(self.states, dim=-1)
        decay = decay.tanh() if self.negative else decay.sigmoid()
        h = linear_recurrence(decay, (1 - decay.abs()) * entering, state)
        y = x + masked(self.mix((h * F.silu(gate)).to(x.dtype)), variational_mask(x, self.dropout, self.training))
        z = self.contract(F.relu(self.expand(second(y))))
        return y + masked(z, variational_mask(z, self.dropout, self.training)), h[:, -1]
