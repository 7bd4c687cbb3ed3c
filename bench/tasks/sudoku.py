"""Sudoku on a 4 x 4 grid: an iterative task whose difficulty is the number of blanks."""

import itertools
import math
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.tasks.generated import Graded, Ids, parse_difficulties, total_loss
from bench.tasks.task import Metric, Split, check_positive, derive_seed, digest

CELLS, BLANK, ASK = 16, 0, 5
HELD_OUT = 58  # of the 288 solutions, for validation and test
MOST_BLANKS = 12  # no puzzle with three clues has one solution


class Sudoku(Graded):
    """A puzzle of 16 cells, row by row (0 blank, 1 to 4 given), then 16 tokens that ask for the cells of its solution.

    Targets are the puzzle itself in the first half and the solution in the second: a causal model answers when it has seen it all.
    Every puzzle has one solution. Blanks are taken in random order where the solution stays the only one, up to `blanks`, or to as
    many as that order allows. Training puzzles are of 230 solutions; validation and test have the other 58, so that no solution can
    be recalled. The test has `test_samples` puzzles for each number in `test_blanks` (with commas), each with exactly that many.

    `solved_b10` is the share of puzzles of 10 blanks whose answers are all right, `accuracy_b10` that of their blank cells answered
    right; `loss` is of `blanks`, as `loss_b10`. Chance (of the loss) knows how often a cell is blank. Training and testing on
    different numbers of blanks measures generalisation to harder instances (Schwarzschild et al. 2021, arXiv 2106.04537).
    """

    numerics: ClassVar[int] = 1
    name, letter = "sudoku", "b"

    def __init__(self, *, blanks: int = 8, test_blanks: str = "6,8,10", test_samples: int = 500, data_seed: int = 0) -> None:
        check_positive(self.name, blanks=blanks, test_samples=test_samples)
        self.vocabulary, self.length, self.blanks = ASK + 1, 2 * CELLS, blanks
        numbers = parse_difficulties(self.name, "test_blanks", test_blanks, blanks, most=MOST_BLANKS)
        order = np.random.default_rng(derive_seed("sudoku", "solutions", data_seed)).permutation(len(solutions()))
        self._solutions = {"train": solutions()[order[HELD_OUT:]], "held out": solutions()[order[:HELD_OUT]]}
        self._hold_out_graded(numbers, test_samples, data_seed)
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        found = {}
        for number in self.difficulties:
            share = number / CELLS
            puzzle = -share * math.log(share) - (1 - share) * math.log((1 - share) / 4)
            found[self._loss(number)] = Metric(unit="nats", better="lower", chance=(puzzle + math.log(4)) / 2, optimum=0.0)
            found[f"solved_b{number}"] = Metric(unit="fraction", better="higher", chance=0.25**CELLS, optimum=1.0)
            found[f"accuracy_b{number}"] = Metric(unit="fraction", better="higher", optimum=1.0)
        return found

    def _draw_at(self, blanks: int, split: Split, samples: int, seed: int) -> Ids:
        """Puzzles with their solutions (B, 32): of training with at most, of held-out solutions with exactly so many blanks."""
        if split == "train":
            return np.concatenate(draw(self._solutions["train"], samples, blanks, seed), axis=1)
        found: list[Ids] = []
        while sum(map(len, found)) < samples:
            puzzles, answers = draw(self._solutions["held out"], samples, blanks, derive_seed("sudoku", seed, len(found)))
            exact = (puzzles == BLANK).sum(1) == blanks
            found.append(np.concatenate((puzzles, answers), axis=1)[exact])
        return np.concatenate(found)[:samples]

    def _sequences(self, drawn: Ids) -> tuple[Tensor, Tensor]:
        inputs = drawn.copy()
        inputs[:, CELLS:] = ASK
        return torch.from_numpy(inputs), torch.from_numpy(drawn)

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return the loss, the share solved and the accuracy on blanks of puzzles with equally many blanks."""
        blank = targets[:, :CELLS] == BLANK
        number = int(blank.sum(1).max())
        right = logits[:, CELLS:].argmax(-1) == targets[:, CELLS:]
        return {
            self._loss(number): total_loss(logits, targets),
            f"solved_b{number}": (right.all(1).double().sum(), len(targets)),
            f"accuracy_b{number}": (right[blank].double().sum(), int(blank.sum())),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings and the held-out puzzles; training puzzles follow from the settings."""
        held_out = {
            f"{split} {number}": part[:, :CELLS].ravel()
            for split, parts in self._held_out.items()
            for number, part in zip(self.difficulties, parts, strict=False)  # validation has the first only
        }
        return digest(f"sudoku {self.blanks} {self._data_seed}", held_out)


@cache
def solutions() -> Ids:
    """All 288 solved grids (288, 16), row by row."""
    rows = np.array(list(itertools.permutations((1, 2, 3, 4))))
    halves = [
        np.concatenate((above, below))
        for above in rows
        for below in rows
        if {*above[:2], *below[:2]} == {*above[2:], *below[2:]} == {1, 2, 3, 4}
    ]
    grids = (np.concatenate((top, bottom)) for top in halves for bottom in halves)
    return np.array([grid for grid in grids if all(len({*grid[column::4]}) == 4 for column in range(4))])


def draw(among: Ids, samples: int, blanks: int, seed: int) -> tuple[Ids, Ids]:
    """Puzzles (B, 16) of at most `blanks` blanks with one solution, and their solutions, drawn from the grids `among`."""
    generator = np.random.default_rng(seed)
    answers = among[generator.integers(len(among), size=samples)]
    puzzles, order = answers.copy(), generator.permuted(np.tile(np.arange(CELLS), (samples, 1)), axis=1)
    for step in range(CELLS):
        tried = puzzles.copy()
        np.put_along_axis(tried, order[:, step : step + 1], BLANK, axis=1)
        kept = number_of_solutions(tried) == 1
        kept &= (puzzles == BLANK).sum(1) < blanks
        puzzles[kept] = tried[kept]
    return puzzles, answers


def number_of_solutions(puzzles: Ids) -> Ids:
    """How many solved grids agree with the clues of each puzzle (B, 16)."""
    agree = (puzzles[:, None] == solutions()) | (puzzles[:, None] == BLANK)
    counted: Ids = agree.all(-1).sum(-1)
    return counted
