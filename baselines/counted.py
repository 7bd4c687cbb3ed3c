"""Explicit cores that evaluate a cell's map a number of times that depends on the input, and report it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from deq import Core


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of f in a pass; a tensor is a mean over positions, which may still be computed on its device."""

    nfe: int | Tensor


class CountedCore(Core):
    """A core that reports its evaluations of f; `no_residual` says why it has no residual."""

    no_residual: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._watchers: list[Callable[[str, Evaluations], None]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the watchers: they belong to the original."""
        return {**self.__dict__, "_watchers": []}

    def watch(self, watcher: Callable[[str, Evaluations], None]) -> Callable[[], None]:
        """Call `watcher(phase, evaluations)` after every pass, "forward" or "backward"; returns a function that removes it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _notify(self, phase: str, nfe: int | Tensor) -> None:
        for watcher in tuple(self._watchers):
            watcher(phase, Evaluations(nfe))
