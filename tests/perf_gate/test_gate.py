"""The gate catches every kind of regression by its own count, and passes unchanged code."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import exhaustive
from torch import Tensor, nn

import bench.perf_gate.counts as counts
import deq.adjoints.adjoint
import deq.adjoints.implicit
from bench.cli.develop import counted
from bench.cli.main import main
from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.instruments.operators import operations
from bench.perf_gate import show
from bench.perf_gate.accepted import Difference, accept, differences, read_accepted
from bench.perf_gate.counts import Quantity, count
from bench.perf_gate.timing import LEAST, ROUNDS, Benchmarks, Reading, TimingComparison, compare, decide, interval, judge
from bench.records.errors import UserError
from bench.records.spec import RunSpec
from bench.training.language_model import LanguageModel
from deq import Anderson, Map, Solution, Solver, Stop, solve

pytestmark = pytest.mark.end_to_end

LABELS = ("DEQ (Anderson)", "tied 12")
MODELS = ("gate, ", "copy, ")  # the names of the counts of models and data begin so
ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"a / bytes": Quantity(value=100, unit="B"), "b / steps": Quantity(value=10, unit="steps", tolerance=1)}


@pytest.fixture(scope="module")
def few() -> Plan:
    """A DEQ and its unrolling."""
    _, entries = load_suite("gate", {})
    return Plan([entry for entry in entries if isinstance(entry, RunSpec) and entry.label in LABELS])


@pytest.fixture(scope="module")
def usual(few: Plan) -> dict[str, Quantity]:
    return count(few)


def caught(few: Plan, usual: Mapping[str, Quantity], solvers: bool = True) -> dict[str, Difference]:
    """The differences; without `solvers`, those of the models alone."""
    found = count(few, solvers=solvers)
    known = {name: one for name, one in usual.items() if solvers or name.startswith(MODELS)}
    return {one.name: one for one in differences(known, found)}


class TestExact:
    """Every injected change is caught, and other counts stay."""

    def test_the_same_code_has_the_same_counts(self, few: Plan, usual: Mapping[str, Quantity]) -> None:
        torch.manual_seed(17)
        torch.rand(5)
        assert caught(few, usual) == {}

    def test_an_extra_iteration(self, few: Plan, usual: Mapping[str, Quantity], monkeypatch: pytest.MonkeyPatch) -> None:
        def longer(f: Map, z: Tensor, solver: Solver, stop: Stop, **image: Any) -> Solution:
            """Solve with one more evaluation."""
            first = solve(f, z, solver, stop, **image)
            return solve(f, z, solver, dataclasses.replace(stop, rtol=None, max_steps=first.nfe + 1), **image)

        for module in (deq.adjoints.adjoint, deq.adjoints.implicit):
            monkeypatch.setattr(module, "solve", longer)
        found = caught(few, usual)
        assert found["solve block, anderson / forward evaluations to 1e-06, float64"].change.startswith("+1 ")
        assert found["solve contraction, picard / backward evaluations to 0.001, float64"].change.startswith("+1 ")
        assert "gate, DEQ (Anderson) / FLOPs a step" in found
        assert not any("tied" in name or "data" in name for name in found)

    def test_a_worse_solver_is_seen_in_the_suite_alone(
        self, few: Plan, usual: Mapping[str, Quantity], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of a user's suite, of which the library's solvers are not counted."""
        step = Anderson.step

        def halved(self: Anderson, f: Map, z: Tensor, fz: Tensor, memory: Any) -> Any:
            proposed, *others = step(self, f, z, fz, memory)
            return z + 0.5 * (proposed - z), *others

        monkeypatch.setattr(Anderson, "step", halved)
        found = caught(few, usual, solvers=False)
        for phase in ("forward", "backward"):
            one = found[f"gate, DEQ (Anderson) / {phase} evaluations of the last step, float64"]
            assert one.found is not None
            assert one.found > one.accepted + 1
        assert not any("tied" in name for name in found)

    def test_an_extra_saved_tensor(self, few: Plan, usual: Mapping[str, Quantity], monkeypatch: pytest.MonkeyPatch) -> None:
        embed = LanguageModel.embed
        monkeypatch.setattr(LanguageModel, "embed", lambda self, tokens: (x := embed(self, tokens)) * torch.ones_like(x))
        found = caught(few, usual, solvers=False)
        extra = 4 * 8 * 30 * 16  # bytes of batch x length x width
        for label in LABELS:
            saved = found[f"gate, {label} / saved for backward"]
            assert isinstance(saved.found, int)
            assert isinstance(saved.accepted, int)
            assert saved.found - saved.accepted == extra
        assert not any("evaluations" in name or "parameters" in name for name in found)

    def test_an_extra_parameter(self, few: Plan, usual: Mapping[str, Quantity], monkeypatch: pytest.MonkeyPatch) -> None:
        build = counts.build_model

        def larger(*arguments: Any) -> LanguageModel:
            model = build(*arguments)
            model.register_parameter("idle", nn.Parameter(torch.zeros(1)))
            return model

        monkeypatch.setattr(counts, "build_model", larger)
        found = caught(few, usual, solvers=False)
        assert {one.change.partition(" ")[0] for name, one in found.items() if "parameters" in name} == {"+1"}

    def test_an_extra_host_sync(self, few: Plan, usual: Mapping[str, Quantity], monkeypatch: pytest.MonkeyPatch) -> None:
        step = Anderson.step

        def slow(self: Anderson, f: Map, z: Tensor, fz: Tensor, memory: Any) -> Any:
            z.sum().item()
            return step(self, f, z, fz, memory)

        monkeypatch.setattr(Anderson, "step", slow)
        found = caught(few, usual)
        assert found["anderson, 8 late steps / host syncs"].change.startswith("+8 ")
        assert "gate, DEQ (Anderson) / host syncs a step" in found
        assert not any("host syncs" in name for name in found if "nderson" not in name)

    @pytest.mark.parametrize(
        ("run", "syncs"),
        [
            (lambda x: x + x, 0),
            (lambda x: x[x > 0], 1),
            (lambda x: x.clone().index_put_((x > 0,), torch.zeros(())), 1),
            (lambda x: x[torch.tensor([0])], 0),
            (lambda x: torch.linalg.solve(torch.eye(3), x), 1),
            (lambda x: torch.linalg.solve_ex(torch.eye(3), x), 0),
            (lambda x: bool(x.sum() > 0), 1),
        ],
    )
    def test_host_syncs_of_operators(self, run: Callable[[Tensor], object], syncs: int) -> None:
        x = torch.ones(3, 1)
        assert operations(lambda: run(x)).syncs == syncs

    def test_an_improvement_differs_too(self) -> None:
        (one,) = differences(COUNTS, COUNTS | {"a / bytes": Quantity(value=80, unit="B")})
        assert one.change == "-20 (-20.0 %)"

    @pytest.mark.parametrize(("value", "differs"), [(9, False), (11, False), (12, True), (8, True), (None, True)])
    def test_the_tolerance_is_that_of_the_accepted_count(self, value: int | None, differs: bool) -> None:
        found = differences(COUNTS, COUNTS | {"b / steps": Quantity(value=value, unit="steps", tolerance=99)})
        assert bool(found) == differs

    def test_new_and_missing_counts_differ(self) -> None:
        found = {one.name: one.change for one in differences(COUNTS, {"c / new": Quantity(value="x", unit="SHA-256")})}
        assert found == {"a / bytes": "gone", "b / steps": "gone", "c / new": "new"}
        (one,) = differences({"d": Quantity(value="x", unit="1")}, {"d": Quantity(value="y", unit="1")})
        assert one.change == "other"

    def test_the_accepted_counts_are_those_of_the_code_that_is_here(self) -> None:
        """The gate's exact tier."""
        known = read_accepted(ROOT / "results" / "gate" / "expected.json")
        version = torch.__version__.partition("+")[0]
        if version not in known:
            pytest.skip(f"no counts have been accepted for torch {version}")
        assert differences(known[version], counted("gate")) == []


class TestAccept:
    def test_it_writes_the_counts_and_the_reason(self, tmp_path: Path) -> None:
        file, changes = tmp_path / "gate" / "expected.json", tmp_path / "CHANGELOG.md"
        changes.write_text("# Changes\n\n## 2.0\n\n- One.\n  More of it.\n\n## 1.0\n\n- Old.\n")
        assert len(accept(file, "2.13.0", COUNTS, "the\nfirst", changes)) == 2
        assert accept(file, "2.13.0", COUNTS, "again", changes) == []
        better = COUNTS | {"a / bytes": Quantity(value=80, unit="B")}
        accept(file, "2.13.0", better, "saves less", changes)
        accept(file, "2.14.0", COUNTS, "a new torch", changes)
        assert read_accepted(file) == {"2.13.0": better, "2.14.0": COUNTS}
        assert changes.read_text() == (
            "# Changes\n\n## 2.0\n\n- One.\n  More of it.\n"
            "- Gate, torch 2.13.0: the first (2 counts are new).\n"
            "- Gate, torch 2.13.0: saves less (a / bytes -20 (-20.0 %)).\n"
            "- Gate, torch 2.14.0: a new torch (2 counts are new).\n\n## 1.0\n\n- Old.\n"
        )

    def test_a_missing_change_log_is_created(self, tmp_path: Path) -> None:
        accept(tmp_path / "expected.json", "2", COUNTS, "first", tmp_path / "C.md")
        assert (tmp_path / "C.md").read_text() == "# Changes\n\n## Unreleased\n\n- Gate, torch 2: first (2 counts are new).\n"

    def test_an_empty_reason_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--why"):
            accept(tmp_path / "expected.json", "2", COUNTS, " \n", tmp_path / "C.md")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("content", ["", "[]", '{"2": {"a": 1}}', '{"2": {"a": {"value": 1, "unit": "B", "more": 1}}}'])
    def test_a_damaged_file_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "e.json").write_text(content)
        with pytest.raises(UserError, match=r"e\.json is damaged"):
            read_accepted(tmp_path / "e.json")


def reading(seconds: float, spread: float = 0.0, wall: float | None = None) -> Reading:
    """A reading whose quartiles lie `spread` (of the median) away."""
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    return Reading(cpu_s=seconds, wall_s=wall or seconds, cpu_low_s=low, cpu_high_s=high)


def job(
    chance: np.random.Generator, effect: float, noise: float = 0.012, spoilt: float = 0.05
) -> Callable[[str], dict[str, Reading]]:
    """Simulate a machine that drifts, with `noise` per process and a few processes up to a third slower."""
    drift = [0.0]

    def run(side: str) -> dict[str, Reading]:
        drift[0] += chance.normal(0, 0.01)
        off = chance.normal(0, noise) + (chance.uniform(0, 0.3) if chance.random() < spoilt else 0.0)
        return {"it": reading(1e-3 * math.exp(drift[0] + off + (effect if side == "head" else 0.0)))}

    return run


ONE = reading(1e-3)
ROOM = 21  # rounds of ten benchmarks within the default budget, on two cores


def verdicts(effect: float, jobs: int = 100, **machine: float) -> list[str]:
    found = []
    for number in range(jobs):
        run = job(np.random.default_rng(number), effect, **machine)
        found.append(compare(run, budget_s=math.inf, max_rounds=ROOM, seed=number).effects()["it"].verdict)
    return found


class TestTiming:
    def test_five_percent_slower_is_caught_in_95_of_100_jobs(self) -> None:
        assert verdicts(math.log(1.05)).count("regression") >= 95

    def test_the_same_code_is_called_slower_in_5_of_100_jobs_at_most(self) -> None:
        found = verdicts(0.0)
        assert found.count("regression") <= 5
        assert found.count("pass") >= 90

    @pytest.mark.exhaustive
    def test_the_same_code_fails_5_of_100_jobs_of_ten_benchmarks_at_most(self) -> None:
        failed = 0
        for number in range(24):
            each = [job(np.random.default_rng(1000 * number + one), 0.0) for one in range(10)]

            def run(side: str, each: list[Callable[[str], dict[str, Reading]]] = each) -> dict[str, Reading]:
                return {str(name): one(side)["it"] for name, one in enumerate(each)}

            found = compare(run, budget_s=math.inf, max_rounds=ROOM, seed=number).effects()
            failed += any(effect.verdict == "regression" for effect in found.values())
        assert failed <= 0.05 * 24

    @pytest.mark.exhaustive
    def test_a_noisy_machine_is_inconclusive(self) -> None:
        found = verdicts(math.log(1.05), jobs=30, noise=0.2)
        assert found.count("inconclusive") >= 25
        assert verdicts(0.0, jobs=30, noise=0.2).count("regression") <= 2

    @pytest.mark.exhaustive
    def test_a_fifth_faster_is_faster_and_no_regression(self) -> None:
        assert verdicts(math.log(0.8), jobs=60).count("faster") >= 57
        assert "regression" not in verdicts(math.log(0.95), jobs=60)

    def test_the_interval_covers_the_mean_in_95_percent(self) -> None:
        chance = np.random.default_rng(0)
        hits = 0
        for _ in range(2000):
            low, high = interval(chance.normal(0.3, 1.0, 12).tolist())
            hits += low <= 0.3 <= high
        assert 0.93 <= hits / 2000 <= 0.97

    def test_one_slow_process_does_not_move_the_interval(self) -> None:
        values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
        assert interval([*values[:-1], 1000.0]) == interval(values)

    def test_too_few_rounds_pass_nothing_and_say_so(self) -> None:
        effect = decide([0.0] * (ROUNDS - 1), [0.0] * (ROUNDS - 1))
        assert (effect.verdict, effect.reason) == ("inconclusive", "5 of 6 rounds")
        assert decide([0.0] * ROUNDS, [0.0] * ROUNDS).verdict == "pass"
        assert decide([], []).verdict == "inconclusive"

    def test_an_interval_above_the_threshold_is_a_regression_after_any_rounds(self) -> None:
        effect = decide([5.15, 4.9, 5.3], [0.3, -0.2, 0.1])
        assert effect.low > effect.threshold > LEAST
        assert (effect.verdict, effect.reason) == ("regression", "")
        unsure = decide([0.5, 0.1, 0.9], [0.0, 0.0, 0.0])
        assert unsure.low < LEAST
        assert unsure.verdict == "inconclusive"
        effect = decide([0.5] * ROUNDS, [0.0] * ROUNDS)
        assert (effect.low, effect.mean, effect.high) == pytest.approx((0.5, 0.5, 0.5))

    def test_noise_is_named_where_it_keeps_a_verdict_away(self) -> None:
        effect = decide([-0.4, 0.4] * 4, [-0.4, 0.4] * 4)
        assert effect.verdict == "inconclusive"
        assert effect.reason.startswith("noise of ")
        assert effect.reason.endswith(" %")

    def test_twice_the_time_is_a_regression_after_one_round(self) -> None:
        base, again = reading(1.0, 0.1), reading(1.1, 0.1)
        assert judge([(base, reading(2.1, 0.1), again)]).verdict == "regression"
        assert judge([(base, reading(1.6, 0.1), again)]).verdict == "inconclusive"  # 1.44 over 1.21
        assert judge([(base, reading(2.1, 0.4), again)]).verdict == "inconclusive"  # 1.26 over 1.21
        assert judge([(base, reading(2.1, 0.1), again), (base, reading(1.6, 0.1), again)]).verdict == "inconclusive"

    def test_processor_time_decides_where_wall_time_does_not_and_wall_time_sees_waiting(self) -> None:
        chance = np.random.default_rng(0)

        def rounds(head_wall: float, noise: float) -> list[tuple[Reading, Reading, Reading]]:
            def one(wall: float) -> Reading:
                return reading(1e-3, wall=wall * 1e-3 * math.exp(chance.normal(0, noise)))

            return [(one(1.0), one(head_wall), one(1.0)) for _ in range(8)]

        loaded = judge(rounds(1.0, noise=0.5))
        assert (loaded.verdict, loaded.clock) == ("pass", "cpu")
        waiting = judge(rounds(1.3, noise=0.01))
        assert (waiting.verdict, waiting.clock) == ("regression", "wall")

    def test_the_threshold_is_three_percent_or_twice_the_floor(self) -> None:
        assert decide([0.0] * 8, [0.0] * 8).threshold == LEAST == math.log1p(0.03)
        loud = decide([0.0] * 8, [-0.1, 0.1] * 4)
        assert loud.threshold == 2 * loud.floor > 0.1

    def test_each_round_has_both_sides_in_random_order(self) -> None:
        ran: list[str] = []

        def run(side: str) -> dict[str, Reading]:
            ran.append(side)
            found = {"it": reading(1.0 + 0.5 * (len(ran) % 2), 0.5)}
            return found | {"head only": reading(1.0)} if side == "head" else found

        found = compare(run, budget_s=math.inf, max_rounds=12)
        assert len(found.rounds) == 12
        rounds = [ran[start : start + 3] for start in range(0, 36, 3)]
        assert all(sorted(one) == ["base", "base", "head"] for one in rounds)
        assert len({tuple(one) for one in rounds}) == 3
        assert found.names == ["it"]
        assert found.missing == ["head only"]
        assert found.lost == []

    def test_a_benchmark_that_head_no_longer_runs_is_lost(self) -> None:
        found = TimingComparison("a", "b", [({"x": ONE, "y": ONE}, {"x": ONE}, {"x": ONE, "y": ONE})])
        assert (found.names, found.lost) == (["x"], ["y"])
        assert "ran in the base alone: y" in show.text(None, 0, found)

    def test_so_is_one_that_fails_in_a_round(self) -> None:
        both = {"x": ONE, "y": ONE}
        found = TimingComparison("a", "b", [(both, both, both), (both, {"x": ONE}, both)])
        assert (found.names, found.missing, found.lost) == (["x"], [], ["y"])

    def test_a_round_that_would_exceed_the_budget_does_not_start(self) -> None:
        time = [0.0]

        def run(side: str) -> dict[str, Reading]:
            time[0] += 10.0
            return {"it": reading(time[0] % 7 + 1, 0.9)}

        found = compare(run, budget_s=100.0, clock=lambda: time[0])
        assert len(found.rounds) == 3


def shown() -> tuple[list[Difference], TimingComparison]:
    found = TimingComparison(
        "abc", "def|x", [({"a[x]": ONE, "b": ONE}, {"a[x]": reading(1.2e-3), "b": ONE}, {"a[x]": ONE, "b": ONE})] * 8
    )
    return differences(COUNTS, COUNTS | {"a / bytes": Quantity(value=120, unit="B")}), found


class TestShow:
    def test_markdown_has_the_verdicts_first_and_escapes(self) -> None:
        text = re.sub(" +", " ", show.markdown(shown()[0], 2, shown()[1]))
        first = text.splitlines()[2]
        assert first.startswith("- exact tier: 1 of 2 counts differ from the accepted ones (1 more, 0 less); if that is meant: ")
        assert r"def\|x against abc: 1 pass, 1 REGRESSION (8 rounds" in text
        assert r"| a / bytes | 100 | 120 | B | +20 (+20.0 %) |" in text
        assert r"| a\[x\] | 1 | 1.2 | +20.0 | \[+20.0, +20.0\] | 0.0 | 3.0 | cpu | REGRESSION |" in text

    def test_json_has_the_same_content(self) -> None:
        data = json.loads(json.dumps(show.as_data(shown()[0], 2, shown()[1], True), allow_nan=False))
        assert data["exact"]["differences"][0]["found"] == 120
        assert data["timing"]["benchmarks"]["a[x]"]["verdict"] == "regression"
        assert data["timing"]["benchmarks"]["b"]["log_ratio"] == 0

    def test_unknown_numbers_are_null(self) -> None:
        found = TimingComparison("a", "b", [({"x": ONE}, {"x": ONE}, {"x": ONE})])
        data = json.loads(json.dumps(show.as_data(None, 0, found, False), allow_nan=False))
        assert data["timing"]["benchmarks"]["x"]["low"] is None


def gate(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder.parent)}
    return subprocess.run(
        [sys.executable, "-m", "bench", "gate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )


def gate_here(folder: Path, patch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit status of the command in this process."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["bench", "gate", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's own repository: a function, its benchmark, and a commit."""
    folder = tmp_path / "own"
    (folder / "speed").mkdir(parents=True)
    (folder / "work.py").write_text("def work():\n    return sum(range(20_000))\n")
    (folder / "speed" / "test_speed.py").write_text("from work import work\n\n\ndef test_work(benchmark):\n    benchmark(work)\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def test_options_of_a_surrounding_pytest_do_not_reach_the_benchmarks(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    (folder := tmp_path / "times").mkdir()
    (found,) = Benchmarks(project / "speed", folder).run(project).values()
    assert 0 < found.cpu_low_s <= found.cpu_s <= found.cpu_high_s
    assert found.wall_s == pytest.approx(found.cpu_s, rel=0.5)


@pytest.mark.alone
class TestOwnProject:
    def test_slower_code_fails_in_every_format(self, project: Path) -> None:
        (project / "work.py").write_text("def work():\n    return sum(range(80_000))\n")
        git(project, "commit", "-qam", "two")
        done = gate(
            project,
            *("--against", "HEAD~1", "--head", "HEAD", "--benchmarks", "speed", "--budget", "600"),
            *("--markdown", "sum.md", "--json"),
        )
        assert done.returncode == 1, done.stdout + done.stderr
        data = json.loads(done.stdout)
        one = data["timing"]["benchmarks"]["test_speed.py::test_work"]
        assert one["verdict"] == "regression"
        assert 2 < math.exp(one["log_ratio"]) < 8  # 4, after one round
        assert "REGRESSION" in (project / "sum.md").read_text()
        worktrees = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True, check=True).stdout
        assert len(worktrees.splitlines()) == 1

    @pytest.mark.exhaustive
    def test_the_same_code_does_not_fail(self, project: Path) -> None:
        done = gate(project, "--against", "HEAD", "--head", "HEAD", "--benchmarks", "speed", "--budget", "45", "--json")
        assert done.returncode in (0, 3), done.stdout + done.stderr
        data = json.loads(done.stdout)["timing"]
        assert data["rounds"] >= ROUNDS, "too few rounds"
        assert data["benchmarks"]["test_speed.py::test_work"]["verdict"] in ("pass", "inconclusive", "faster")

    @pytest.mark.exhaustive
    def test_twice_the_time_is_caught_in_one_round_on_a_loaded_machine(self, project: Path) -> None:
        (project / "work.py").write_text("def work():\n    return sum(range(40_000))\n")
        git(project, "commit", "-qam", "two")
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
        try:
            done = gate(project, "--against", "HEAD~1", "--head", "HEAD", "--benchmarks", "speed", "--budget", "1", "--json")
        finally:
            for process in load:
                process.kill()
        assert done.returncode == 1, done.stdout + done.stderr
        data = json.loads(done.stdout)["timing"]
        assert data["rounds"] == 1
        assert data["benchmarks"]["test_speed.py::test_work"]["verdict"] == "regression"

    def test_undecided_times_have_a_status_of_their_own(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        status = gate_here(project, monkeypatch, "--against", "HEAD", "--head", "HEAD", "--benchmarks", "speed", "--budget", "1")
        said = capfd.readouterr()
        assert status == 3, said
        assert "inconclusive (1 of 6 rounds)" in said.out


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ({"x": ONE, "y": ONE}, 0),
        ({"x": ONE}, 1),  # lost: it no longer runs
        ({"x": ONE, "y": reading(2e-3)}, 1),
        ({"x": ONE, "y": ONE, "new": ONE}, 0),
    ],
)
def test_the_exit_status_is_1_if_a_benchmark_got_slower_or_is_lost(
    project: Path, head: dict[str, Reading], status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    both = {"x": ONE, "y": ONE}
    monkeypatch.setattr(
        "bench.perf_gate.timing.compare", lambda *_, **__: TimingComparison("a", "b", [(both, head, both)] * ROUNDS)
    )
    found = gate_here(project, monkeypatch, "--against", "HEAD", "--head", "HEAD", "--benchmarks", "speed")
    assert found == status, capfd.readouterr()


class TestOwnCounts:
    @pytest.mark.exhaustive
    def test_a_users_suite_is_counted(self, project: Path) -> None:
        (project / "mine.py").write_text(
            "from bench.records.spec import ComponentConfig, RunSpec, TrainConfig\n"
            "SPECS = [RunSpec(group='g', label='GRU', seed=0, train=TrainConfig(steps=9, batch=4, learning_rate=1e-2),\n"
            "    model=ComponentConfig(name='gru', settings={'width': 4}),\n"
            "    task=ComponentConfig(name='copy', settings={'T': 5, 'samples': 100}))]\n"
        )
        own = ("--suite", "mine.py", "--expected", "own.json")
        missing = gate(project, "--exact", *own)
        assert missing.returncode == 2
        assert "bench gate accept" in missing.stderr
        assert gate(project, "accept", "--why", "first", *own).returncode == 0
        assert "all 8 counts as accepted" in gate(project, "--exact", *own).stdout
        suite = (project / "mine.py").read_text()
        (project / "mine.py").write_text(suite.replace("'width': 4", "'width': 5"))
        worse = gate(project, "--exact", *own)
        assert worse.returncode == 1
        assert "g, GRU / parameters" in worse.stdout

    def test_benchmarks_need_their_package(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert gate_here(project, monkeypatch, "--against", "HEAD") == 2
        assert "pytest-benchmark is not installed" in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--against", "nowhere", "--head", "HEAD"), "git rev-parse"),
            *exhaustive(
                (("--against", "HEAD", "--head", "HEAD", "--benchmarks", "work.py"), "no benchmark ran"),
                (("--against", "HEAD", "--head", "HEAD", "--benchmarks", "none"), "no benchmarks at"),
                (("--exact", "--against", "HEAD"), "give one of them"),
                (("--head", "HEAD"), "belongs to --against"),
                (("--exact", "--markdown", "no/such/place.md"), "cannot write no/such/place.md"),
            ),
        ],
    )
    def test_a_wrong_call_is_a_line_and_status_2(
        self,
        project: Path,
        arguments: tuple[str, ...],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        assert gate_here(project, monkeypatch, *arguments) == 2
        said = capfd.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
