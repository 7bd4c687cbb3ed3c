"""A run executes the code that its id names, whatever is edited meanwhile; code that fails on import is a failed run."""

import importlib
import os
import py_compile
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
from cases import exhaustive
from engine_jobs import MakeJob, failing, finish, record_of, spec
from running import run_suite

from bench.cli.run import import_timeout
from bench.execution.coordinator import Callbacks
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.execution.plan import Plan
from bench.instruments.environment import environment
from bench.records.errors import UserError
from bench.records.identity import Identity, versions_and_code
from bench.records.record import Record
from bench.records.source_code import importing, source_of
from bench.records.spec import ComponentConfig, Limits, RunSpec
from bench.training.registry import build_task
from bench.training.run import run
from bench.training.run_identity import compute_identity

NUMBERS = count()
MODEL = """
import torch
from user_models import Averages

class Mine(Averages):
    def forward(self, x, memory=None):
        return super().forward(FACTOR * x, memory)

FACTOR = 1
"""
ELSEWHERE = f"import os\nif os.getpid() != {os.getpid()}:\n    "


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a module with the source and a new name, and return its path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str) -> Path:
        path = tmp_path / f"frozen{next(NUMBERS)}.py"
        path.write_text(source)
        importlib.invalidate_caches()
        return path

    return make


def spec_of(path: Path, label: str = "l") -> RunSpec:
    return spec(label, f"{path.stem}:Mine", {"width": 4})


def losses(record: Record) -> list[float | None]:
    return [point.train_loss for point in record.curve]


def identity_of(one: RunSpec) -> Identity:
    return compute_identity(one, build_task(one.task, {}), environment("cpu", 1))


@pytest.mark.end_to_end
@pytest.mark.exhaustive
def test_an_edit_during_a_suite_changes_no_later_run(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    path = mine(MODEL)

    def edit(*_: object) -> None:
        path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 9"))

    plan = Plan([spec_of(path, label) for label in "abc"])
    records = run_suite(plan, tmp_path / "results", jobs=1, callbacks=Callbacks(recorded=edit))
    assert [record.status for record in records] == ["ok"] * 3
    assert losses(records[0]) == losses(records[1]) == losses(records[2])
    importlib.reload(sys.modules[path.stem])
    (edited,) = run_suite(Plan([spec_of(path, "a")]), tmp_path / "results", jobs=1)
    assert edited.run_id != records[0].run_id
    assert losses(edited) != losses(records[0])


@pytest.mark.parametrize("change", ["edited", *exhaustive("broken", "gone")])
def test_a_run_executes_the_imported_source_not_the_files(
    local: Local, job: MakeJob, mine: Callable[[str], Path], change: str
) -> None:
    path = mine(MODEL)
    wanted = losses(run(spec_of(path), suite="s"))
    before = source_of(path.stem)
    path.write_text("def (" if change == "broken" else MODEL.replace("FACTOR = 1", "FACTOR = 9"))
    if change == "gone":
        path.unlink()
    one = job(spec_of(path))
    assert source_of(path.stem) == before
    one = one.model_copy(update={"code": {path.stem: before}})
    record = record_of(finish(local, [type(one).model_validate_json(one.model_dump_json())])["l"])
    assert (record.status, losses(record)) == ("ok", wanted)


def test_bytecode_of_an_earlier_edit_in_the_same_second_is_not_used(mine: Callable[[str], Path]) -> None:
    path = mine(MODEL)
    os.utime(path, (1e9, 1e9))
    py_compile.compile(str(path))
    path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 2"))
    os.utime(path, (1e9, 1e9))
    assert importlib.import_module(path.stem).FACTOR == 2


def test_a_reloaded_module_has_another_id(mine: Callable[[str], Path]) -> None:
    path = mine(MODEL)
    first = identity_of(spec_of(path))
    path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 2"))
    assert identity_of(spec_of(path)) == first  # not yet imported
    importlib.reload(sys.modules[path.stem])
    assert identity_of(spec_of(path)).code[path.stem] != first.code[path.stem]


def test_the_identity_has_the_code_of_a_users_package(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    package = tmp_path / f"package{next(NUMBERS)}"
    package.mkdir()
    (package / "__init__.py").write_text("SCALE = 1\n")
    (package / "inner.py").write_text(MODEL)
    mine("")
    one = spec("l", f"{package.name}.inner:Mine", {"width": 4})
    assert {package.name, f"{package.name}.inner", "user_models"} <= set(identity_of(one).code)


def test_the_identity_has_the_bytes_of_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for content in (b"\x7fELF one", b"\x7fELF two"):
        name = f"compiled{next(NUMBERS)}"
        module = ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.so")
        Path(module.__file__).write_bytes(content)
        monkeypatch.setitem(sys.modules, name, module)
        thing = type("Thing", (), {"__module__": name})()
        digests.add(versions_and_code([], [thing])[1][name])
    assert len(digests) == 2


def test_a_model_of_the_main_module_is_refused() -> None:
    thing = type("Thing", (), {"__module__": "__main__"})()
    with pytest.raises(UserError, match=r"__main__.*move it to a module"):
        versions_and_code([], [thing])


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"code": {"user_models": "0" * 12}}, "code of user_models"), ({"data": "0" * 64}, "data")],
    ids=["code", "data"],
)
def test_a_process_with_other_code_or_data_than_the_id_refuses_the_run(
    local: Local, job: MakeJob, changes: dict[str, object], what: str
) -> None:
    one = job(spec("l", "user_models:Averages", {"width": 4}))
    code = one.identity.code | changes.pop("code", {})  # type: ignore[operator]
    other = one.identity.model_copy(update={"code": code, **changes})
    record = record_of(finish(local, [one.model_copy(update={"identity": other, "run_id": other.run_id(one.spec.key)})])["l"])
    assert (record.status, record.curve) == ("crashed", [])
    assert str(record.reason).startswith(f"refused: {what} changed")


@pytest.mark.end_to_end
def test_a_run_refuses_a_corpus_that_has_changed(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("abcdefgh" * 200)
    task = ComponentConfig(name="text", settings={"data": "a", "length": 4})
    specs = [spec(label).model_copy(update={"task": task}) for label in "ab"]

    def edit(*_: object) -> None:
        text.write_text("hgfedcba" * 200)

    data = {"a": text}
    records = run_suite(Plan(specs, data=data), tmp_path / "results", jobs=1, data=data, callbacks=Callbacks(recorded=edit))
    assert [record.status for record in records] == ["ok", "crashed"]
    assert "refused: data changed" in str(records[1].reason)


FAILING = [
    ("raise RuntimeError('not\\nhere')", "crashed", "fails on import: RuntimeError: not here"),
    ("raise ImportError('no library')", "crashed", "cannot be imported: no library"),
    ("raise EOFError", "crashed", "EOFError"),
    ("raise SystemExit(0)", "crashed", "fails on import: SystemExit"),
    ("raise KeyboardInterrupt", "crashed", "KeyboardInterrupt"),
    ("raise MemoryError", "oom", "out of memory"),
    ("os._exit(0)", "crashed", "status 0 and no record"),
    ("import time; time.sleep(600)", "timeout", "limit of 1 s"),
]


@pytest.mark.end_to_end
def test_code_that_fails_in_a_run_fails_that_run_alone(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    specs = [spec_of(mine(f"{ELSEWHERE}{line}\n{MODEL}"), f"failing {number}") for number, (line, *_) in enumerate(FAILING)]
    specs[-1] = specs[-1].model_copy(update={"limits": Limits(seconds=1.0)})
    task = mine(
        "import os\nfrom user_models import Echo\n\n"
        "class Mine(Echo):\n    def __init__(self):\n        super().__init__()\n"
        f"        if os.getpid() != {os.getpid()}:\n            raise RuntimeError('only here')\n"
    )
    of_task = spec("task").model_copy(update={"task": ComponentConfig(name=f"{task.stem}:Mine")})
    *records, of_task_record, fine = run_suite(Plan([*specs, of_task, spec("fine")]), tmp_path / "results")
    assert fine.status == "ok"
    assert of_task_record.status == "crashed"
    assert "RuntimeError: only here" in str(of_task_record.reason)
    for record, (line, status, reason) in zip(records, FAILING, strict=True):
        assert record.status == status, line
        assert reason in str(record.reason), line


@pytest.mark.parametrize("line", ["raise RuntimeError('no')", "raise SystemExit(0)"])
def test_code_that_fails_when_the_plan_imports_it_is_a_user_error(mine: Callable[[str], Path], line: str) -> None:
    with pytest.raises(UserError, match="fails on import"):
        Plan([spec_of(mine(f"{line}\n{MODEL}"))])


def test_code_that_hangs_when_the_plan_imports_it_is_a_user_error(mine: Callable[[str], Path]) -> None:
    path = mine(f"import time; time.sleep(600)\n{MODEL}")
    with pytest.raises(UserError, match=rf"module {path.stem} takes longer to import than --limit 0.3 s"), import_timeout(0.3):
        Plan([spec_of(path)])
    assert importing() is None


def test_engine_inline_goes_on_after_a_run_that_exits(tmp_path: Path) -> None:
    records = run_suite(Plan([failing("exits", "exit"), spec("fine")]), tmp_path, engine=Inline())
    assert [record.status for record in records] == ["crashed", "ok"]
