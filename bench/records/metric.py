"""What a score means: its unit, its direction and, where known, where it starts and ends."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score's unit, its direction and, where known, what a memoryless guess (chance) and the optimum (floor) reach."""

    unit: str
    better: Literal["lower", "higher"]
    chance: float | None = None
    optimum: float | None = None
