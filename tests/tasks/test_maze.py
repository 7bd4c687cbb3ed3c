"""Mazes: one path, found by a search that knows only the tokens; every tree equally likely; splits that share no maze."""

import itertools
import re
from collections import Counter, deque

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.functional import one_hot

from bench.records.errors import UserError
from bench.tasks.maze import ASK, END, START, Maze, draw_tree, neighbours

STEPS = {1: (0, 1), 2: (1, 0), 4: (0, -1), 8: (-1, 0)}  # by the side: right, below, left, above
OPPOSITE = {1: 4, 2: 8, 4: 1, 8: 2}


def open_ways(grid: Tensor) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """The cells that each cell opens to, by the tokens alone; closed places have no entry."""
    ways = {}
    for row, column in grid.nonzero().tolist():
        sides = [side for side in STEPS if int(grid[row, column]) % START & side]
        found = [(row + STEPS[side][0], column + STEPS[side][1]) for side in sides]
        assert all(int(grid[cell]) & OPPOSITE[side] for side, cell in zip(sides, found, strict=True))  # open from both sides
        ways[row, column] = found
    return ways


def shortest_path(grid: Tensor) -> list[tuple[int, int]]:
    """Breadth-first search from the start to the end."""
    ways = open_ways(grid)
    (start,), (end,) = ([cell for cell in ways if int(grid[cell]) // START == kind] for kind in (1, END // START))
    before, queue = {start: start}, deque([start])
    while queue:
        cell = queue.popleft()
        for other in ways[cell]:
            if other not in before:
                before[other] = cell
                queue.append(other)
    assert {*before} == {*ways}  # connected
    found = [end]
    while found[-1] != start:
        found.append(before[found[-1]])
    return found


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_maze_is_a_tree_and_its_answer_the_path_of_a_search(split: str) -> None:
    task = Maze(size=4, test_sizes="3,4,6", test_samples=40)
    sizes, places = [], set()
    for inputs, targets in itertools.islice(task.batches(split, 40, 5), 3):  # type: ignore[arg-type]
        assert inputs.shape == targets.shape == (40, 72)
        assert (inputs[:, 36:] == ASK).all()
        assert torch.equal(inputs[:, :36], targets[:, :36])
        for grid, answer in zip(inputs[:, :36].view(-1, 6, 6), targets[:, 36:].view(-1, 6, 6), strict=True):
            ways, cells = open_ways(grid), grid.nonzero()
            low, high = cells.min(0).values, cells.max(0).values
            size = int(high[0] - low[0]) + 1
            assert high[1] - low[1] + 1 == size
            assert len(cells) == size**2
            assert sum(map(len, ways.values())) == 2 * (size**2 - 1)  # as many passages as a tree has: no second path
            assert sorted(map(tuple, answer.nonzero().tolist())) == sorted(shortest_path(grid))
            assert answer.max() == 1
            sizes.append(size)
            places.add((size, *low.tolist()))
    assert sizes == {"train": [4] * 120, "valid": [4] * 40, "test": [4] * 40 + [3] * 40 + [6] * 40}[split]
    corners = {(size, *corner) for size in {*sizes} for corner in itertools.product(range(7 - size), repeat=2)}
    assert places == corners if split == "train" else places <= corners


def test_every_tree_is_equally_likely() -> None:
    near, generator = neighbours(3), np.random.default_rng(0)
    found = Counter(tuple(draw_tree(near, generator)) for _ in range(20_000))
    laplacian = np.diag([len(cells) for cells in near]) - np.array([[cell in cells for cell in range(9)] for cells in near])
    assert len(found) == round(np.linalg.det(laplacian[1:, 1:])) == 192  # Kirchhoff: those of 3 x 3
    assert chisquare([*found.values()]).pvalue > 1e-3


def test_no_split_has_a_maze_of_another() -> None:
    task = Maze(size=3, test_sizes="3", test_samples=300)
    trees = {}
    for split in ("train", "valid", "test"):
        batches = itertools.islice(task.batches(split, 100, 1), 20)  # type: ignore[arg-type]
        trees[split] = {tuple((row % START).tolist()) for inputs, _ in batches for row in inputs[:, :9]}
    for one, other in itertools.combinations(trees.values(), 2):
        assert not one & other
    assert len(trees["train"] | trees["valid"] | trees["test"]) == 192


def test_scores_of_a_search_of_chance_and_of_one_wrong_cell() -> None:
    task = Maze(size=3, test_sizes="3,4", test_samples=30)
    wrong: dict[str, float] = {}
    for size, (_, targets) in zip((3, 4), task.batches("test", 30, 0), strict=True):
        often = torch.bincount(targets.flatten(), minlength=task.vocabulary) / targets.numel()
        guess = often.log().expand(*targets.shape, -1)
        one_off = targets.clone()
        one_off[7, 16:][targets[7, :16] != 0] = 1 - one_off[7, 16:][targets[7, :16] != 0]
        for logits, expected in ((30.0 * one_hot(targets, task.vocabulary), "optimum"), (guess, "chance")):
            for name, (total, count) in task.score(logits.float(), targets).items():
                assert name.endswith(f"_n{size}") or (name, size) == ("loss", 3)
                assert float(total) / count == pytest.approx(getattr(task.metrics[name], expected), abs=1e-6)
        wrong |= {name: float(total) for name, (total, _) in task.score(30.0 * one_hot(one_off, task.vocabulary), targets).items()}
    assert (wrong["solved_n3"], wrong["accuracy_n3"]) == (29, 29 * 9)
    assert (wrong["solved_n4"], wrong["accuracy_n4"]) == (29, 29 * 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test_sizes": "5,6"}, "test_sizes must be numbers at least 3 with commas, among them 3; got '5,6'"),
        ({"test_sizes": "4;5"}, "test_sizes must be numbers at least 3 with commas, among them 3; got '4;5'"),
        ({"size": 2}, "size must be at least 3, got 2"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Maze(**wrong)  # type: ignore[arg-type]
