"""TCN: a temporal convolutional network whose receptive field doubles with every level."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalised

from deq import Core, Output
from deq.checks import check_features, check_whole
from deq.dropout import check_rates


class _Block(nn.Module):
    """Two causal convolutions of one dilation, each with ReLU and dropout, and a skip connection."""

    def __init__(self, inputs: int, width: int, kernel: int, dilation: int, dropout: float, weight_norm: bool) -> None:
        super().__init__()
        self.channels, self.reach, self.dropout = (inputs, width), (kernel - 1) * dilation, dropout
        made = [nn.Conv1d(channels, width, kernel, dilation=dilation) for channels in self.channels]
        self.convolutions = nn.ModuleList(normalised(layer) if weight_norm else layer for layer in made)
        self.skip = nn.Identity() if inputs == width else nn.Conv1d(inputs, width, 1)

    def padding(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return zeros before the first position, for each convolution."""
        return tuple(x.new_zeros(len(x), width, self.reach) for width in self.channels)

    def forward(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map features (B, D, T) and the past inputs of each convolution to features and the inputs to keep."""
        y, kept = x, []
        for convolution, before in zip(self.convolutions, past, strict=True):
            y = torch.cat((before, y), dim=2)
            kept.append(y[:, :, y.shape[2] - self.reach :].detach().clone())
            y = F.dropout(F.relu(convolution(y)), self.dropout, self.training)
        return F.relu(y + self.skip(x)), tuple(kept)


class TCN(Core):
    """`levels` residual blocks of dilations 1, 2, 4, ...: y_t depends on exactly the last `receptive_field` inputs.

    The memory is the last inputs of each convolution, so that segments give the output of the whole sequence. Weights start at
    torch's defaults (N(0, 0.01) in the authors' code), dropout is independent at every position, as there.
    Bai, Kolter, Koltun (2018), arXiv 1803.01271. Parameters: a block has K C W + K W^2 + 2 W for C input channels, with weight
    normalisation 2 W more, and C W + W where C is not W.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self, *, inputs: int, width: int, levels: int = 4, kernel: int = 3, dropout: float = 0.0, weight_norm: bool = True
    ) -> None:
        super().__init__()
        check_whole(inputs=inputs, width=width, levels=levels)
        check_whole(least=2, kernel=kernel)
        check_rates(dropout=dropout)
        self.width, self.kernel = width, kernel
        self.blocks = nn.ModuleList(
            _Block(width if level else inputs, width, kernel, 2**level, dropout, weight_norm) for level in range(levels)
        )

    @property
    def receptive_field(self) -> int:
        """Number of inputs that an output depends on: 1 + 2 (kernel - 1) (2^levels - 1)."""
        return 1 + 2 * (self.kernel - 1) * (2 ** len(self.blocks) - 1)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, inputs) to (B, T, width)."""
        check_features(x)
        y, kept = x.transpose(1, 2), []
        for level, block in enumerate(self.blocks):
            past = memory[level] if memory is not None else block.padding(y)  # type: ignore[operator]
            y, last = block(y, past)
            kept.append(last)
        return Output(y.transpose(1, 2), tuple(kept))
