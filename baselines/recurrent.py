"""LSTM and GRU with torch's fused kernels."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deq import Core, Output
from deq.checks import check_features, check_whole
from deq.dropout import check_rates, dropped_weight, masked, variational_mask


class Recurrent(Core):
    """nn.LSTM or nn.GRU over x (B, T, D) with `width` hidden units a layer; its memory is the final hidden state, detached.

    For language, the regularisation of AWD-LSTM (Merity et al., ICLR 2018, arXiv 1708.02182): `hidden_dropout` drops channels
    between layers, the same ones at every position; `weight_dropout` drops entries of every layer's hidden-to-hidden weight, one
    draw per sequence. `outputs` (default `width`) is the last layer's size, for a tied embedding.
    Parameters: a layer of h units over D features has 4 (D h + h^2 + 2 h) in an LSTM, 3 (...) in a GRU.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        *,
        kind: Literal["lstm", "gru"],
        inputs: int,
        width: int,
        layers: int = 1,
        outputs: int | None = None,
        hidden_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in ("lstm", "gru"):
            raise ValueError(f"kind must be lstm or gru, got {kind!r}")
        check_whole(inputs=inputs, width=width, layers=layers, outputs=width if outputs is None else outputs)
        check_rates(hidden_dropout=hidden_dropout, weight_dropout=weight_dropout)
        self.width = width if outputs is None else outputs
        self.hidden_dropout, self.weight_dropout = hidden_dropout, weight_dropout
        make = nn.LSTM if kind == "lstm" else nn.GRU
        self.network: nn.Module
        if self.width == width and not hidden_dropout and not weight_dropout:
            self.network = _init_gates(make(inputs, width, num_layers=layers, batch_first=True))
        else:  # one kernel per layer, with masks between them
            sizes = [inputs, *[width] * (layers - 1), self.width]
            self.network = nn.ModuleList(_init_gates(make(below, above, batch_first=True)) for below, above in pairwise(sizes))

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, inputs) to the hidden state at every position."""
        check_features(x)
        if not isinstance(self.network, nn.ModuleList):
            y, state = self.network(x, memory)
            return Output(y, _detached(state))
        states = []
        name = "weight_hh_l0"
        for index, layer in enumerate(self.network):
            if index:
                x = masked(x, variational_mask(x, self.hidden_dropout, self.training))
            hidden = {name: dropped_weight(layer.get_parameter(name), self.weight_dropout, self.training)}
            x, state = functional_call(layer, hidden, (x, None if memory is None else memory[index]))
            states.append(_detached(state))
        return Output(x, tuple(states))


def _detached(state: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


def _init_gates(network: nn.LSTM | nn.GRU) -> nn.LSTM | nn.GRU:
    """Set an LSTM's forget gate biases to one, for long memories (Jozefowicz et al., ICML 2015); leave a GRU as it is."""
    if isinstance(network, nn.LSTM):
        width = network.hidden_size
        with torch.no_grad():
            for name, bias in network.named_parameters():
                if name.startswith("bias_ih"):
                    bias[width : 2 * width].fill_(1.0)
    return network
