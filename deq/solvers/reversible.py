"""The reversible iteration: each iterate follows from the next two, so that none has to be stored for a gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, lerp

from deq.solve import Map


@dataclass(frozen=True, kw_only=True)
class Reversible:
    """z_{n+1} = (1 - relaxation) z_{n-1} + relaxation f(z_n), from z_{-1} = z_0; stores one state.

    These are the two coupled states of a reversible DEQ, y_1, z_1, y_2, z_2, ..., as one sequence. It inverts to
    z_{n-1} = (z_{n+1} - relaxation f(z_n)) / (1 - relaxation), which adjoint Reverse uses. Near 1 it converges as fast as plain
    iteration; on a constant map, a step multiplies the error by (1 - relaxation)^(1/2). The inverse divides by it, which multiplies
    rounding: at 0.8 by 2.2 a step, of a map that does not contract by 5, so that 45 and 23 steps take float64's 16 digits.
    McCallum, Arora, Foster (2025), arXiv 2509.12917, where the relaxation is in (0, 2).
    """

    numerics: ClassVar[int] = 1

    relaxation: float = 0.8
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.relaxation < 2 or self.relaxation == 1:
            raise ValueError(f"relaxation must be in (0, 2) and not 1, which has no inverse, got {self.relaxation}")

    def init(self, z: Tensor, steps: int) -> Tensor:
        """Return the iterate before z: z itself."""
        return z

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next iterate, and z as the one before it."""
        return lerp(memory, fz, self.relaxation), z

    def reverse(self, after: Tensor, fz: Tensor) -> Tensor:
        """Return z_{n-1} from z_{n+1} and f(z_n)."""
        return (after - self.relaxation * fz) / (1 - self.relaxation)
