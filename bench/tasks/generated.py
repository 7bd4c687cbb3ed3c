"""Base class of tasks that draw their sequences at random, and the difficulties of a test split."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bench.records.errors import UserError, unknown
from bench.tasks.task import Split, Task, check_positive, derive_seed

Ids = npt.NDArray[np.int64]


class Generated(Task):
    """A task with fresh training samples for every (seed, batch size, number), and held-out ones that are drawn once.

    A constructor sets `_data_seed`, and `_held_out` to the samples of each part of `valid` and `test`, as `_draw` gives them.
    """

    name: ClassVar[str]
    _data_seed: int
    _held_out: Mapping[Split, Sequence[Ids]]

    @abstractmethod
    def _draw(self, samples: int, seed: int) -> Ids:
        """Draw training samples (samples, ...)."""

    @abstractmethod
    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets (samples, T) of samples."""

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training sequences without end, or those of a held-out split once, part by part."""
        if split != "train" and split not in self._held_out:
            raise unknown("split", split, ("train", *self._held_out))
        check_positive(self.name, batch_size=size)
        if split == "train":
            seeds = (derive_seed(self.name, "train", self._data_seed, seed, size, number) for number in count(first))
            return (self._sequences(self._draw(size, one)) for one in seeds)
        parts = [part[start : start + size] for part in self._held_out[split] for start in range(0, len(part), size)]
        return map(self._sequences, parts[first:])


def parse_difficulties(task: str, setting: str, text: str, trained: int, *, least: int = 1, most: int | None = None) -> list[int]:
    """Parse the numbers of a setting such as "6,8,10"; return the trained one first, then the others in order."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if trained not in found or found[0] < least or (most is not None and found[-1] > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{task}: {setting} must be numbers {span} with commas, among them {trained}; got {text!r}")
    return sorted(found, key=lambda number: number != trained)
