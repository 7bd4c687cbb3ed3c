"""A run's id says what code ran: an edit while a matrix runs changes no run, and code that fails on import is a row."""

import importlib
import multiprocessing.util
import os
import py_compile
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
from cases import exhaustive
from running import run_suite
from test_engine import Make, finish, job, local, spec

from bench.cli.run import import_timeout
from bench.execution.coordinator import Callbacks
from bench.execution.engines.engine import Finished
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

__all__ = ["job", "local"]  # fixtures
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


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks apart from those of other benchmarks on this machine."""
    multiprocessing.util.get_temp_dir()  # its socket stays where paths are short
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("locks"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A module of that source, of a name of its own, that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str) -> Path:
        path = tmp_path / f"frozen{next(NUMBERS)}.py"
        path.write_text(source)
        importlib.invalidate_caches()
        return path

    return make


def of(path: Path, label: str = "l") -> RunSpec:
    return spec(label, f"{path.stem}:Mine", {"width": 4})


def losses(record: Record) -> list[float | None]:
    return [point.train_loss for point in record.curve]


def here(one: RunSpec) -> Identity:
    return compute_identity(one, build_task(one.task, {}), environment("cpu", 1))


@pytest.mark.end_to_end
def test_an_edit_during_a_matrix_changes_no_later_run(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    """The first record is there when the file is edited; the next command makes other runs, with the edit."""
    path = mine(MODEL)

    def edit(*_: object) -> None:
        path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 9"))

    plan = Plan([of(path, label) for label in "abc"])
    records = run_suite(plan, tmp_path / "results", jobs=1, callbacks=Callbacks(recorded=edit))
    assert [record.status for record in records] == ["ok"] * 3
    assert losses(records[0]) == losses(records[1]) == losses(records[2])
    importlib.reload(sys.modules[path.stem])
    (edited,) = run_suite(Plan([of(path, "a")]), tmp_path / "results", jobs=1)
    assert edited.run_id != records[0].run_id
    assert losses(edited) != losses(records[0])


@pytest.mark.parametrize("change", ["edited", *exhaustive("broken", "gone")])
def test_what_was_imported_is_digested_and_runs_whatever_the_file_holds_by_then(
    local: Local, job: Make, mine: Callable[[str], Path], change: str
) -> None:
    path = mine(MODEL)
    wanted = losses(run(of(path), suite="s"))
    before = source_of(path.stem)
    path.write_text("def (" if change == "broken" else MODEL.replace("FACTOR = 1", "FACTOR = 9"))
    if change == "gone":
        path.unlink()
    one = job(of(path))
    assert source_of(path.stem) == before
    one = one.model_copy(update={"code": {path.stem: before}})
    end = finish(local, [type(one).model_validate_json(one.model_dump_json())])["l"]
    assert isinstance(end, Finished)
    assert (end.record.status, losses(end.record)) == ("ok", wanted)


def test_cached_bytecode_of_an_earlier_edit_of_the_same_second_is_not_run(mine: Callable[[str], Path]) -> None:
    path = mine(MODEL)
    os.utime(path, (1e9, 1e9))
    py_compile.compile(str(path))
    path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 2"))
    os.utime(path, (1e9, 1e9))
    assert importlib.import_module(path.stem).FACTOR == 2


def test_a_module_that_is_imported_anew_in_a_notebook_has_another_id(mine: Callable[[str], Path]) -> None:
    path = mine(MODEL)
    first = here(of(path))
    path.write_text(MODEL.replace("FACTOR = 1", "FACTOR = 2"))
    assert here(of(path)) == first  # not yet imported
    importlib.reload(sys.modules[path.stem])
    assert here(of(path)).code[path.stem] != first.code[path.stem]


def test_the_code_of_a_users_package_counts(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    package = tmp_path / f"package{next(NUMBERS)}"
    package.mkdir()
    (package / "__init__.py").write_text("SCALE = 1\n")
    (package / "inner.py").write_text(MODEL)
    mine("")
    one = spec("l", f"{package.name}.inner:Mine", {"width": 4})
    assert {package.name, f"{package.name}.inner", "user_models"} <= set(here(one).code)


def test_compiled_code_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_model_that_is_defined_in_the_program_itself_is_refused() -> None:
    thing = type("Thing", (), {"__module__": "__main__"})()
    with pytest.raises(UserError, match=r"__main__.*module of its own"):
        versions_and_code([], [thing])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"code": {"user_models": "0" * 12}}, "code of user_models"), ({"data": "0" * 64}, "data")],
    ids=["code", "data"],
)
def test_a_process_with_other_code_or_data_than_its_id_says_refuses_the_run(
    local: Local, job: Make, changes: dict[str, object], said: str
) -> None:
    one = job(spec("l", "user_models:Averages", {"width": 4}))
    code = one.identity.code | changes.pop("code", {})  # type: ignore[operator]
    other = one.identity.model_copy(update={"code": code, **changes})
    end = finish(local, [one.model_copy(update={"identity": other, "run_id": other.run_id(one.spec.key)})])["l"]
    assert isinstance(end, Finished)
    assert end.record.status == "crashed"
    assert str(end.record.reason).startswith(f"refused: {said} changed")
    assert end.record.curve == []


@pytest.mark.end_to_end
def test_a_corpus_that_changes_during_a_matrix_makes_no_record_of_other_data(tmp_path: Path) -> None:
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
    ("import time; time.sleep(600)", "timeout", "limit of 2 s"),
]


@pytest.mark.end_to_end
def test_code_that_fails_where_a_run_imports_it_is_a_row_and_the_others_go_on(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    failing = [of(mine(f"{ELSEWHERE}{line}\n{MODEL}"), f"failing {number}") for number, (line, *_) in enumerate(FAILING)]
    timeout = failing[-1].model_copy(update={"limits": Limits(seconds=2.0)})
    *records, fine = run_suite(Plan([*failing[:-1], timeout, spec("fine")]), tmp_path / "results", jobs=2)
    assert fine.status == "ok"
    for record, (line, status, reason) in zip(records, FAILING, strict=True):
        assert record.status == status, line
        assert reason in str(record.reason), line


@pytest.mark.end_to_end
def test_a_task_that_fails_where_a_run_builds_it_is_a_row(tmp_path: Path, mine: Callable[[str], Path]) -> None:
    path = mine(
        "import os\nfrom user_models import Echo\n\n"
        "class Mine(Echo):\n    def __init__(self):\n        super().__init__()\n"
        f"        if os.getpid() != {os.getpid()}:\n            raise RuntimeError('only here')\n"
    )
    failing = spec("failing").model_copy(update={"task": ComponentConfig(name=f"{path.stem}:Mine")})
    records = run_suite(Plan([failing, spec("fine")]), tmp_path / "results", jobs=1)
    assert [record.status for record in records] == ["crashed", "ok"]
    assert "RuntimeError: only here" in str(records[0].reason)


@pytest.mark.parametrize("line", ["raise RuntimeError('no')", "raise SystemExit(0)"])
def test_code_that_fails_before_the_runs_is_the_users_error(mine: Callable[[str], Path], line: str) -> None:
    with pytest.raises(UserError, match="fails on import"):
        Plan([of(mine(f"{line}\n{MODEL}"))])


def test_code_that_hangs_before_the_runs_is_ended_by_the_limit(mine: Callable[[str], Path]) -> None:
    path = mine(f"import time; time.sleep(600)\n{MODEL}")
    with pytest.raises(UserError, match=rf"module {path.stem} takes longer to import than --limit 0.3 s"), import_timeout(0.3):
        Plan([of(path)])
    assert importing() is None


def test_the_engine_in_this_process_goes_on_after_a_run_that_exits(tmp_path: Path) -> None:
    exits = spec("exits", "user_models:Misfit", {"width": 4, "how": "exit"})
    records = run_suite(Plan([exits, spec("fine")]), tmp_path, engine=Inline())
    assert [record.status for record in records] == ["crashed", "ok"]
