"""Golden curves change only with a numerics version, and a difference names the version to raise."""

from typing import Any

import pytest
from cases import exhaustive
from typer.testing import CliRunner

from bench.cli.main import app
from bench.perf_gate import golden
from bench.perf_gate.golden import cases, curves, differences, read

pytestmark = pytest.mark.end_to_end


def repeats(name: str) -> bool:
    """Whether other cases have the same model, adjoint and task: models and adjoints run on copy, one model on every task."""
    return " on " in name and not name.endswith(" on copy") and not name.startswith("gru ")


@pytest.mark.parametrize("repeated", [False, *exhaustive(True)])
def test_the_curves_are_the_accepted_ones(repeated: bool) -> None:
    chosen = {name: spec for name, spec in cases() if repeats(name) == repeated}
    accepted = read()
    assert differences(curves(chosen.items()), {name: accepted[name] for name in chosen}) == []


def test_every_case_has_one_accepted_curve() -> None:
    assert sorted(name for name, _ in cases()) == sorted(read())


def curve(loss: float, **numerics: int) -> dict[str, Any]:
    return {"numerics": numerics, "loss": [loss], "valid": {}}


ACCEPTED = {"a": curve(1.0, Trainer=1, Anderson=1), "b": curve(2.0, Trainer=1, Broyden=1), "c": curve(3.0, Trainer=1)}


def test_rounding_is_no_difference() -> None:
    assert differences(ACCEPTED | {"a": curve(1.0 + 1e-10, Trainer=1, Anderson=1)}, ACCEPTED) == []


def test_a_reversed_solve_enlarges_rounding() -> None:
    accepted = {"a": curve(1.0, Trainer=1, Reverse=1)}
    assert differences({"a": curve(1.0 + 2e-6, Trainer=1, Reverse=1)}, accepted) == []
    assert differences({"a": curve(1.0 + 2e-5, Trainer=1, Reverse=1)}, accepted) != []
    assert differences(ACCEPTED | {"a": curve(1.0 + 2e-6, Trainer=1, Anderson=1)}, ACCEPTED) != []


def test_a_new_metric_is_no_difference() -> None:
    assert differences(ACCEPTED | {"a": curve(1.0, Trainer=1, Anderson=1) | {"valid": {"loss_last": 3.0}}}, ACCEPTED) == []


def test_a_moved_curve_names_the_version_to_raise() -> None:
    (line,) = differences(ACCEPTED | {"a": curve(1.0 + 1e-8, Trainer=1, Anderson=1)}, ACCEPTED)
    assert line == "numbers changed in a, and no version was raised: raise `numerics` of Anderson (1)"
    moved = {name: one | {"loss": [9.0]} for name, one in ACCEPTED.items()}
    assert differences(moved, ACCEPTED)[0].endswith("raise `numerics` of Trainer (1)")


def test_what_changed_silently_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run id would stand for two sets of numbers."""
    written: list[Any] = []
    monkeypatch.setattr(golden, "cases", dict)
    monkeypatch.setattr(golden, "read", lambda: ACCEPTED)
    monkeypatch.setattr(golden, "accept", written.append)
    moved, raised = (ACCEPTED | {"a": curve(1.5, Trainer=1, Anderson=version)} for version in (1, 2))
    for found, allowed in ((moved, False), (raised, True)):
        monkeypatch.setattr(golden, "curves", lambda _, found=found: found)
        result = CliRunner().invoke(app, ["golden", "--accept"])
        assert (result.exit_code == 0) == allowed == (written == [found])
    assert golden.changed_silently(moved, ACCEPTED) == {"a"}


def test_a_raised_version_a_new_case_and_a_failure_are_accepted_by_hand() -> None:
    renewed = {"a": curve(1.5, Trainer=1, Anderson=2), "d": curve(1.0, Trainer=1)}
    (line,) = differences(ACCEPTED | renewed, ACCEPTED)
    assert line.startswith("new, gone, or of other versions: a, d; `python -m bench golden --accept`")
    failed = {"numerics": {"Trainer": 1}, "status": "crashed: no"}
    assert differences(ACCEPTED | {"c": failed}, ACCEPTED) == ["fail now: c; the first crashed: no"]
    assert golden.changed_silently({"c": failed}, ACCEPTED) == {"c"}
