"""State tracking: the word problem of a finite group, at the trained length and at greater ones."""

import itertools
import math
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bench.records.errors import unknown
from bench.tasks.generated import Graded, Ids, parse_difficulties, total_loss
from bench.tasks.task import Metric, Split, check_positive, digest

Group = Literal["parity", "S3", "A5", "S5"]


class StateTracking(Graded):
    """The word problem of a group: at each position the product of the uniform elements so far, the last one on the left.

    With `generators` each element is one of two that generate the group: a transposition (in A5 a cycle of three) or the cycle of
    all. A model then has fewer transitions of the automaton to learn, but few states are within reach of few tokens.

    `parity` is the group of two elements: the prefix sums modulo 2 of Schwarzschild et al. (2021), arXiv 2106.04537. S3 has 6
    elements, A5 60, S5 120 (permutations in lexicographic order). The product is the state of an automaton with as many states: a
    recurrent network needs one step a token, while the word problem of A5 and S5 is beyond constant depth unless TC0 = NC1
    (Barrington 1989; Merrill, Petty, Sabharwal 2024, arXiv 2404.08819).

    Training and validation sequences have `length` tokens: a causal model sees every shorter one as a prefix. The test split has
    `test_samples` sequences of every length of `test_lengths` (numbers with commas), each solved on its own. `accuracy_T64` is the
    mean over the positions of 64 tokens, `accuracy_last_T64` that of the last one; `loss` is of the trained length, as `loss_T64`.
    Chance is a uniform guess.
    """

    numerics: ClassVar[int] = 1
    name, letter = "state tracking", "T"

    def __init__(
        self,
        *,
        group: Group = "parity",
        length: int = 16,
        test_lengths: str = "16,32,64,128",
        test_samples: int = 512,
        generators: bool = False,
        data_seed: int = 0,
    ) -> None:
        check_positive(self.name, length=length, test_samples=test_samples)
        if group not in get_args(Group):
            raise unknown("group", group, get_args(Group))
        self.products = multiplication_table(group)
        self.vocabulary = len(self.products)
        self.letters = _generators(group) if generators else np.arange(self.vocabulary)
        self.length, self._group = length, group
        lengths = parse_difficulties(self.name, "test_lengths", test_lengths, length)
        self._hold_out_graded(lengths, test_samples, data_seed)
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        size, found = self.vocabulary, dict[str, Metric]()
        for T in self.difficulties:
            found[self._loss(T)] = Metric(unit="nats", better="lower", chance=math.log(size), optimum=0.0)
            for name in (f"accuracy_T{T}", f"accuracy_last_T{T}"):
                found[name] = Metric(unit="fraction", better="higher", chance=1 / size, optimum=1.0)
        return found

    def _draw_at(self, length: int, split: Split, samples: int, seed: int) -> Ids:
        return self.letters[np.random.default_rng(seed).integers(len(self.letters), size=(samples, length))]

    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T): the elements and their products so far."""
        states = np.empty_like(drawn)
        states[:, 0] = drawn[:, 0]
        for t in range(1, drawn.shape[1]):
            states[:, t] = self.products[drawn[:, t], states[:, t - 1]]
        return torch.from_numpy(drawn), torch.from_numpy(states)

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return the loss, the accuracy and that of the last position, named by the length of the targets."""
        length = targets.shape[1]
        right = (logits.argmax(-1) == targets).double()
        return {
            self._loss(length): total_loss(logits, targets),
            f"accuracy_T{length}": (right.sum(), targets.numel()),
            f"accuracy_last_T{length}": (right[:, -1].sum(), len(targets)),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the group and the held-out sequences; training batches follow from the settings."""
        held_out = {f"{split} {words.shape[1]}": words.ravel() for split, parts in self._held_out.items() for words in parts}
        letters = "" if len(self.letters) == self.vocabulary else " generators"
        return digest(f"state tracking {self._group} {self.length} {self._data_seed}{letters}", held_out)


def multiplication_table(group: str) -> Ids:
    """The products (G, G) of a group: entry [a, b] is a after b."""
    if group == "parity":
        return np.array([[0, 1], [1, 0]])
    elements = _elements(group)
    numbers = {element: number for number, element in enumerate(elements)}
    return np.array([[numbers[tuple(a[i] for i in b)] for b in elements] for a in elements])


def _elements(group: str) -> list[tuple[int, ...]]:
    return [one for one in itertools.permutations(range(int(group[1]))) if group[0] == "S" or _is_even(one)]


def _generators(group: str) -> Ids:
    """The numbers of two elements that generate the group; of parity, both elements."""
    if group == "parity":
        return np.arange(2)
    rest = tuple(range(int(group[1])))
    short = (1, 0, *rest[2:]) if group[0] == "S" else (1, 2, 0, *rest[3:])
    return np.array([_elements(group).index(one) for one in (short, (*rest[1:], 0))])


def _is_even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0
