"""TrellisNet: the DEQ's own cell applied many times, with deep supervision."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from baselines.unrolled import Checkpointing, Unrolled
from deq import Map
from deq.cells.trellis import TrellisCell

Injection = Literal["tied", "untied"]


class TrellisNet(Unrolled):
    """A TrellisNet: the level applied `depth` times from zero; y_t depends on the last depth + 1 positions (and on the memory).

    In training, the output's auxiliary features are those of every `auxiliary_every`-th level before the last (0: none); the
    authors' code also supervises the last level twice where its number is a multiple. With "tied" injection all levels add the same
    convolution of the input, as in the original; with "untied" each level has its own, and only the convolution of the hidden state
    is tied. Dropout masks are the same at all levels, except for an untied injection's weight. `checkpointing` is as in Unrolled;
    untied injections are recomputed, not stored. Every level is padded on the left by the memory: the last level's h and c at the
    last position, as in the authors' code, and x there.
    Bai, Kolter, Koltun (ICLR 2019), arXiv 1810.06682. Parameters: the cell's, and (depth - 1) (8 D H + 4 H) for D inputs with
    untied injection, plus 4 H per level with weight normalisation.
    """

    numerics: ClassVar[int] = 1

    cell: TrellisCell

    def __init__(
        self,
        cell: TrellisCell,
        *,
        depth: int = 12,
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
        """Return the same cell at another depth; ValueError with untied injection, whose levels have their own weights."""
        if self.injection == "untied":
            raise ValueError("a TrellisNet with untied injection has a fixed depth")
        return TrellisNet(self.cell, depth=depth, auxiliary_every=self.auxiliary_every, checkpointing=self.checkpointing)

    def levels(self, x: Tensor, memory: Any = None) -> list[Map]:
        """Return the `depth` maps z -> z for features x (B, T, D); all the same with tied injection."""
        if self.injection == "tied":
            return super().levels(x, memory)
        windows, level = self.cell.windows(x, memory), self.cell.recurrence(x, memory)

        def level_of(inject: nn.Linear) -> Map:
            u = self.cell.injected(inject, windows)
            return lambda z: level(z, u())

        return [level_of(inject) for inject in (self.cell.inject, *self.deeper)]
