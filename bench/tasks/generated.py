"""Base classes of tasks that draw their sequences at random, of one difficulty or of several."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from bench.records.errors import UserError, unknown
from bench.tasks.task import Split, Task, check_positive, derive_seed

Ids = npt.NDArray[np.int64]


class Generated(Task):
    """A task with fresh training samples for every (seed, batch size, number), and held-out ones that are drawn once."""

    name: ClassVar[str]
    _data_seed: int
    _held_out: Mapping[Split, Sequence[Ids]]  # the samples of each part of `valid` and `test`, as `_draw` gives them

    @abstractmethod
    def _draw(self, samples: int, seed: int) -> Ids:
        """Draw training samples (samples, ...)."""

    @abstractmethod
    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets (samples, T) of samples."""

    def _hold_out(self, test_samples: int, data_seed: int) -> None:
        """Draw the held-out splits, of one part each."""
        self._data_seed = data_seed
        splits: tuple[Split, Split] = ("valid", "test")
        self._held_out = {split: [self._draw(test_samples, derive_seed(self.name, split, data_seed))] for split in splits}

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


class Graded(Generated):
    """A task whose test split has a part for each of several difficulties, numbers of which the first is the trained one.

    `letter` stands before the number in the names of metrics, `loss_T64`; the loss of the trained one is `loss`.
    """

    letter: ClassVar[str]
    difficulties: list[int]

    @abstractmethod
    def _draw_at(self, difficulty: int, split: Split, samples: int, seed: int) -> Ids:
        """Draw samples (samples, ...) of a split at a difficulty."""

    def _draw(self, samples: int, seed: int) -> Ids:
        return self._draw_at(self.difficulties[0], "train", samples, seed)

    def _hold_out_graded(self, difficulties: list[int], test_samples: int, data_seed: int) -> None:
        """Draw the held-out splits: validation at the trained difficulty, the test at each."""
        self.difficulties, self.parts, self._data_seed = difficulties, len(difficulties), data_seed
        wanted: dict[Split, list[int]] = {"valid": difficulties[:1], "test": difficulties}
        self._held_out = {
            split: [self._draw_at(n, split, test_samples, derive_seed(self.name, split, data_seed, n)) for n in own]
            for split, own in wanted.items()
        }

    def _loss(self, difficulty: int) -> str:
        return "loss" if difficulty == self.difficulties[0] else f"loss_{self.letter}{difficulty}"


def total_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """The sum in nats of the cross-entropies of logits (B, T, V) at targets (B, T), in float64, and their number."""
    return functional.cross_entropy(logits.double().transpose(1, 2), targets, reduction="sum"), targets.numel()


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
