"""Picard iteration: plain or relaxed fixed-point iteration."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, lerp

from deq.solve import Map


@dataclass(frozen=True, kw_only=True)
class Picard:
    """z <- z + relaxation (f(z) - z). Converges linearly where f contracts; stores nothing."""

    numerics: ClassVar[int] = 1

    relaxation: float = 1.0
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.relaxation <= 1:
            raise ValueError(f"relaxation must be in (0, 1], got {self.relaxation}")

    def init(self, z: Tensor, steps: int) -> None:
        """Return None: there is no memory."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: None) -> tuple[Tensor, None]:
        """Return f(z), or the relaxed mean of z and f(z)."""
        return (fz if self.relaxation == 1 else lerp(z, fz, self.relaxation)), None
