"""Sudoku and associative recall: their data by definition, their scores by predictors that know the rules."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from bench.records.errors import UserError
from bench.tasks.recall import Recall
from bench.tasks.sudoku import ASK, Sudoku, draw, number_of_solutions, solutions


def is_solved(grid: list[int]) -> bool:
    rows = [{*grid[4 * r : 4 * r + 4]} for r in range(4)]
    columns = [{*grid[c::4]} for c in range(4)]
    boxes = [{grid[4 * (r + i) + c + j] for i in range(2) for j in range(2)} for r in (0, 2) for c in (0, 2)]
    return all(part == {1, 2, 3, 4} for part in (*rows, *columns, *boxes))


def solve_by_search(puzzle: list[int]) -> list[list[int]]:
    """Every solution, cell by cell, with no table of grids."""
    if 0 not in puzzle:
        return [puzzle] if is_solved(puzzle) else []
    cell = puzzle.index(0)
    peers = {
        puzzle[other]
        for other in range(16)
        if other // 4 == cell // 4 or other % 4 == cell % 4 or (other // 8, other % 4 // 2) == (cell // 8, cell % 4 // 2)
    }
    return [found for digit in {1, 2, 3, 4} - peers for found in solve_by_search([*puzzle[:cell], digit, *puzzle[cell + 1 :]])]


class TestSudoku:
    def test_there_are_288_solutions(self) -> None:
        grids = solutions().tolist()
        assert len(grids) == len({tuple(grid) for grid in grids}) == 288
        assert all(is_solved(grid) for grid in grids)

    def test_puzzles_have_one_solution(self) -> None:
        puzzles, answers = draw(solutions(), 200, 12, 0)
        for puzzle, answer in zip(puzzles[:60].tolist(), answers[:60].tolist(), strict=True):
            assert solve_by_search(puzzle) == [answer]
        assert (number_of_solutions(puzzles) == 1).all()
        blanks = Counter((puzzles == 0).sum(1).tolist())
        assert max(blanks) >= 11  # greedy removal goes far
        assert number_of_solutions(np.zeros((1, 16), dtype=np.int64)) == 288

    def test_held_out_puzzles_have_their_number_of_blanks_and_solutions_not_trained_on(self) -> None:
        task = Sudoku(blanks=7, test_blanks="5,7,10", test_samples=30)
        seen = {tuple(one) for batch in itertools.islice(task.batches("train", 200, 1), 20) for one in batch[1][:, 16:].tolist()}
        assert len(seen) == 230
        found = []
        for inputs, targets in task.batches("test", 16, 0):
            assert (inputs[:, 16:] == ASK).all()
            assert torch.equal(inputs[:, :16], targets[:, :16])
            given = inputs[:, :16] != 0
            assert torch.equal(targets[:, 16:][given], inputs[:, :16][given])
            assert not seen & {tuple(one) for one in targets[:, 16:].tolist()}
            found += (~given).sum(1).tolist()
        assert found == [7] * 30 + [5] * 30 + [10] * 30
        inputs, _ = next(task.batches("train", 100, 0))
        assert ((inputs[:, :16] == 0).sum(1) <= 7).all()

    def test_scores_of_a_solver_and_of_one_wrong_cell(self) -> None:
        task = Sudoku(blanks=6, test_blanks="6,9", test_samples=20)
        scores: dict[str, float] = {}
        for _, targets in task.batches("test", 20, 0):
            logits = 30.0 * one_hot(targets, task.vocabulary).float()
            scores |= {name: float(total) / count for name, (total, count) in task.score(logits, targets).items()}
        assert {*scores} == {*task.metrics}
        assert all(scores[name] == pytest.approx(metric.optimum, abs=1e-6) for name, metric in task.metrics.items())
        _, targets = next(task.batches("valid", 20, 0))
        wrong = targets.clone()
        blank = int((targets[0, :16] == 0).nonzero()[0])
        wrong[0, 16 + blank] = targets[0, 16 + blank] % 4 + 1
        found = task.score(30.0 * one_hot(wrong, task.vocabulary).float(), targets)
        assert float(found["solved_b6"][0]) == 19
        assert (float(found["accuracy_b6"][0]), found["accuracy_b6"][1]) == (20 * 6 - 1, 20 * 6)

    @pytest.mark.parametrize("wrong", [{"test_blanks": "6"}, {"blanks": 13, "test_blanks": "13"}, {"test_blanks": "8,x"}], ids=str)
    def test_wrong_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(UserError, match="test_blanks must be numbers from 1 to 12"):
            Sudoku(**wrong)  # type: ignore[arg-type]


class TestRecall:
    def test_each_key_returns_once_and_asks_for_its_value(self) -> None:
        task = Recall(length=40, pairs=5, keys=9, test_samples=60)
        for inputs, targets in (next(task.batches("train", 60, 3)), next(task.batches("test", 60, 0))):
            for words, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
                values = dict(zip(words[0:10:2], words[1:10:2], strict=True))
                assert len(values) == 5
                assert {*values} <= set(range(1, 10))
                assert {*values.values()} <= set(range(10, 19))
                assert Counter(word for word in words[10:] if word) == Counter({*values})
                assert wanted == [0] * 10 + [values.get(word, 0) for word in words[10:]]

    def test_early_places_are_more_likely_by_the_power_law(self) -> None:
        task = Recall(length=12, pairs=1, keys=4, power=0.5, test_samples=20_000)
        inputs = next(task.batches("test", 20_000, 0))[0][:, 2:]
        found = (inputs != 0).double().mean(0)
        expected = torch.arange(1, 11).double() ** -0.5
        torch.testing.assert_close(found, expected / expected.sum(), rtol=0.05, atol=0.005)

    def test_the_optimum_is_what_the_values_score(self) -> None:
        task = Recall(length=20, pairs=3, keys=4, test_samples=4000)
        _, targets = next(task.batches("test", 4000, 0))
        best = 40.0 * one_hot(targets, task.vocabulary).float()
        for name, metric in task.metrics.items():
            total, count = task.score(best, targets)[name]
            assert float(total) / count == pytest.approx(metric.optimum, abs=1e-6)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"pairs": 40}, "at most keys"),
            ({"length": 11}, "at least 12"),
            ({"power": 0.0}, "power must be"),
            ({"keys": 0}, "keys"),
        ],
        ids=str,
    )
    def test_wrong_settings_are_refused(self, wrong: dict[str, object], words: str) -> None:
        with pytest.raises(UserError, match=words):
            Recall(**wrong)  # type: ignore[arg-type]
