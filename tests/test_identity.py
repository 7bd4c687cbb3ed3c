"""An id changes with whatever a run's numbers come from, and with nothing else."""

import importlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.catalog import MODELS, TASKS, build_task
from bench.environment import environment
from bench.identity import Identity, code_of, decisive
from bench.model import build_model
from bench.provenance import identify
from bench.spec import Named, Recipe, Settings, Spec, Train

TINY: dict[str, Settings] = {
    "deq": {"width": 8, "cell.heads": 2},
    "tied": {"width": 8, "cell.heads": 2},
    "ode": {"width": 8, "cell.heads": 2},
    "trellisnet": {"width": 8},
    "transformer-xl": {"width": 8, "heads": 2},
    "tcn": {"width": 8},
    "lstm": {"width": 8},
    "gru": {"width": 8},
}


def code(name: str, task: str = "copy") -> dict[str, str]:
    model = build_model(Named(name=name, settings=TINY[name]), 10)
    return code_of([MODELS[name], TASKS[task]], [model, build_task(Named(name=task), {})])


@pytest.fixture
def identity() -> Identity:
    return Identity(data="d", code={"deq.solve": "1", "bench.run": "2"}, environment={"torch": "2.13.0", "gpu": None})


class TestWhatCounts:
    @pytest.mark.parametrize("name", MODELS)
    def test_the_harness_counts_and_what_only_shows_or_schedules_does_not(self, name: str) -> None:
        modules = set(code(name))
        assert {"bench.run", "bench.loop", "bench.model", "bench.measuring", "bench.meters", "bench.spec", "deq.core"} <= modules
        shown = {
            "bench.report",
            "bench.tables",
            "bench.columns",
            "bench.plots",
            "bench.statistics",
            "bench.display",
            "bench.__main__",
        }
        scheduled = {"bench.coordinator", "bench.store", "bench.plan", "bench.engines.worker", "bench.engines.local", "bench.job"}
        assert not modules & (shown | scheduled | {"bench.catalog", "bench.suites.smoke", "bench.doctor", "bench.params"})

    def test_a_model_counts_its_own_modules_and_not_its_rivals(self) -> None:
        own = {"tcn": "convolution", "lstm": "recurrent", "ode": "continuous", "trellisnet": "trellisnet", "tied": "unrolled"}
        own |= {"transformer-xl": "transformer_xl", "gru": "recurrent"}
        for name in MODELS:
            baselines = {module for module in code(name) if module.startswith("baselines.")}
            shared = {"baselines.unrolled"} if name in ("trellisnet", "transformer-xl") else set()  # for its segments
            assert baselines - shared == ({f"baselines.{own[name]}"} if name in own else set()), name

    def test_pre_training_counts_the_unrolling_that_it_trains(self) -> None:
        train = Train(steps=4, batch=2, learning_rate=0.1)
        deq, copy = Named(name="deq", settings=TINY["deq"]), Named(name="copy")
        plain = Spec(group="g", label="l", model=deq, task=copy, train=train, seed=0)
        shallow = plain.model_copy(update={"recipe": Recipe(pretrain_steps=2)})
        task, here = build_task(copy, {}), environment("cpu", 1)
        assert "baselines.unrolled" not in identify(plain, task, here).code
        assert "baselines.unrolled" in identify(shallow, task, here).code

    def test_a_solver_counts_for_what_solves_or_is_solved_and_not_for_the_lstm(self) -> None:
        for name in ("deq", "tied", "ode", "trellisnet"):
            assert {"deq.solve", "deq.solvers.anderson"} <= set(code(name)), name
        for name in ("lstm", "gru", "tcn"):
            assert {module for module in code(name) if module.startswith("deq.")} <= {"deq.checks", "deq.core", "deq.dropout"}, name

    def test_a_task_counts_and_the_others_do_not(self) -> None:
        assert "bench.tasks.copy" in code("gru", "copy")
        assert "bench.tasks.copy" not in code("gru", "agreement")
        assert "bench.tasks.task" in code("gru", "agreement")

    def test_of_the_catalog_only_the_builder_counts(self) -> None:
        assert {name for name in code("deq") if name.startswith("bench.catalog")} == {"bench.catalog:deq"}
        lstm, gru = code("lstm"), code("gru")
        (made,) = {name for name in lstm if name.startswith("bench.catalog")}
        assert lstm[made] != gru[made]  # the same function, closed over another kind

    def test_a_users_module_counts_with_what_it_imports(self) -> None:
        modules = code_of([], [build_model(Named(name="user_models:Averages", settings={"width": 4}), 10)])
        assert "user_models" in modules
        assert "torch" not in {name.split(".")[0] for name in modules}


NUMBERS = count()
SOURCE = '''"""A module."""
import math

class Thing:
    """What it is."""
    size = 3

    def half(self) -> float:
        return self.size / 2  # a comment
'''


class TestMeaning:
    @pytest.fixture
    def digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
        """The digest of a module of that source."""
        monkeypatch.syspath_prepend(str(tmp_path))

        def of(source: str) -> str:
            name = f"mine{next(NUMBERS)}"  # digests are kept by name
            (tmp_path / f"{name}.py").write_text(source)
            return code_of([], [importlib.import_module(name).Thing()])[name]

        return of

    def test_comments_layout_and_docstrings_mean_nothing(self, digest: Callable[[str], str]) -> None:
        same = SOURCE.replace("  # a comment", "").replace("A module", "Another").replace("What it is", "What?")
        assert digest(same.replace("\n\n", "\n\n\n")) == digest(SOURCE)

    @pytest.mark.parametrize(("old", "new"), [("3", "4"), ("/ 2", "// 2"), ("half", "hulf"), ("-> float", "-> int")])
    def test_code_does(self, digest: Callable[[str], str], old: str, new: str) -> None:
        assert digest(SOURCE.replace(old, new)) != digest(SOURCE)


class TestIdentity:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"data": "e"}, "data"),
            ({"code": {"deq.solve": "9", "bench.run": "2"}}, "code of deq.solve"),
            ({"code": {"bench.run": "2"}}, "code of deq.solve"),
            ({"environment": {"torch": "2.12.0", "gpu": None}}, "torch 2.13.0 (here 2.12.0)"),
            ({"environment": {"torch": "2.13.0", "gpu": "H200"}}, "gpu None (here H200)"),
        ],
        ids=str,
    )
    def test_every_part_changes_the_id_and_is_named(self, identity: Identity, change: dict[str, Any], said: str) -> None:
        other = identity.model_copy(update=change)
        assert other.run_id("k") != identity.run_id("k")
        assert identity.differs(other) == [said]

    def test_many_changed_modules_are_counted(self, identity: Identity) -> None:
        other = identity.model_copy(update={"code": {f"m{n}": "1" for n in range(6)}})
        assert identity.differs(other) == ["code of bench.run, deq.solve, m0 and 5 more"]

    def test_the_same_is_the_same(self, identity: Identity) -> None:
        again = Identity.model_validate_json(identity.model_dump_json())
        assert again.run_id("k") == identity.run_id("k")
        assert identity.differs(again) == []

    def test_the_key_stands_first(self, identity: Identity) -> None:
        assert identity.run_id("some-key").startswith("some-key-")


class TestEnvironment:
    def test_what_decides_digits_is_kept_and_what_decides_speed_is_not(self) -> None:
        here = environment("cpu", 1)
        base = decisive(here)
        for name in ("cpu", "logical_cores", "usable_cores", "memory_bytes", "git", "threads", "system"):
            assert decisive(here | {name: "other"}) == base, name
        for name in ("torch", "torch_build", "cpu_capability", "machine", "float32_matmul_precision", "device"):
            assert decisive(here | {name: "other"}) != base, name
        assert decisive(here | {"python": "3.99.1"}) != base
        assert decisive(here | {"python": str(here["python"]) + "rc1"}) == base
        assert decisive(here | {"gpu": {"name": "H200", "capability": "9.0", "driver": "1"}}) != base
        assert decisive(here | {"variables": {"MALLOC_ARENA_MAX": "1"}}) == base
        assert decisive(here | {"variables": {"NVIDIA_TF32_OVERRIDE": "0"}}) != base
