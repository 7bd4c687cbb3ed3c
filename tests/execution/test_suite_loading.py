"""Load and plan the suites of the package and of users."""

from pathlib import Path

import pytest
from cases import exhaustive

import bench.suites.smoke
from bench.execution.parameter_matching import TOLERANCE
from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.records.errors import UserError
from bench.records.spec import Comparison
from bench.training import registry
from bench.training.language_model import count_parameters
from deq import CELLS


class TestSuites:
    def test_suite_smoke_can_be_planned(self) -> None:
        short, entries = load_suite("smoke", {})
        assert short == "smoke"
        assert Plan(entries).trials()

    def test_suite_text_needs_a_corpus(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--data NAME=PATH"):
            load_suite("text", {})
        (tmp_path / "a.txt").write_text("the quick brown fox jumps\n" * 2_000)
        data = {"fox_1+x": tmp_path / "a.txt"}
        _, entries = load_suite("text", data)
        assert {t.task.settings["unit"] for t in Plan(entries, data=data).trials()} == {"char", "word"}

    @pytest.mark.parametrize("sized", ["copy", *exhaustive("agreement", "text", "markov")])
    def test_suite_small_has_every_model_and_cell_at_equal_size(self, tmp_path: Path, sized: str) -> None:
        (tmp_path / "input.txt").write_text("".join(chr(33 + n % 65) for n in range(40_000)) + "\n")
        data = {"tinyshakespeare": tmp_path / "input.txt"}
        _, entries = load_suite("small", data)
        plan = Plan([entry for entry in entries if entry.task.name == sized], data=data)
        others = ("Markov chain", "copy memory T=20, initial weights", "tinyshakespeare by character, ")
        family = [entry for entry in entries if isinstance(entry, Comparison) and not entry.group.startswith(others)]
        assert [entry.task.name for entry in family] == ["copy", "agreement", "text"]
        for entry in family:
            slow = {"ode"} if entry.task.name == "text" else set()
            assert {row.model.name for row in entry.rows.values()} == set(registry.MODELS) - slow
        cells = {row.model.settings.get("cell") for entry in entries for row in entry.rows.values()} - {None}  # type: ignore[union-attr]
        assert cells == set(CELLS) - {"mlp"}
        counts: dict[str, list[int]] = {}
        for group, _, model, vocabulary in plan.models():
            counts.setdefault(group, []).append(count_parameters(model, vocabulary))
        assert counts
        assert all(max(found) <= (1 + 2 * TOLERANCE) * min(found) for found in counts.values())

    def test_suite_paper_needs_the_published_corpora(self, tmp_path: Path) -> None:
        for split in ("train", "valid", "test"):
            (tmp_path / f"ptb.{split}.txt").write_text("no such thing\n" * 200)
        _, entries = load_suite("paper", {})
        with pytest.raises(UserError, match=r"is not ptb: .*train tokens where 929,589 were published"):
            Plan(entries, only="Table 2*", data={"ptb": tmp_path})

    def test_a_file_named_as_a_suite_of_the_package_is_refused(self, tmp_path: Path) -> None:
        own = Path(bench.suites.smoke.__file__)
        copy = tmp_path / "smoke.py"
        copy.write_text(own.read_text())
        with pytest.raises(UserError, match="'smoke' is a suite of the package"):
            load_suite(str(copy), {})
        assert load_suite(str(own), {})[0] == "smoke"

    def test_an_unknown_suite_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(UserError, match="did you mean 'smoke'"):
            load_suite("smok", {})

    @pytest.mark.parametrize(
        "code",
        [
            "SPECS = []",
            "SPECS = None",
            "",
            "SPECS = [1]",
            "def SPECS(names): return 5",
            "def SPECS(): return []",
            "def (",
            "raise ValueError('a\\nb')",
            "from bench.records.spec import TrainConfig\nTrainConfig(steps=0, batch=1, learning_rate=1)",
            "raise SystemExit(0)",
        ],
    )
    def test_a_broken_file_is_a_one_line_error(self, tmp_path: Path, code: str) -> None:
        path = tmp_path / "mine.py"
        path.write_text(code)
        with pytest.raises(UserError, match="mine") as caught:
            load_suite(str(path), {})
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            load_suite(str(tmp_path / "mine.py"), {})

    def test_a_file_may_define_dataclasses_and_models(self, tmp_path: Path) -> None:
        path = tmp_path / "own_suite.py"
        path.write_text(
            "from __future__ import annotations\n"
            "from dataclasses import dataclass\n"
            "from bench.records.spec import ComponentConfig, RunSpec, TrainConfig\n"
            "from user_models import Averages\n"
            "@dataclass\n"
            "class Size:\n    width: int\n"
            "class Mine(Averages):\n    pass\n"
            "SPECS = [RunSpec(group='g', label='l',\n"
            "  model=ComponentConfig(name='own_suite:Mine', settings={'width': Size(4).width}),\n"
            "  task=ComponentConfig(name='user_models:Echo'), train=TrainConfig(steps=1, batch=1, learning_rate=1), seed=0)]\n"
        )
        short, entries = load_suite(str(path), {})
        assert short == "own_suite"
        assert len(Plan(entries).finals({})) == 1
