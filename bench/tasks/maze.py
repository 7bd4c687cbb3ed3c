"""Mazes: an iterative task whose difficulty is the size of the grid."""

import math
from typing import ClassVar

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from bench.records.errors import UserError
from bench.tasks.generated import Graded, Ids, parse_difficulties, total_loss
from bench.tasks.task import Metric, Split, check_positive, derive_seed, digest

RIGHT, BELOW, LEFT, ABOVE, START, END, ASK = 1, 2, 4, 8, 16, 32, 48
LEAST = 3  # cells a side: of 192 mazes each split has some, of the 4 of 2 x 2 it might have none
_HELD_OUT: dict[int, Split] = {0: "valid", 1: "test"}  # by a hash of the tree modulo 5; the others are for training


class Maze(Graded):
    """A maze, row by row, then a token for each of its places that asks whether it is on the path from the start to the end.

    The token of a cell is the sum of its open sides (1 right, 2 below, 4 left, 8 above) and 16 at the start or 32 at the end.
    Targets are the maze itself in the first half, then 1 on the path, its ends included, and 0 elsewhere: a causal model answers
    when it has seen it all. A maze is a uniform spanning tree of a grid (Wilson 1996), so there is one path; start and end are two
    cells drawn uniformly.

    Mazes have `size` x `size` cells in training and validation; the test has `test_samples` mazes of each size in `test_sizes`
    (with commas). All lie at a random place of a grid of the largest size, whose other places are closed (0): a neighbour is
    equally far in the sequence at every size, so that harder instances do not also have positions that were never trained. A hash
    of the tree decides its split, so that no split has a maze of another.

    `solved_n5` is the share of mazes of 5 x 5 whose answers are all right, `accuracy_n5` that of their cells answered right; `loss`
    is of `size`, as `loss_n5`. Chance knows how often each token is a target in these mazes: it answers 0 throughout. Mazes as
    instances that are harder than the trained ones: Schwarzschild et al. (2021), arXiv 2106.04537.
    """

    numerics: ClassVar[int] = 1
    name, letter = "maze", "n"

    def __init__(self, *, size: int = 3, test_sizes: str = "3,4,5", test_samples: int = 500, data_seed: int = 0) -> None:
        check_positive(self.name, test_samples=test_samples)
        if size < LEAST:
            raise UserError(f"{self.name}: size must be at least {LEAST}, got {size}")
        sizes = parse_difficulties(self.name, "test_sizes", test_sizes, size, least=LEAST)
        self.size, self.side = size, max(sizes)
        self.vocabulary, self.length = ASK + 1, 2 * self.side**2
        self._hold_out_graded(sizes, test_samples, data_seed)
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        found = {}
        for size, part in zip(self.difficulties, self._held_out["test"], strict=True):
            often = np.bincount(part.ravel()) / part.size
            on_path = part[:, self.side**2 :].sum() / (len(part) * size**2)
            found[self._loss(size)] = Metric(unit="nats", better="lower", chance=float(entr(often).sum()), optimum=0.0)
            found[f"solved_n{size}"] = Metric(unit="fraction", better="higher", chance=0.0, optimum=1.0)
            found[f"accuracy_n{size}"] = Metric(unit="fraction", better="higher", chance=1 - float(on_path), optimum=1.0)
        return found

    def _draw_at(self, size: int, split: Split, samples: int, seed: int) -> Ids:
        """Mazes of a split, followed by their answers (samples, 2 * side^2)."""
        generator, near = np.random.default_rng(seed), neighbours(size)
        found = np.zeros((samples, 2, self.side, self.side), dtype=np.int64)
        for maze, answer in found:
            tree = draw_tree(near, generator)
            while _HELD_OUT.get(derive_seed(self.name, self._data_seed, *tree) % 5, "train") != split:
                tree = draw_tree(near, generator)
            start, end = generator.choice(len(near), size=2, replace=False).tolist()
            row, column = generator.integers(self.side - size + 1, size=2)
            place = slice(row, row + size), slice(column, column + size)
            maze[place] = draw_sides(tree, size)
            maze[place].flat[[start, end]] += (START, END)
            answer[place].flat[path(tree, start, end)] = 1
        return found.reshape(samples, -1)

    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        inputs = drawn.copy()
        inputs[:, self.side**2 :] = ASK
        return torch.from_numpy(inputs), torch.from_numpy(drawn)

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return the loss, the share solved and the accuracy on cells of mazes of one size."""
        maze, answers = targets.chunk(2, dim=1)
        cells = maze != 0  # every cell has an open side
        size = math.isqrt(int(cells[0].sum()))
        right = logits[:, maze.shape[1] :].argmax(-1) == answers
        return {
            self._loss(size): total_loss(logits, targets),
            f"solved_n{size}": (right.all(1).double().sum(), len(targets)),
            f"accuracy_n{size}": (right[cells].double().sum(), int(cells.sum())),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings and the held-out mazes; training mazes follow from the settings."""
        held_out = {f"{split} {number}": part for split, parts in self._held_out.items() for number, part in enumerate(parts)}
        return digest(f"maze {self.size} {self.difficulties} {self._data_seed}", held_out)


def neighbours(size: int) -> list[list[int]]:
    """The neighbours of each cell of a grid; cells are numbered row by row."""
    steps = ((-1, 0), (0, -1), (0, 1), (1, 0))
    return [
        [(row + down) * size + column + right for down, right in steps if 0 <= row + down < size and 0 <= column + right < size]
        for row in range(size)
        for column in range(size)
    ]


def draw_tree(near: list[list[int]], generator: np.random.Generator) -> list[int]:
    """Draw a uniform spanning tree by Wilson's loop-erased random walks: for each cell the next one towards cell 0."""
    onward, inside = [0] * len(near), {0}
    for cell in range(1, len(near)):
        walk = cell
        while walk not in inside:
            onward[walk] = near[walk][int(len(near[walk]) * generator.random())]  # a loop is forgotten: its exit is overwritten
            walk = onward[walk]
        walk = cell
        while walk not in inside:
            inside.add(walk)
            walk = onward[walk]
    return onward


def draw_sides(tree: list[int], size: int) -> Ids:
    """The sum of the open sides of each cell (size, size)."""
    sides = np.zeros(len(tree), dtype=np.int64)
    for cell, other in enumerate(tree[1:], 1):
        first, second = min(cell, other), max(cell, other)
        across = second - first == 1
        sides[first] += RIGHT if across else BELOW
        sides[second] += LEFT if across else ABOVE
    return sides.reshape(size, size)


def path(tree: list[int], start: int, end: int) -> list[int]:
    """The cells from start to end, in any order: those that lead from one of them alone to cell 0, and where both ways meet."""
    ways = []
    for cell in (start, end):
        way = [cell]
        while way[-1]:
            way.append(tree[way[-1]])
        ways.append(way)
    common = [cell for cell in ways[0] if cell in ways[1]]
    return [cell for way in ways for cell in way if cell not in common] + common[:1]
