"""The command line: errors are one line and exit status 2, commands are idempotent, Ctrl-C loses nothing."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cases import exhaustive, product
from running import PATIENCE_S, own_locks

from bench.cli.main import main
from bench.cli.options import parse_seeds
from bench.execution.engines.local import Local
from bench.records.record import Record, read_record, write_record

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
from bench import Comparison, ComponentConfig, ModelEntry, RunSpec, TrainConfig

ECHO = ComponentConfig(name="user_models:Echo")
TRAIN = TrainConfig(steps=4, batch=4, learning_rate=0.01, evaluation_batch=8, evaluate_every=2)
SPECS = [
    Comparison(
        group="echo",
        task=ECHO,
        train=TRAIN,
        rows={
            "DEQ": ModelEntry(model=ComponentConfig(name="deq", settings={"cell": "mlp", "width": 4, "steps": 4})),
            "mean": ModelEntry(model=ComponentConfig(name="user_models:Averages", settings={"width": 9, "inputs": 4})),
        },
        reference="DEQ",
        learning_rates=(0.01, 0.02),
        trial_steps=2,
        seeds=(0,),
        depths=(2, 3),
    ),
    RunSpec(group="failing", label="NaN at 2", task=ECHO, train=TRAIN, seed=0, expected="diverged",
         model=ComponentConfig(name="user_models:FailingModel", settings={"width": 4, "how": "nan", "at": 2})),
]
"""
ANOTHER_HEADLINE = """RunSpec(group="echo", label="l", train=TRAIN, seed=0,
         model=ComponentConfig(name="gru", settings={"width": 4}),
         task=ComponentConfig(name="user_models:Echo", settings={"headline": "loss"}))"""
ANOTHER_CHANCE = ANOTHER_HEADLINE.replace('"headline": "loss"', '"symbols": 7')
SLEEPER = """
from bench import ComponentConfig, RunSpec, TrainConfig

def one(label, how, seed):
    settings = {"width": 4, "how": how, "at": 2, "folder": FOLDER, "wait_s": 600.0}
    return RunSpec(group="g", label=label, model=ComponentConfig(name="user_models:FailingModel", settings=settings), seed=seed,
                task=ComponentConfig(name="user_models:Echo"),
                train=TrainConfig(steps=3, batch=4, learning_rate=0.01, evaluation_batch=8))

SPECS = [one("quick", "none", 0), one("sleeper", "sleep", 1)]
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use own machine locks, for as long as the fork server lives."""
    with own_locks(tmp_path_factory) as patch:
        patch.setenv("COLUMNS", "200")
        yield


def call(patch: pytest.MonkeyPatch, arguments: tuple[object, ...]) -> int:
    """Call main() as a shell does; return its exit status."""
    patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in this process, in the test's own folder; return status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = call(monkeypatch, arguments)
        return (status, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.py and the results of its runs."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mine.py").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, ("run", "mine.py", "--device", "cpu", "--engine", "inline", "--json")) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`, for tests that change it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a run is started."""

    def submit(self: Local, job: Any) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(Local, "submit", submit)


def refused(cli: Cli, folder: Path, arguments: tuple[object, ...], *texts: str) -> None:
    """Exit status 2, one line on stderr with these texts (apart from progress), and no file changed."""
    before = snapshot(folder)
    status, out, err = cli(*arguments)
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith(("suite mine: ", "learning-rate trials: ", "final runs: "))]
    assert len(lines) == 1, err
    assert len(err) < 600
    for part in texts:
        assert part in err
    assert snapshot(folder) == before


@pytest.mark.usefixtures("no_run")
class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (("run", "smok"), ["unknown suite 'smok'", "did you mean 'smoke'"]),
            (("run", "absent.py"), ["absent.py does not exist"]),
            (("run", "text"), ["--data NAME=PATH"]),
            (("run", "text", "--data", "a=absent.txt"), ["absent.txt does not exist"]),
            (("run", "text", "--data", "corpus.txt"), ["NAME=PATH"]),
            (("run", "text", "--data", "a="), ["the path is missing", "NAME=PATH"]),
            (("run", "text", "--data", "=corpus.txt"), ["NAME=PATH"]),
            (("run", "text", "--data", "../a=corpus.txt"), ["NAME=PATH"]),
            (("run", "text", "--data", "a=corpus.txt", "--data", "a=corpus.txt"), ["named twice"]),
            (("run", "text", "--data", "a=empty.txt"), ["empty"]),
            (("run", "text", "--data", "a=latin.txt"), ["latin.txt", "not UTF-8", "0xe9"]),
            (("run", "text", "--data", "a=short.txt"), ["length 64"]),
            (("run", "text", "--data", "a=nothing"), ["nothing"]),
            *(
                (("run", "smoke", "--seeds", text), ["--seeds"])
                for text in ("", "a", "3-1", "0,0", "0-", "-1", "1.5", "0-99999", "0,,1")
            ),
            (("run", "smoke", "--seeds", "0,1000"), ["1000"]),
            (("run", "smoke", "--limit", "inf"), ["--limit must be a finite number"]),
            (("run", "smoke", "--memory", "inf"), ["--memory must be a finite number"]),
            (("run", "smoke", "--engine", "inline", "--jobs", "2", "--limit", "9"), ["--jobs and --limit: engine inline"]),
            (("run", "smoke", "--device", "gpu"), ["unknown device 'gpu'", "cuda"]),
            (("run", "smoke", "--only", "nothing"), ["nothing", "copy memory T=20;"]),
            (("run", "smoke", "--jobs", "0"), ["jobs"]),
            (("run", "smoke", "--jobs", "many"), ["jobs"]),
            (("run", "smoke", "--sedes", "0"), ["--sedes"]),
            (("run", "smoke", "extra"), ["extra"]),
            (("run",), ["suite"]),
            (("trian",), ["trian"]),
            (("show", "x"), ["no runs"]),
            (("report",), ["no records"]),
            (("claims", "--study", "adjoints"), ["--data, --jobs and --study are for --measure"]),
            (("claims", "--measure", "--study", "adjoint"), ["unknown study 'adjoint'", "did you mean 'adjoints'"]),
        ],
        ids=str,
    )
    def test_in_one_line(self, cli: Cli, tmp_path: Path, arguments: tuple[str, ...], texts: list[str]) -> None:
        (tmp_path / "corpus.txt").write_text("the quick brown fox jumps\n" * 2_000)
        (tmp_path / "empty.txt").write_text("")
        (tmp_path / "short.txt").write_text("short\n" * 20)
        (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1") * 2_000)
        (tmp_path / "nothing").mkdir()
        refused(cli, tmp_path, arguments, *texts)

    @pytest.mark.parametrize(
        ("old", "new", "texts"),
        [
            ("trial_steps=2", "trial_step=2", ["trial_step", "did you mean 'trial_steps'"]),
            ("evaluate_every=2", "evaluate_evry=2", ["evaluate_evry", "did you mean 'evaluate_every'"]),
            ('"steps": 4', '"step": 4', ["'step'", "did you mean 'steps'"]),
            ("SPECS = [", "SPECS = [[", ["mine.py", "SyntaxError"]),
            ("from bench", "import absent_module\nfrom bench", ["absent_module"]),
            ('"deq"', '"deqq"', ["'deqq'", "did you mean 'deq'"]),
            ("user_models:Averages", "user_models:Average", ["user_models:Average"]),
            ("user_models:Averages", "user_models:no_core", ["user_models:no_core", "Core"]),
            ("user_models:Averages", "math:sqrt", ["math:sqrt"]),
            ('group="echo"', 'group="../up"', ["../up"]),
            ('"mean": ModelEntry', '"a/b": ModelEntry', ["a/b"]),
            ("seeds=(0,)", "seeds=(-1,)", ["seeds"]),
            ("seeds=(0,)", "seeds=(1000,)", ["trial seed 1000"]),
            ("learning_rates=(0.01, 0.02)", "learning_rates=(0.01, -1.0)", ["learning_rates"]),
            ("trial_steps=2", "trial_steps=0", ["trial_steps"]),
            ('"how": "nan"', '"how": "build"', ["cannot be"]),
            ("SPECS = [", f"SPECS = [\n    {ANOTHER_HEADLINE},", ["two headline metrics", "'hits'", "'loss'"]),
            ("SPECS = [", f"SPECS = [\n    {ANOTHER_CHANCE},", ["two metrics 'hits', chance"]),
            ("SPECS = [", "raise ValueError('a\\nb')\nSPECS = [", ["mine.py"]),
        ],
    )
    def test_a_broken_suite(self, cli: Cli, tmp_path: Path, old: str, new: str, texts: list[str]) -> None:
        assert old in SUITE
        (tmp_path / "mine.py").write_text(SUITE.replace(old, new))
        refused(cli, tmp_path, ("run", "mine.py", "--device", "cpu"), *texts)

    def test_results_that_are_a_file_cost_no_run(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(SUITE)
        (tmp_path / "results").write_text("mine")
        refused(cli, tmp_path, ("run", "mine.py", "--device", "cpu"), "results")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_results_that_cannot_be_written_cost_no_run(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(SUITE)
        (tmp_path / "results").mkdir(mode=0o500)
        refused(cli, tmp_path, ("run", "mine.py", "--device", "cpu"), "results")

    @pytest.mark.parametrize("damage", ["{", '{"schema_version": 2}', *exhaustive("", "[]", '{"schema_version": 1}', "\0")])
    def test_a_damaged_record_is_named_and_nothing_is_overwritten(self, cli: Cli, copied: Path, damage: str) -> None:
        path = sorted((copied / "results" / "runs" / "mine").glob("*-s0-*.json"))[0]
        path.write_text(damage)
        for arguments in (("run", "mine.py", "--device", "cpu"), ("show", path.stem)):
            refused(cli, copied, arguments, path.name)

    @pytest.mark.parametrize("digests", [True, False])
    def test_a_record_that_says_it_is_of_other_data_is_not_mixed_in(self, cli: Cli, copied: Path, digests: bool) -> None:
        path = sorted((copied / "results" / "runs" / "mine").glob("*-s0-*.json"))[0]
        text = path.read_text().replace('"data": "echo 5 6"', '"data": "other"')
        if not digests:  # as in older records
            text = "".join(line for line in text.splitlines(keepends=True) if 'digest": "' not in line)
        path.write_text(text)
        texts = "its digest does not fit" if digests else "its content is that of run"
        refused(cli, copied, ("run", "mine.py", "--device", "cpu"), path.name, texts)

    @pytest.mark.parametrize("where", ["results/runs", "results/runs/mine", "results/work"])
    def test_a_link_is_not_followed_out_of_the_results(self, cli: Cli, copied: Path, tmp_path_factory: Any, where: str) -> None:
        outside = tmp_path_factory.mktemp("outside") / "there"
        place = copied / where
        shutil.move(place, outside)
        place.symlink_to(outside)
        refused(cli, copied, ("run", "mine.py", "--device", "cpu", "--retry", "all"), where, "link")
        if where != "results/work":
            refused(cli, copied, ("report",), where, "link")

    def test_a_record_that_is_a_link_is_refused(self, cli: Cli, copied: Path) -> None:
        path = sorted((copied / "results" / "runs" / "mine").glob("*-s0-*.json"))[0]
        path.rename(copied / "elsewhere.json")
        path.symlink_to(copied / "elsewhere.json")
        for arguments in (("run", "mine.py", "--device", "cpu"), ("show", path.stem)):
            refused(cli, copied, arguments, path.name)

    def test_a_run_that_is_not_there(self, cli: Cli, copied: Path) -> None:
        stem = sorted((copied / "results" / "runs" / "mine").glob("*.json"))[0].stem
        refused(cli, copied, ("show", stem + "x"), "did you mean", stem, " runs?")
        assert cli("show", "x", "--results", copied / "results")[2].count(" or ") == 2

    def test_the_beginning_of_several_runs(self, cli: Cli, copied: Path) -> None:
        refused(cli, copied, ("show", "echo"), "'echo'", "6 runs")


@pytest.mark.usefixtures("no_run")
class TestLeftOut:
    """Commands that can do without a damaged file warn in one line that names it."""

    def spoil(self, folder: Path, how: str) -> str:
        """Damage or add a file of the records; return its name."""
        path = sorted((folder / "results" / "runs" / "mine").glob("*-s0-*.json"))[0]
        if how == "flipped":
            path.write_text(path.read_text().replace('"status": "ok"', '"status": "oj"'))
        elif how == "link":
            path.rename(folder / "elsewhere.json")
            path.symlink_to(folder / "elsewhere.json")
        else:
            path = path.with_name("notes.json")
            path.write_text("{")
        return path.name

    @pytest.mark.parametrize(
        ("command", "how"),
        product(["report", "page", "status", "status mine.py --device cpu", "claims"], ["flipped", "link", "stray"]),
    )
    def test_is_named_in_one_warning(self, cli: Cli, copied: Path, how: str, command: str) -> None:
        name = self.spoil(copied, how)
        status, _, err = cli(*command.split())
        assert status == 0
        if command != "claims":  # which reads only the package's suites
            (line,) = err.splitlines()
            assert line.startswith("warning: left out: ")
            assert name in line

    def test_another_suite_does_not_stop_a_run(self, cli: Cli, copied: Path) -> None:
        for name in (".ipynb_checkpoints", "other"):
            (copied / "results" / "runs" / name).mkdir()
            (copied / "results" / "runs" / name / "x.json").write_text("{")
        status, out, err = cli("run", "mine.py", "--device", "cpu", "--json")
        assert status == 0
        assert len(json.loads(out)["runs"]) == 3
        assert [line for line in err.splitlines() if "x.json" in line]


@pytest.fixture(scope="module")
def one(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one record and a name outside ASCII."""
    results = tmp_path_factory.mktemp("one") / "résultats"
    path = next((finished / "results" / "runs" / "mine").glob("failing-*.json"))
    (results / "runs" / "mine").mkdir(parents=True)
    shutil.copy(path, results / "runs" / "mine")
    return results


@pytest.mark.end_to_end
class TestEnvironment:
    """Any environment: no traceback, and the command does its work."""

    @pytest.mark.parametrize(
        ("command", "settings", "redirected"),
        [
            *exhaustive(("list", {"PYTHONIOENCODING": "ascii"}, "")),
            ("show", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ""),
            *exhaustive(("report", {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, "")),
            *exhaustive(("show", {}, ">&-")),
            ("report", {}, "<&- >&- 2>&-"),
            ("show", {}, ">/dev/full"),
            *exhaustive(("show", {}, ">/dev/full 2>&1")),
            *exhaustive(
                ("list", {"PYTHONIOENCODING": "cp1252"}, ""),
                ("show", {"PYTHONIOENCODING": "ascii"}, ""),
                ("report", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ""),
                ("report", {}, ">&-"),
                *((command, {}, ">/dev/full") for command in ("list", "report")),
            ),
        ],
        ids=str,
    )
    def test_the_command_exits_cleanly(self, one: Path, command: str, settings: dict[str, str], redirected: str) -> None:
        arguments = {"list": "", "show": "failing", "report": ""}[command]
        options = "" if command == "list" else f"--results {shlex.quote(str(one))}"
        line = f"{shlex.quote(sys.executable)} -m bench {command} {arguments} {options} {redirected}"
        done = subprocess.run(line, shell=True, cwd=ROOT, env=os.environ | settings, capture_output=True)
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr
        if "/dev/full" in redirected:
            assert done.returncode == 2
            assert done.stderr == b"" if "2>&1" in redirected else b"No space left" in done.stderr
            assert done.stderr.count(b"\n") <= 1
        else:
            assert (done.returncode, done.stderr) == (0, b"")
            assert (done.stdout == b"") == (">&-" in redirected)
        if command == "report":
            assert (one / "TABLES.md").is_file()

    def test_json_is_json_in_any_encoding(self, one: Path) -> None:
        line = [sys.executable, "-m", "bench", "show", "failing", "--json", "--results", str(one)]
        done = subprocess.run(line, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
        assert Record.model_validate_json(done.stdout).status == "diverged"

    @pytest.mark.parametrize("command", ["report", "page", "status", "show x", "claims", "run mine.py --device cpu"])
    def test_a_path_that_is_too_long_is_one_line(self, cli: Cli, tmp_path: Path, command: str) -> None:
        (tmp_path / "mine.py").write_text(SUITE)
        status, out, err = cli(*command.split(), "--results", "a/" * 3000)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert "too long" in err
        assert len(err) < 2100


class TestRun:
    def test_trains_and_writes_records_tables_and_figures(self, finished: Path) -> None:
        records = [read_record(path) for path in sorted((finished / "results" / "runs" / "mine").iterdir())]
        kinds = [(record.spec.group, record.spec.label, record.spec.role, record.status) for record in records]
        assert sorted(kinds) == sorted(
            [("failing", "NaN at 2", "final", "diverged")]
            + [("echo", label, role, "ok") for label in ("DEQ", "mean") for role in ("trial", "trial", "final")]
        )
        for record in records:
            if record.spec.role == "final" and record.status == "ok":
                trials = {other.spec.key: other for other in records if other.spec.key in record.spec.trials}
                assert len(trials) == 2
                best = max(trials.values(), key=lambda one: (one.value("valid_hits") or 0, -one.spec.train.learning_rate))
                assert record.spec.train.learning_rate == best.spec.train.learning_rate
        files = [path for path in (finished / "results").rglob("*") if path.is_file()]
        written = {path.suffix for path in files if "work" not in path.parts}
        assert {path.parent.name[:7] for path in files if "work" in path.parts} == {"failing"}
        assert written == {".json", ".md", ".tex", ".csv", ".svg", ".pdf"}
        assert not list((finished / "results").rglob("*.tmp"))

    def test_a_failed_run_is_a_row_with_its_reason(self, finished: Path) -> None:
        text = "\n".join(path.read_text() for path in sorted((finished / "results" / "tables" / "mine").glob("failing*.md")))
        (row,) = {line for line in text.splitlines() if line.startswith("| NaN at 2")}
        assert "0/1 diverged" in row
        assert "training loss nan at step 2 of 4" in text

    @pytest.mark.usefixtures("no_run")
    def test_again_trains_nothing_and_changes_no_byte(self, cli: Cli, copied: Path) -> None:
        before = snapshot(copied)
        status, out, _ = cli("run", "mine.py", "--device", "cpu")
        assert status == 0
        assert "2 of 3 final runs ended ok, 1 failed as expected" in out.splitlines()
        assert "DEQ" in out
        assert "0/1 diverged" in out
        assert "training loss nan at step 2" in out
        assert snapshot(copied) == before

    @pytest.mark.usefixtures("no_run")
    @pytest.mark.exhaustive
    def test_report_writes_the_same_files_byte_for_byte(self, cli: Cli, copied: Path) -> None:
        before = snapshot(copied)
        for kind in ("tables", "figures"):
            shutil.rmtree(copied / "results" / kind)
        (copied / "results" / "TABLES.md").unlink()
        status, out, err = cli("report", "--json")
        assert (status, err) == (0, "")
        assert snapshot(copied) == before
        assert sorted(copied / file for file in json.loads(out)) == sorted(
            path for path in (copied / "results").rglob("*") if path.is_file() and not {"runs", "work"} & set(path.parts)
        )
        status, out, _ = cli("report")
        assert status == 0
        assert re.search(r"\d+ files", out)

    @pytest.mark.usefixtures("no_run")
    def test_json_is_json_alone(self, cli: Cli, copied: Path) -> None:
        status, out, err = cli("run", "mine.py", "--device", "cpu", "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert found["suite"] == "mine"
        assert {run["status"] for run in found["runs"]} == {"ok", "diverged"}
        for run in found["runs"]:
            assert read_record(copied / run["record"]).run_id == run["run_id"]
            assert (run["test"] is None) == (run["status"] != "ok") == bool(run["reason"])

    @pytest.mark.usefixtures("no_run")
    @pytest.mark.exhaustive
    def test_only_shows_what_is_there_and_runs_nothing_else(self, cli: Cli, copied: Path) -> None:
        status, out, _ = cli("run", "mine.py", "--device", "cpu", "--only", "echo/DEQ", "--json")
        assert status == 0
        assert len(json.loads(out)["runs"]) == 1

    @pytest.mark.usefixtures("no_run")
    @pytest.mark.parametrize("options", [[], *exhaustive(["--json"])])
    def test_a_failure_that_its_suite_does_not_expect_exits_with_1_and_one_line(
        self, cli: Cli, copied: Path, options: list[str]
    ) -> None:
        suite = copied / "mine.py"
        suite.write_text(suite.read_text().replace(' expected="diverged",', ""))
        status, out, err = cli("run", "mine.py", "--device", "cpu", "--only", "NaN*", *options)
        (run_id,) = (path.stem for path in (copied / "results" / "runs" / "mine").glob("failing-*.json"))
        (line,) = (line for line in err.splitlines() if not line.startswith(("suite mine: ", "final runs: ")))
        assert status == 1
        assert "1 of 1 final runs failed (1 diverged). The first: training loss nan at step 2" in line
        assert f" -m bench show {run_id}" in line
        assert run_id in out if options else "0/1 diverged" in out

    @pytest.mark.parametrize("options", [("--retry", "timeout"), ("--keep-stale",)])
    def test_what_changes_the_number_of_runs_left_prints_no_count_of_records(
        self, cli: Cli, copied: Path, options: tuple[str, ...]
    ) -> None:
        plain, changed = (cli("run", "mine.py", "--device", "cpu", *more)[2] for more in ((), options))
        assert "all recorded" in plain
        assert [line.partition(":")[0] for line in changed.splitlines()] == ["learning-rate trials", "final runs"]

    @pytest.mark.end_to_end
    def test_seeds_first_and_the_whole_suite_after(self, cli: Cli, tmp_path: Path) -> None:
        """Run a part of a suite's seeds, then all of them."""
        two = SUITE.replace("seeds=(0,)", "seeds=(0, 1)").replace("learning_rates=(0.01, 0.02)", "learning_rates=(0.01,)")
        (tmp_path / "mine.py").write_text(two)
        part = ("run", "mine.py", "--device", "cpu", "--engine", "inline", "--only", "mean")
        assert cli(*part, "--seeds", "1")[0] == 0
        status, _, err = cli(*part)
        assert (status, "error" in err) == (0, False), err
        assert len(list((tmp_path / "results" / "runs" / "mine").iterdir())) == 2


class TestOthers:
    def test_list_names_all_there_is(self, cli: Cli) -> None:
        status, out, err = cli("list", "--json")
        assert (status, err) == (0, "")
        known = json.loads(out)
        assert set(known) == {"suite", "model", "task", "cell", "solver", "adjoint", "corpus"}
        assert {"smoke", "text"} <= set(known["suite"])
        assert all(claim for entries in known.values() for claim in entries.values())
        status, out, _ = cli("list")
        assert status == 0
        for name in (name for entries in known.values() for name in entries):
            assert name in out

    def test_list_shows_the_settings_of_a_name(self, cli: Cli) -> None:
        status, out, err = cli("list", "anderson")
        assert (status, err) == (0, "")
        assert "window   int           6" in out
        assert "`solver.NAME`" in out
        found = json.loads(cli("list", "transformer-xl", "--json")[1])
        assert [one["kind"] for one in found] == ["model", "cell"]
        assert "layers" in {one["setting"] for one in found[0]["settings"]}
        assert not {"inputs", "width", "parts"} & {setting["setting"] for one in found for setting in one["settings"]}
        assert "wait_s   float  20.0" in cli("list", "user_models:FailingModel")[1]
        status, _, err = cli("list", "andersen")
        assert (status, "did you mean 'anderson'" in err) == (2, True)

    @pytest.mark.exhaustive
    def test_list_shows_every_name(self, cli: Cli) -> None:
        for name in {name for entries in json.loads(cli("list", "--json")[1]).values() for name in entries}:
            assert cli("list", name)[0] == 0

    def test_status_fetches_no_corpus(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DEQ_BENCH_DATA", str(tmp_path / "none"))
        monkeypatch.setattr("bench.tasks.corpora._download", lambda *_: pytest.fail("a file was downloaded"))
        status, out, err = cli("status", "small", "--only", "copy*/GRU")
        assert (status, err) == (0, "")
        assert "13 runs: 0 ok" in out
        assert "not counted: runs on tinyshakespeare" in out
        assert "not counted: runs on ptb" in cli("status", "ptb")[1]

    def test_show_by_id_and_by_beginning(self, cli: Cli, copied: Path) -> None:
        path = next((copied / "results" / "runs" / "mine").glob("echo-deq-s0-*.json"))
        status, out, _ = cli("show", path.stem, "--json")
        assert status == 0
        assert Record.model_validate_json(out) == read_record(path)
        status, out, _ = cli("show", "echo-deq-s0")
        assert status == 0
        assert path.stem in out
        for name in read_record(path).measures:
            assert name in out
        assert "not measured, run on the CPU: " in out.replace("\n", " ")
        status, out, _ = cli("show", "failing")
        assert status == 0
        assert "training loss nan at step 2 of 4" in out

    def test_show_prints_the_traceback_of_a_crash(self, cli: Cli, copied: Path) -> None:
        path = next((copied / "results" / "runs" / "mine").glob("failing-*.json"))
        record = read_record(path)
        trace = 'Traceback (most recent call last):\n  File "my.py", line 3, in forward\nValueError: no\n'
        write_record(path, record.model_copy(update={"provenance": record.provenance | {"traceback": trace}}))
        assert trace.strip() in cli("show", "failing")[1]

    @pytest.mark.parametrize("width", [40, 80])
    def test_show_cuts_no_name_however_narrow_the_terminal(
        self, width: int, cli: Cli, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = cli("show", "echo-deq-s0")
        names = read_record(next((copied / "results" / "runs" / "mine").glob("echo-deq-s0-*.json"))).measures
        assert {*names} <= {word.rstrip(",") for word in out.split()}
        assert "…" not in out

    @pytest.mark.parametrize(
        "command",
        ["list", "doctor", "status", "status mine.py", "params mine.py", "show echo-deq-s0", "explain mine/echo/DEQ/hits"]
        + ["claims", "claims --only memory-saved", "run mine.py --device cpu", "report", "page", "export runs.csv", "--help"],
    )
    @pytest.mark.usefixtures("no_run")
    def test_no_line_is_longer_than_the_terminal(
        self, cli: Cli, copied: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        shown = {}
        for width in (80, 1000):
            monkeypatch.setenv("COLUMNS", str(width))
            status, shown[width], _ = cli(*command.split())
            assert status == 0
        assert max(map(len, shown[80].splitlines())) <= 80
        words = {word for word in shown[1000].split() if word.strip("-")}
        if command != "doctor":  # whose measurements differ
            assert " more column" in shown[80] or words <= {*shown[80].split()}  # none is cut

    def test_the_list_of_commands_is_whole_sentences(self, cli: Cli) -> None:
        _, out, _ = cli("--help")
        assert "..." not in out.partition("Commands:")[2]
        assert "every measure with its unit, method and scope." in " ".join(out.split())

    def test_a_printed_command_needs_no_activated_environment(
        self, cli: Cli, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(sys, "executable", str(copied / ".venv" / "bin" / "python"))
        assert "reproduce  .venv/bin/python -m bench run " in cli("explain", "mine/echo/DEQ/hits")[1]
        monkeypatch.setattr(sys, "executable", "/elsewhere/a b/python")
        assert "reproduce  '/elsewhere/a b/python' -m bench run " in cli("explain", "mine/echo/DEQ/hits")[1]

    def test_doctor(self, cli: Cli) -> None:
        status, out, err = cli("doctor", "--json")
        assert (status, err) == (0, "")
        assert {"name", "works", "detail", "measures"} == set(json.loads(out)[0])
        status, out, _ = cli("doctor")
        assert status == 0
        assert "saved bytes" in out

    def test_help_is_no_error(self, cli: Cli) -> None:
        for arguments in (("--help",), ("run", "--help")):
            status, out, err = cli(*arguments)
            assert (status, err) == (0, "")
            assert "Usage" in out

    @pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("0-2", [0, 1, 2]), ("3,0-1", [3, 0, 1]), (" 1 , 2 ", [1, 2])])
    def test_seeds(self, text: str, seeds: list[int]) -> None:
        assert parse_seeds(text) == seeds


@pytest.mark.end_to_end
def test_an_interrupted_suite_leaves_no_process_and_resumes(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine.py").write_text(f"FOLDER = {str(tmp_path)!r}\n{SLEEPER}")
    arguments = ["run", "mine.py", "--device", "cpu", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # tests in the background ignore it
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not (marks := list(tmp_path.glob("*.asleep"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        assert int(marks[0].stem) in {child.pid for child in family}
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        said = next(line for line in process.stderr if "save their state" in line)
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, said + err
    assert "Traceback" not in out + said + err
    assert "the state of 1 is saved: the same command goes on" in err
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    records = list((tmp_path / "results" / "runs" / "mine").iterdir())
    assert [read_record(path).spec.label for path in records] == ["quick"]
    before = records[0].read_bytes()
    status, out, err = cli(*arguments, "--json")
    assert status == 0, err
    assert [run["status"] for run in json.loads(out)["runs"]] == ["ok"] * 2
    assert records[0].read_bytes() == before
