"""Warm starts: exact where the solution is known, and the text in the order in which it is read."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from test_studies import affine_model
from torch import Tensor
from toy import STREAM, TOY, Made, rows_of

from bench.studies import warm_start
from bench.studies.models import Models, deq_of
from bench.studies.warm_start import SEGMENTS, WINDOWS, _solve_in_turn, _windows
from bench.training.evaluation import evaluate
from deq import DEQ, Anderson, Picard, Stop

pytestmark = pytest.mark.end_to_end
STOP = Stop(rtol=1e-6, max_steps=100)


def halving(words: int) -> Any:
    """A model f(z) = z / 2 + x whose first words have the same embedding."""
    model = affine_model(0.5).eval()
    with torch.no_grad():
        model.embedding.weight[:words] = torch.ones(3, dtype=torch.float64)
    assert isinstance(model.core, DEQ)
    model.core.stop = STOP
    return model


def parts(rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.tensor([row, row]), torch.zeros(2, len(row), dtype=torch.long)) for row in rows]


def test_a_text_whose_solution_stays_takes_one_evaluation_from_the_part_before() -> None:
    """From zero, |f(z) - z| = |x| / 2^n after n steps, |f(z)| = (2 - 1 / 2^n) |x|: 20 evaluations to 1e-6."""
    batches = parts([[0, 1, 2], [1, 1, 1], [2, 0, 1]])
    for start, steps in (("initial", 20), ("previous", 1), ("last", 1)):
        found = _solve_in_turn(halving(3), batches, SEGMENTS[start], carry=True)
        assert (found["steps"], found["nfe"], found["converged"]) == (steps, steps, 1.0)


def test_a_start_from_the_last_position_is_not_one_from_the_same_position() -> None:
    """The first part ends with another word than it began with; the second has the first one's words, then its last one."""
    first = [3, 3, 0]
    counts = {
        start: [
            _solve_in_turn(halving(3), parts([first, row]), SEGMENTS[start], carry=False)["steps"] for row in (first, [0, 1, 2])
        ]
        for start in ("previous", "last")
    }
    assert counts["previous"][0] == 1 < counts["previous"][1]
    assert counts["last"][1] == 1 < counts["last"][0]


def test_windows_move_by_one_token_and_their_start_by_one_position() -> None:
    text = torch.arange(13).repeat(2, 1)
    batches = [(text[:, n : n + 4], text[:, n + 1 : n + 5]) for n in (0, 4, 8)]
    windows = list(_windows(batches, 4))
    assert [inputs[0].tolist() for inputs, _ in windows] == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in windows)
    model = halving(0)
    shifted = _solve_in_turn(model, parts([[4, 3, 2], [3, 2, 2]]), WINDOWS["shifted"], carry=False)
    assert shifted["steps"] == 1  # a new word is the same as its neighbour
    assert _solve_in_turn(model, parts([[4, 3, 2], [3, 2, 4]]), WINDOWS["shifted"], carry=False)["steps"] > 1


def test_the_carried_segments_are_those_of_an_evaluation(models: Models) -> None:
    """With as many lanes and every segment, the loss is that of the usual evaluation; but for the first segment."""
    spec = warm_start.study(TOY).rows[0].specs[0]
    task, model = models.task(spec.task), deq_of(models.trained(spec), Anderson(), STOP)
    batches = list(task.batches("valid", task.lanes("valid"), seed=0))
    found = _solve_in_turn(model, batches, SEGMENTS["initial"], carry=True)["loss"]
    first = _solve_in_turn(model, [batches[0], batches[0]], SEGMENTS["initial"], carry=False)["loss"]
    whole = evaluate(model, task, "valid", spec)["loss"]
    assert ((len(batches) - 1) * found + first) / len(batches) == pytest.approx(whole, rel=1e-5)
    assert spec.train.carry
    assert found != _solve_in_turn(model, batches, SEGMENTS["initial"], carry=False)["loss"]


def test_a_row_has_every_start_at_every_tolerance_and_the_same_loss(made: Made) -> None:
    rows = rows_of(made, "warm start")
    assert [row["cell"] for row in rows] == ["transformer-xl", "trellis"]
    for row in rows:
        for kind, starts in (("segments", SEGMENTS), ("windows", WINDOWS)):
            points = row["values"][kind]
            assert [(point["rtol"], point["start"]) for point in points] == [(r, s) for r in (1e-1, 1e-2, 1e-3) for s in starts]
            for point in points:
                first = next(other for other in points if (other["rtol"], other["start"]) == (point["rtol"], "initial"))
                assert point["saved"] == pytest.approx(1 - point["steps"] / first["steps"], abs=1e-6)
                assert point["loss"] == pytest.approx(first["loss"], abs=0.2)


def test_the_last_states_are_the_start(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each solve starts where the table of starts says, by the states of the solves before."""
    spec = warm_start.study(TOY).rows[0].specs[0]
    model, task = deq_of(models.trained(spec), Picard(), Stop(rtol=None, max_steps=3)), models.task(STREAM.task)
    batches = list(task.batches("valid", 1, seed=0))[:3]
    seen: list[Any] = []
    core = model.core.forward

    def spy(x: Tensor, memory: Any, z0: Tensor | None) -> Any:
        output = core(x, memory, z0)
        seen.append((z0, output.state))
        return output

    monkeypatch.setattr(model.core, "forward", spy)
    _solve_in_turn(model, batches, SEGMENTS["last"], carry=True)
    assert seen[0][0] is None
    for (_, state), (z0, _) in pairwise(seen):
        assert torch.equal(z0, state[:, -1:].expand_as(state))
