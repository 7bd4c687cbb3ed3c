"""LSTM and GRU, by torch's own fused kernels: a slow baseline would be a lie."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from deq import Core, Output


class Recurrent(Core):
    """nn.LSTM or nn.GRU over x (B, T, D) with `width` hidden units a layer; its memory is the final hidden state, detached."""

    def __init__(self, *, kind: Literal["lstm", "gru"], inputs: int, width: int, layers: int = 1) -> None:
        super().__init__()
        if kind not in ("lstm", "gru"):
            raise ValueError(f"kind must be lstm or gru, got {kind!r}")
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        make = nn.LSTM if kind == "lstm" else nn.GRU
        self.width = width
        self.network = make(inputs, width, num_layers=layers, batch_first=True)
        if isinstance(self.network, nn.LSTM):
            # Forget gates start open (Jozefowicz et al., ICML 2015), the customary start for long memories.
            with torch.no_grad():
                for name, bias in self.network.named_parameters():
                    if name.startswith("bias_ih"):
                        bias[width : 2 * width].fill_(1.0)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """The hidden state at every position."""
        y, state = self.network(x, memory)
        return Output(y, tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach())
