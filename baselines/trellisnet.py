"""TrellisNet: one level, the DEQ's own cell, applied many times, with what it takes to train it so deep."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from baselines.unrolled import Checkpointing, Unrolled
from deq import Map
from deq.cells.trellis import TrellisCell

Injection = Literal["tied", "untied"]


class TrellisNet(Unrolled):
    """The cell's level applied `depth` times from zero; y_t depends on the last depth + 1 positions (and on the memory).

    In training, the output's auxiliary features are those of every `auxiliary_every`-th level before the last (0: none); the
    authors' code supervises the last level a second time where its number is a multiple too. With "tied" injection all levels add
    one convolution of the input, computed once, as in the original; "untied" gives every level its own and ties the convolution of
    the hidden state alone. Dropout masks are the same at all levels, but for an untied injection's weight. `checkpointing` as in
    Unrolled; what is untied is computed again, not stored. Every level is padded on the left by the memory, which is the last
    level's h and c at the last position, as in the authors' code, and x there.
    Bai, Kolter, Koltun (ICLR 2019), arXiv 1810.06682. Parameters: the cell's, and (depth - 1) (8 D H + 4 H) for D inputs where
    injection is untied, plus 4 H a level with weight normalisation.
    """

    numerics: ClassVar[int] = 1

    cell: TrellisCell

    def __init__(
        self,
        cell: TrellisCell,
        *,
        depth: int,
        auxiliary_every: int = 0,
        injection: Injection = "tied",
        checkpointing: Checkpointing = "none",
    ) -> None:
        super().__init__(cell, depth=depth, checkpointing=checkpointing, auxiliary_every=auxiliary_every)
        if injection not in ("tied", "untied"):
            raise ValueError(f"injection must be tied or untied, got {injection!r}")
        self.injection = injection
        self.deeper = nn.ModuleList(cell.injection() for _ in range(depth - 1 if injection == "untied" else 0))

    def at_depth(self, depth: int) -> "TrellisNet":
        """The same cell at another depth; ValueError where injection is untied, as other levels would need other weights."""
        if self.injection == "untied":
            raise ValueError("a TrellisNet of untied injection has no other depth")
        return TrellisNet(self.cell, depth=depth, auxiliary_every=self.auxiliary_every, checkpointing=self.checkpointing)

    def levels(self, x: Tensor, memory: Any = None) -> list[Map]:
        """The `depth` maps z -> z for features x (B, T, D): one and the same where injection is tied."""
        if self.injection == "tied":
            return super().levels(x, memory)
        windows, level = self.cell.windows(x, memory), self.cell.recurrence(x, memory)

        def through(inject: nn.Linear) -> Map:
            u = self.cell.injected(inject, windows)
            return lambda z: level(z, u())

        return [through(inject) for inject in (self.cell.inject, *self.deeper)]
