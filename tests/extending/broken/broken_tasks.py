"""Tasks that break one rule each; only the check of that rule fails."""

import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from bench.tasks.task import Metric, Split, Task, derive_seed


class _Sound(Task):
    """Predict the current symbol: breaks none."""

    vocabulary, length = 8, 10
    chance, optimum, least = math.log(8), 0.0, 0

    def __init__(self) -> None:
        self.metrics = {"loss": Metric(unit="nats", better="lower", chance=self.chance, optimum=self.optimum)}

    def generator(self, split: Split, size: int, seed: int, number: int) -> torch.Generator:
        """What a batch is drawn with."""
        return torch.Generator().manual_seed(derive_seed(split, size, seed if split == "train" else 0, number))

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number in count(first) if split == "train" else range(first, -(-512 // size)):
            shape, generator = (size, self.length), self.generator(split, size, seed, number)
            tokens = torch.randint(self.least, self.vocabulary + self.least, shape, generator=generator)
            yield tokens, tokens

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        loss = functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="sum")
        return {"loss": (loss, targets.numel())}

    def fingerprint(self) -> str:
        return "symbols"


class Contrary(_Sound):
    """Its optimum is worse than chance."""

    optimum = 3.0


class Changing(_Sound):
    """Its fingerprint is another each time."""

    def fingerprint(self) -> str:
        return str(id(self))


class Short(_Sound):
    """Leaves out the first target."""

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in super().batches(split, size, seed, first):
            yield inputs, targets[:, 1:]


class Endless(_Sound):
    """Its test split does not end."""

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from super().batches(split, size, seed, first)


class FromOne(_Sound):
    """Counts its symbols from one."""

    least = 1


class Straying(_Sound):
    """Goes on with one generator from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def generator(self, split: Split, size: int, seed: int, number: int) -> torch.Generator:
        return self.random


class Numberless(_Sound):
    """Starts with batch 0 whatever `first` is."""

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return super().batches(split, size, seed, 0)


class Unresponsive(_Sound):
    """Ignores the seed."""

    def generator(self, split: Split, size: int, seed: int, number: int) -> torch.Generator:
        return super().generator(split, size, 0, number)


class Moving(_Sound):
    """Tests each seed on data of its own."""

    def generator(self, split: Split, size: int, seed: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(split, size, seed, number))


class Leaking(_Sound):
    """Tests what it trains."""

    def generator(self, split: Split, size: int, seed: int, number: int) -> torch.Generator:
        return super().generator("train", size, 0, number) if split == "test" else super().generator(split, size, seed, number)


class Means(_Sound):
    """Gives the mean where the sum is asked for."""

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        (total, number) = super().score(logits, targets)["loss"]
        return {"loss": (total / number, number)}


class Optimist(_Sound):
    """Declares a chance that frequencies do not reach."""

    chance = 0.5 * math.log(8)


class Modest(_Sound):
    """Declares an optimum that a simple predictor beats."""

    optimum = 1.0


class Unreachable(_Sound):
    """Declares an optimum that nothing reaches."""

    optimum = -1.0
