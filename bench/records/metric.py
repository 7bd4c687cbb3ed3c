"""Describe a task's score."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score's unit, its direction and, where known, the scores of a guess without memory (chance) and of the best predictor."""

    unit: str
    better: Literal["lower", "higher"]
    chance: float | None = None
    optimum: float | None = None
