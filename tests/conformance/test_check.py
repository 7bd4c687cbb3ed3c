"""`check` passes sound examples; an example that breaks one rule fails only its check, and the remedy is printed."""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import exhaustive, few
from typer.testing import CliRunner

from bench.cli.main import app
from bench.cli.options import parse_settings
from bench.conformance.compare import distance, gradient_errors
from bench.conformance.load import CONTRACTS, check_definition, find, kind_of, load, settings_for
from bench.conformance.memory import fake_tensors, memory
from bench.conformance.reference_predictors import predictors, scores
from bench.conformance.result import Check, Report, Result, render, require, run_checks
from bench.conformance.subject import Subject
from bench.conformance.tasks import TASK
from bench.records.errors import UserError
from bench.records.spec import Settings
from bench.tasks.agreement import Agreement
from bench.tasks.copy import CopyMemory
from bench.tasks.markov import Markov
from bench.tasks.maze import Maze
from bench.tasks.recall import Recall
from bench.tasks.state_tracking import StateTracking
from bench.tasks.sudoku import Sudoku
from deq import Cell

pytestmark = pytest.mark.end_to_end

EXAMPLES = Path(__file__).parents[2] / "bench" / "examples"
BROKEN = Path(__file__).parents[1] / "extending" / "broken"

# The check that each broken example fails; a warning where its rule is a matter of cost.
FAILS = {
    "broken_cells:Narrow": "shapes",
    "broken_cells:Single": "shapes",
    "broken_cells:Roots": "finite",
    "broken_cells:Dropping": "one map",
    "broken_cells:Static": "one map",
    "broken_cells:Writing": "one map",
    "broken_cells:Noisy": "evaluation",
    "broken_cells:Unseeded": "same seed",
    "broken_cells:Mixing": "samples",
    "broken_cells:Normalising": "samples",
    "broken_cells:Ahead": "causality",
    "broken_cells:Crooked": "gradient",
    "broken_cells:Idle": "parameters",
    "broken_cells:Secret": "state",
    "broken_cells:Dragging": "carried memory",
    "broken_cells:Adding": "fixed point",
    "broken_cells:Clipping": "implicit gradient",
    "broken_cells:Leaky": "memory",
    "broken_models:Bare": "shapes",
    "broken_models:Failing": "shapes",
    "broken_models:Leaving": "shapes",
    "broken_models:Logarithms": "finite",
    "broken_models:Dropping": "evaluation",
    "broken_models:Counting": "evaluation",
    "broken_models:Unseeded": "same seed",
    "broken_models:Unsolved": "solve",
    "broken_models:Mixing": "samples",
    "broken_models:MixingInTraining": "samples",
    "broken_models:Ahead": "causality",
    "broken_models:AheadInTraining": "causality",
    "broken_models:AheadBehindAMemory": "causality",
    "broken_models:Crooked": "gradient",
    "broken_models:Cut": "gradient",
    "broken_models:Idle": "parameters",
    "broken_models:Secret": "state",
    "broken_models:SecretInTraining": "state",
    "broken_models:Dragging": "carried memory",
    "broken_models:Strange": "carried memory",
    "broken_models:Hoarding": "memory",
    "broken_solvers:Flat": "shapes",
    "broken_solvers:Backward": "solves",
    "broken_solvers:Shared": "samples",
    "broken_solvers:Poisoned": "samples",
    "broken_solvers:Dividing": "singular",
    "broken_solvers:Counting": "same solve",
    "broken_solvers:Keeping": "same solve",
    "broken_solvers:Growing": "memory",
    "broken_solvers:Detaching": "gradient",
    "broken_tasks:Contrary": "declaration",
    "broken_tasks:Changing": "declaration",
    "broken_tasks:Short": "batches",
    "broken_tasks:Endless": "batches",
    "broken_tasks:FromOne": "ids",
    "broken_tasks:Straying": "same seed",
    "broken_tasks:Numberless": "same seed",
    "broken_tasks:Unresponsive": "seeds",
    "broken_tasks:Moving": "seeds",
    "broken_tasks:Leaking": "splits",
    "broken_tasks:Means": "score",
    "broken_tasks:Optimist": "chance",
    "broken_tasks:Modest": "optimum",
    "broken_tasks:Unreachable": "optimum",
}
WARNS = {
    "broken_cells:Looking": "fake tensors",
    "broken_models:Looking": "fake tensors",
    "broken_models:Opening": "parameters",
    "broken_solvers:Looking": "fake tensors",
    "broken_solvers:Endless": "memory",
    "broken_solvers:Peeking": "evaluations",
}
# The first of each kind's examples that break the same rule.
FIRST = {(path.partition(":")[0], check): (path, check) for path, check in reversed(FAILS.items())}.values()


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Restore the import path and remove modules of the test's own folder."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(BROKEN), *sys.path])
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(BROKEN))):
            del sys.modules[name]


@cache
def result_of(path: str, traced: bool) -> Report:
    """The report of a broken example; the checks that trace a training step take most of the time and run if `traced` only."""
    module, _, name = path.partition(":")
    file = BROKEN / f"{module}.py"
    (one,) = find(load(file), [name])
    checks = tuple(check for check in CONTRACTS[one.kind] if traced or check.run not in (fake_tensors.run, memory.run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONTRACTS, one.kind, checks)
        return check_definition(one, settings_for([one], {})[0], file)


def verdicts(one: Report) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in one.findings}


def written(tmp_path: Path, text: str, name: str = "own_things.py") -> str:
    """A user's file."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


def refused(*arguments: str) -> str:
    """The one-line error of a wrong call."""
    result = call(*arguments)
    assert isinstance(result.exception, UserError), result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("traced", [False, *exhaustive(True)])
@pytest.mark.parametrize(("path", "check"), few(FAILS.items(), FIRST))
def test_a_broken_rule_fails_its_check_alone_and_prints_the_remedy(path: str, check: str, traced: bool) -> None:
    one = result_of(path, traced or check == "memory")
    found = verdicts(one)
    assert [name for name, verdict in found.items() if verdict == "FAIL"] == [check]
    assert not [name for name, verdict in found.items() if verdict == "warn"]
    rule = next(rule for rule in CONTRACTS[one.kind] if rule.name == check)
    assert rule.remedy in " ".join(render(one).split())
    assert max(map(len, render(one, 80).splitlines())) <= 80
    assert render(one, 80).split() == render(one).split()
    skipped = [result.reason for result in one.findings if result.verdict == "skip"]
    own = ("not run until", "no DEQ", "differentiated", "so few different sequences")
    assert all(any(text in reason for text in own) for reason in skipped), skipped


@pytest.mark.parametrize(("path", "check"), WARNS.items())
def test_a_higher_cost_warns_with_the_reason(path: str, check: str) -> None:
    one = result_of(path, check == "fake tensors")
    assert [name for name, verdict in verdicts(one).items() if verdict in ("warn", "FAIL")] == [check]
    (finding,) = (finding for finding in one.findings if finding.verdict == "warn")
    assert finding.reason
    assert not one.failed


def test_every_check_has_something_that_breaks_it() -> None:
    kinds = {path: path.partition(":")[0].removeprefix("broken_").removesuffix("s") for path in (*FAILS, *WARNS)}
    broken = {(kinds[path], check) for path, check in {**FAILS, **WARNS}.items()}
    assert broken == {(kind, check.name) for kind, checks in CONTRACTS.items() for check in checks}


def test_every_broken_example_is_tested() -> None:
    found = {one.path for kind in ("cells", "models", "solvers", "tasks") for one in find(load(BROKEN / f"broken_{kind}.py"))}
    assert found == {*FAILS, *WARNS, "broken_models:Rough"}


def test_an_adjoint_that_is_inexact_by_design_skips_the_gradient() -> None:
    one = result_of("broken_models:Rough", False)
    (gradient,) = (finding for finding in one.findings if finding.check == "gradient")
    assert gradient.verdict == "skip"
    assert "Phantom" in gradient.reason
    assert float(gradient.found.split()[-1]) > 1e-3
    assert not one.failed


def test_a_map_without_a_fixed_point_is_named() -> None:
    (finding,) = (one for one in result_of("broken_cells:Adding", False).findings if one.check == "fixed point")
    assert "no fixed point found: 0 of 24 samples" in finding.found


def test_the_tensor_whose_gradient_is_wrong_is_named() -> None:
    (finding,) = (one for one in result_of("broken_models:Crooked", False).findings if one.check == "gradient")
    assert "layer.weight" in finding.found


def test_an_exception_has_the_line_of_the_users_file() -> None:
    (finding,) = (one for one in result_of("broken_models:Failing", False).findings if one.check == "shapes")
    lines = (BROKEN / "broken_models.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if 'RuntimeError("too' in text)
    assert finding.found == f"RuntimeError: too short (broken_models.py, line {line})"


@pytest.mark.parametrize(
    "make",
    [
        lambda: CopyMemory(T=4, samples=4096, test_samples=1024),
        lambda: StateTracking(group="S3", length=8, test_lengths="8,12"),
        lambda: Sudoku(test_blanks="6,8", test_samples=100),
        lambda: Maze(size=3, test_sizes="3,4", test_samples=100),
        Recall,
        lambda: Agreement(),
        lambda: Agreement(vocabulary=12, classes=3, dependency=2, noise=0.3),
        lambda: Markov(),
        lambda: Markov(states=5, length=8),
    ],
    ids=["copy", "state", "sudoku", "maze", "recall", "agreement", "small agreement", "markov", "small markov"],
)
def test_a_task_of_the_package_keeps_its_contract(make: Any) -> None:
    findings = run_checks(TASK, Subject(make=make))
    assert [finding for finding in findings if finding.verdict not in ("pass", "skip")] == []
    assert {finding.check for finding in findings if finding.verdict == "skip"} <= {
        "splits",
        *(["chance"] if make is Recall else []),
    }


def test_frequencies_score_the_entropies() -> None:
    task = Markov(states=4, length=16, test_samples=2048)
    found = {name: scores(task, predictor)["loss"] for name, predictor in predictors(task).items()}
    chance, optimum = task.metrics["loss"].chance, task.metrics["loss"].optimum
    assert found["uniform"].value == pytest.approx(torch.tensor(4.0).log().item())
    assert found["frequencies"].value == pytest.approx(chance, abs=0.02)
    assert found["frequencies by input"].value == pytest.approx(optimum, abs=0.02)


def test_gradient_errors_detect_an_error_of_a_thousandth() -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
    before = x.detach().clone()
    assert gradient_errors(lambda: x.sin().sum(), {"x": [x]})["x"] < 1e-7
    # x + (x / 1000 as autograd does not see it)
    assert gradient_errors(lambda: (x.sin() + 1e-3 * x.detach().sin()).sum(), {"x": [x]})["x"] > 1e-4
    assert torch.equal(x.detach(), before)


def test_the_distance_is_infinite_where_nothing_can_be_compared() -> None:
    one = torch.ones(2)
    assert distance(one, torch.ones(3)) == float("inf")
    assert distance(torch.tensor([1.0, torch.nan]), one) == float("inf")
    assert distance(torch.tensor([1.0, 4.0]), one) == 1.5
    assert distance(torch.empty(0), torch.empty(0)) == 0.0


def test_a_check_that_needs_a_failed_one_is_not_run() -> None:
    def never(subject: int) -> Result:
        raise ZeroDivisionError("run")

    def one(name: str, good: bool | None, *needs: str) -> Check:
        run = never if good is None else lambda subject: require(good, str(subject))
        return Check(name=name, expected="", remedy="remedy", run=run, needs=needs)

    results = run_checks([one("a", True), one("b", False, "a"), one("c", None, "b"), one("d", None, "c"), one("e", None)], 7)
    assert [one.verdict for one in results] == ["pass", "FAIL", "skip", "skip", "FAIL"]
    assert (results[1].found, results[1].reason) == ("7", "remedy")
    assert results[4].found == "ZeroDivisionError: run"
    assert [one.verdict for one in run_checks([one("a", False), one("b", None)], 7)] == ["FAIL", "skip"]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out a cell's checks that trace training steps: seconds."""
    checks = tuple(check for check in CONTRACTS["cell"] if check.run not in (fake_tensors.run, memory.run))
    monkeypatch.setitem(CONTRACTS, "cell", checks)


class TestCommand:
    def test_a_failure_is_status_1_and_its_remedy_is_printed(self, untraced: None) -> None:
        result = call(str(BROKEN / "broken_cells.py"), "--only", "Ahead")
        assert result.exit_code == 1
        assert "causality" in result.output
        assert "Attention without a causal mask" in " ".join(result.output.split())

    def test_json_says_the_same(self) -> None:
        result = call(str(BROKEN / "broken_tasks.py"), "--only", "FromOne", "--json", "--only", "Contrary")
        assert result.exit_code == 1
        data = json.loads(result.output)
        assert data["failed"] is True
        assert [one["path"] for one in data["checked"]] == ["broken_tasks:FromOne", "broken_tasks:Contrary"]
        findings = {one["check"]: one for one in data["checked"][0]["findings"]}
        assert findings["ids"]["verdict"] == "FAIL"
        assert findings["ids"]["found"] == "1..8, vocabulary 8"
        assert findings["splits"]["reason"] == "not run until ids passes"

    def test_settings_reach_what_takes_them(self) -> None:
        result = call(str(EXAMPLES / "my_task.py"), "--set", "symbols=3", "--set", "lag=2")
        assert result.exit_code == 0, result.output
        assert "task my_task:Lookback (symbols 3, lag 2)" in result.output
        assert "3 ids" in result.output

    def test_a_width_is_that_of_the_cell(self, untraced: None) -> None:
        result = call(str(EXAMPLES / "my_cell.py"), "--set", "width=6", "--json")
        (one,) = json.loads(result.output)["checked"]
        assert one["settings"] == {"width": 6}
        assert one["parameters"] == (12 * 6 + 6) + 2 * (6 * 6 + 6)

    def test_the_global_generator_is_restored(self) -> None:
        before = torch.random.get_rng_state()
        result_of.__wrapped__("broken_models:Idle", False)
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("def (", ["fails on import", "SyntaxError"]),
            ("import no_such_module_at_all", ["fails on import", "no_such_module_at_all", "line 1"]),
            ("\nraise SystemExit('bye\\nbye')", ["fails on import", "SystemExit: bye bye", "line 2"]),
            ("1 / 0", ["ZeroDivisionError", "line 1"]),
            ("", ["defines no Cell, Core, Solver"]),
            ("SPECS = []", ["it is a suite", "files that it names"]),
            ("from deq import Cell, MLPCell", ["defines no Cell"]),
            (
                "from deq import MLPCell\nclass Own(MLPCell):\n    def __init__(self, *, width, rank):\n        pass",
                ["needs the setting 'rank'", "--set NAME=VALUE"],
            ),
            ("from deq import MLPCell\nclass Own(MLPCell):\n    def __init__(self):\n        pass", ["takes no 'width'"]),
            ("from deq import Cell\nclass Own(Cell):\n    pass", ["Own", "abstract", "bind"]),
            (
                "from deq import Core\nclass Own(Core):\n    def __init__(self, *, inputs, width):\n"
                "        raise KeyError('a\\nb')\n"
                "    def forward(self, x, memory=None):\n        pass",
                ["cannot be made", "KeyError", "line 4"],
            ),
            ("class Own:\n    def init(self, z, steps): ...\n    def step(self, f, z, fz, memory): ...", ["must have init, step"]),
            ("from deq import Core\ndef make(*, inputs, width) -> Core:\n    return 7", ["made a int"]),
            ("from bench.tasks.task import Task\nclass Own(Task):\n    pass", ["Own", "abstract"]),
        ],
    )
    def test_an_unusable_file_is_refused_in_one_line(self, tmp_path: Path, text: str, parts: list[str]) -> None:
        line = refused(written(tmp_path, text))
        assert all(part in line for part in parts), line

    def test_the_others_are_checked_where_one_of_several_cannot_be_made(self, tmp_path: Path) -> None:
        text = "class Bad:\n    def init(self, z, steps): ...\n    def step(self, f, z, fz, memory): ...\n"
        file = written(tmp_path, text + "from deq import Picard\nclass Good(Picard): ...\n", "own_pair.py")
        result = call(file)
        assert result.exit_code == 1
        assert "must have init, step" in result.output
        assert "solver own_pair:Good" in result.output
        data = json.loads(call(file, "--json").output)
        assert data["failed"]
        assert ["must have init, step" in line for line in data["refused"]] == [True]
        assert [one["path"] for one in data["checked"]] == ["own_pair:Good"]

    def test_a_file_whose_name_no_suite_can_use_is_refused(self, tmp_path: Path) -> None:
        text = "from deq import MLPCell\nclass Own(MLPCell): ..."
        assert "no dots" in refused(written(tmp_path, text, "own.things.py"))
        assert "'json' exists already" in refused(written(tmp_path, text, "json.py"))
        assert "'sys' exists already (built in)" in refused(written(tmp_path, text, "sys.py"))
        assert "does not exist" in refused(str(tmp_path / "nothing.py"))
        assert "is not a Python file" in refused(str(tmp_path))
        assert "is not a Python file" in refused(written(tmp_path, text, "own.txt"))

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["--only", "Gat"], ["unknown name in my_cell.py 'Gat'", "did you mean 'Gate'"]),
            (["--only", "functional"], ["functional in my_cell.py is no Cell"]),
            (["--set", "gian=0.3"], ["unknown setting 'gian'", "'gain'"]),
            (["--set", "gain"], ["settings are NAME=VALUE, got 'gain'"]),
            (["--set", "gain=1", "--set", "gain=2"], ["given twice"]),
            (["--set", "gain=high"], ["gain", "'high'"]),
            (["--set", "width=0"], ["width must be a positive integer, got 0"]),
            (["--set", "width=wide"], ["width must be a positive integer, got 'wide'"]),
        ],
    )
    def test_a_wrong_option_is_one_line(self, arguments: list[str], parts: list[str]) -> None:
        line = refused(str(EXAMPLES / "my_cell.py"), *arguments)
        assert all(part in line for part in parts), line


class TestFinding:
    def test_imported_and_private_names_are_skipped_unless_named(self, tmp_path: Path) -> None:
        text = "from deq import MLPCell, Picard\nclass _Hidden(MLPCell): ...\nclass Own(MLPCell): ...\n"
        module = load(Path(written(tmp_path, text, "own_names.py")))
        assert [(one.kind, one.path) for one in find(module)] == [("cell", "own_names:Own")]
        named = find(module, ["_Hidden", "Picard"])
        assert [(one.kind, one.path) for one in named] == [("cell", "own_names:_Hidden"), ("solver", "own_names:Picard")]

    def test_an_abstract_parent_is_skipped(self, tmp_path: Path) -> None:
        text = "from deq import Cell\nclass Parent(Cell): ...\nclass Own(Parent):\n    def bind(self, x, memory=None): ...\n"
        module = load(Path(written(tmp_path, text, "own_parents.py")))
        assert [one.path for one in find(module)] == ["own_parents:Own"]

    def test_a_function_has_the_kind_of_its_annotation(self, tmp_path: Path) -> None:
        text = (
            "from __future__ import annotations\nfrom deq import Core, Cell, Anderson\nfrom bench.tasks.markov import Markov\n"
            "def core(inputs, width): ...\ndef cell(*, width: int) -> Cell: ...\ndef solver() -> Anderson: ...\n"
            "def task() -> Markov: ...\ndef other(x: int) -> int: ...\ndef strange(x) -> Nowhere: ...\nNUMBER = 7\n"
        )
        module = load(Path(written(tmp_path, text, "own_functions.py")))
        kinds = {one.path.partition(":")[2]: one.kind for one in find(module)}
        assert kinds == {"core": "model", "cell": "cell", "solver": "solver", "task": "task"}

    def test_other_objects_have_no_kind(self) -> None:
        assert kind_of(7) is None
        assert kind_of(int) is None
        assert kind_of(Cell) == "cell"

    def test_a_setting_goes_to_those_that_take_it_alone(self) -> None:
        found = find(load(EXAMPLES / "my_cell.py")) + find(load(EXAMPLES / "my_solver.py"))
        given: Settings = {"gain": 0.3, "longest": 2.0, "width": 8}
        assert settings_for(found, given) == [{"gain": 0.3, "width": 8}, {"longest": 2.0}]

    def test_values_are_parsed_by_their_form(self) -> None:
        wanted = {"a": 1, "b": 0.5, "c": True, "d": None, "e": "x=y"}
        assert parse_settings(["a=1", "b=.5", "c=true", "d=none", "e=x=y"]) == wanted
