"""A run's id changes with everything that determines its numbers, and with nothing else."""

import importlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.instruments.environment import environment
from bench.records.identity import Identity, changed_modules, numeric_environment, project_code, versions_and_code
from bench.records.spec import ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.training.language_model import build_model
from bench.training.registry import ADJOINTS, MODELS, TASKS, build_task
from bench.training.run_identity import _made_of, compute_identity
from deq import CELLS, SOLVERS, Anderson


def made(model: ComponentConfig, **more: Any) -> Identity:
    """The identity of a run of the model on copy memory."""
    task = more.pop("task", ComponentConfig(name="copy"))
    spec = RunSpec(
        group="g", label="l", model=model, task=task, train=TrainConfig(steps=4, batch=2, learning_rate=0.1), seed=0, **more
    )
    return compute_identity(spec, build_task(task, {}), environment("cpu", 1))


DEQ = ComponentConfig(name="deq", settings={"cell": "mlp", "width": 8})


@pytest.fixture
def identity() -> Identity:
    return Identity(data="d", numerics={"DEQ": 1}, code={"mine": "1", "other": "2"}, environment={"torch": "2.13.0", "gpu": None})


class TestWhatCounts:
    def test_a_run_names_the_versions_of_what_it_uses_and_of_nothing_else(self) -> None:
        assert set(made(DEQ).numerics) == {"Trainer", "LanguageModel", "CopyMemory", "DEQ", "MLPCell", "Anderson", "Implicit"}
        lstm = ComponentConfig(name="lstm", settings={"width": 8})
        assert set(made(lstm).numerics) == {"Trainer", "LanguageModel", "CopyMemory", "Recurrent"}
        assert made(DEQ).code == {}

    def test_word_dropout_has_a_version_that_only_its_users_name(self) -> None:
        named = [
            set(made(ComponentConfig(name="lstm", settings={"width": 8, "embedding_dropout": r})).numerics) for r in (0.0, 0.1)
        ]
        assert named[0] == {"Trainer", "LanguageModel", "CopyMemory", "Recurrent"}
        assert named[1] == named[0] | {"WordDropout"}

    def test_a_raised_version_gives_another_id_to_its_users_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lstm = ComponentConfig(name="lstm", settings={"width": 8})
        before = made(DEQ).run_id("k"), made(lstm).run_id("k")
        monkeypatch.setattr(Anderson, "numerics", 99)
        _made_of.cache_clear()
        assert made(DEQ).run_id("k") != before[0]
        assert made(lstm).run_id("k") == before[1]
        _made_of.cache_clear()

    @pytest.mark.parametrize("registry", [CELLS, SOLVERS, ADJOINTS, TASKS], ids=["cells", "solvers", "adjoints", "tasks"])
    def test_every_registered_class_declares_a_version_of_its_own(self, registry: dict[str, Any]) -> None:
        for name, kind in registry.items():
            assert isinstance(vars(kind).get("numerics"), int), name

    @pytest.mark.parametrize("name", MODELS)
    def test_every_model_is_of_a_class_that_declares_one(self, name: str) -> None:
        heads: Settings = {"transformer-xl": {"heads": 2}, "deq": {"cell.heads": 2}}.get(name, {})  # type: ignore[assignment]
        model = build_model(ComponentConfig(name=name, settings={"width": 8, **heads}), 10)
        assert isinstance(vars(type(model.core)).get("numerics"), int)

    def test_pre_training_counts_the_unrolling_that_it_trains(self) -> None:
        assert "Unrolled" not in made(DEQ).numerics
        assert "Unrolled" in made(DEQ, recipe=Recipe(pretrain_steps=2)).numerics

    def test_a_users_module_counts_by_its_code_with_what_it_imports(self) -> None:
        found = made(ComponentConfig(name="user_models:Averages", settings={"width": 4}))
        assert "user_models" in found.code
        assert not {name.split(".")[0] for name in found.code} & {"torch", "bench", "deq", "baselines"}


class TestProjectCode:
    def test_a_record_names_the_code_that_made_it(self) -> None:
        code = project_code()
        assert {"deq.solve", "baselines.recurrent", "bench.training.run", "bench.tasks.copy"} <= set(code)
        assert changed_modules(code) == []
        assert changed_modules({**code, "deq.solve": "0", "gone": "1"}) == ["deq.solve", "gone"]


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
            return versions_and_code([], [importlib.import_module(name).Thing()])[1][name]

        return of

    def test_comments_layout_and_docstrings_mean_nothing(self, digest: Callable[[str], str]) -> None:
        same = SOURCE.replace("  # a comment", "").replace("A module", "Another").replace("What it is", "What?")
        assert digest(same.replace("\n\n", "\n\n\n")) == digest(SOURCE)

    @pytest.mark.parametrize(("old", "new"), [("3", "4"), ("/ 2", "// 2"), ("half", "hulf"), ("-> float", "-> int")])
    def test_code_does(self, digest: Callable[[str], str], old: str, new: str) -> None:
        assert digest(SOURCE.replace(old, new)) != digest(SOURCE)


class TestIdentity:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"data": "e"}, "data"),
            ({"code": {"mine": "9", "other": "2"}}, "code of mine"),
            ({"code": {"other": "2"}}, "code of mine"),
            ({"numerics": {"DEQ": 2}}, "numerics of DEQ 1 (here 2)"),
            ({"environment": {"torch": "2.12.0", "gpu": None}}, "torch 2.13.0 (here 2.12.0)"),
            ({"environment": {"torch": "2.13.0", "gpu": "H200"}}, "gpu None (here H200)"),
        ],
        ids=str,
    )
    def test_every_part_changes_the_id_and_is_named(self, identity: Identity, change: dict[str, Any], text: str) -> None:
        other = identity.model_copy(update=change)
        assert other.run_id("k") != identity.run_id("k")
        assert identity.differs(other) == [text]

    def test_many_changed_modules_are_counted(self, identity: Identity) -> None:
        other = identity.model_copy(update={"code": {f"m{n}": "1" for n in range(6)}})
        assert identity.differs(other) == ["code of m0, m1, m2 and 5 more"]

    def test_the_same_is_the_same(self, identity: Identity) -> None:
        again = Identity.model_validate_json(identity.model_dump_json())
        assert again.run_id("k") == identity.run_id("k")
        assert identity.differs(again) == []

    def test_the_key_stands_first(self, identity: Identity) -> None:
        assert identity.run_id("some-key").startswith("some-key-")


class TestEnvironment:
    def test_what_decides_digits_is_kept_and_what_decides_speed_is_not(self) -> None:
        here = environment("cpu", 1)
        base = numeric_environment(here)
        for name in ("cpu", "logical_cores", "usable_cores", "memory_bytes", "git", "threads", "system"):
            assert numeric_environment(here | {name: "other"}) == base, name
        for name in ("torch", "torch_build", "cpu_capability", "machine", "float32_matmul_precision", "device"):
            assert numeric_environment(here | {name: "other"}) != base, name
        assert numeric_environment(here | {"python": "3.99.1"}) != base
        assert numeric_environment(here | {"python": str(here["python"]) + "rc1"}) == base
        assert numeric_environment(here | {"gpu": {"name": "H200", "capability": "9.0", "driver": "1"}}) != base
        for part, names in (
            ("packages", ("numpy", "torchdiffeq")),
            ("variables", ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE")),
        ):
            for name in names:
                assert numeric_environment(here | {part: here.get(part, {}) | {name: "9.9"}}) != base, name
        for part, name in (("packages", "pandas"), ("variables", "OMP_NUM_THREADS")):
            assert numeric_environment(here | {part: here.get(part, {}) | {name: "9.9"}}) == base, name
        assert numeric_environment(here | {"variables": {"MALLOC_ARENA_MAX": "1"}}) == base
        assert numeric_environment(here | {"variables": {"NVIDIA_TF32_OVERRIDE": "0"}}) != base
