"""A record is whole or absent, never damaged in silence, and hides no missing number."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from running import IDENTITY

import bench.record
from bench.errors import UserError
from bench.metric import Metric
from bench.record import Measure, Point, Record, measured, read_record, write_record, write_text
from bench.report import read_suites
from bench.spec import Named, Spec, Train

ROOT = Path(__file__).resolve().parents[1]


def record(seed: int = 0, **changes: Any) -> Record:
    spec = Spec(
        group="g",
        label="l",
        model=Named(name="gru", settings={"width": 8}),
        task=Named(name="copy", settings={"T": 3}),
        train=Train(steps=4, batch=2, learning_rate=0.1),
        seed=seed,
    )
    fields: dict[str, Any] = {
        "run_id": IDENTITY.run_id(spec.key),
        "suite": "s",
        "spec": spec,
        "identity": IDENTITY,
        "status": "ok",
        "metrics": {"loss": Metric(unit="nats", better="lower", chance=1.5)},
        "curve": [Point(step=1, seconds=0.1, train_loss=1 / 3, valid={"loss": 2.0})],
        "measures": {
            "saved_bytes": measured(2**53 + 1, "B", "counted", "a step"),
            "energy_J": measured(None, "J", "NVML", "run", "no é"),
        },
        "probes": {"depth": [{"depth": 2, "saved_bytes": 3}]},
        "provenance": {"data_sha256": "00"},
    }
    return Record(**(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "s" / f"{record().run_id}.json"


class TestMeasured:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_null_with_that_as_its_reason(self, value: float) -> None:
        made = measured(value, "nats", "m", "s")
        assert made.value is None
        assert made.why == f"not finite ({value})"

    def test_a_reason_given_is_kept(self) -> None:
        assert measured(math.nan, "nats", "m", "s", "no batches").why == "no batches"

    @pytest.mark.parametrize("why", [None, ""])
    def test_null_without_a_reason_is_refused(self, why: str | None) -> None:
        with pytest.raises(ValidationError, match="needs a reason"):
            measured(None, "nats", "m", "s", why)
        with pytest.raises(ValidationError, match="needs a reason"):
            Measure(value=None, unit="nats", method="m", scope="s", why=why)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_measure_and_a_point_hold_no_nan(self, value: float) -> None:
        with pytest.raises(ValidationError):
            Measure(value=value, unit="nats", method="m", scope="s")
        with pytest.raises(ValidationError):
            Point(step=1, seconds=0.0, train_loss=value)

    def test_zero_is_a_value(self) -> None:
        assert measured(0, "B", "m", "s").value == 0

    def test_counts_stay_whole(self) -> None:
        assert isinstance(measured(2**60 + 1, "B", "m", "s").value, int)

    @pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "crashed"])
    def test_a_failure_without_a_reason_is_refused(self, status: str) -> None:
        with pytest.raises(ValidationError, match="needs a reason"):
            record(status=status)


class TestWrite:
    def test_round_trip(self, path: Path) -> None:
        write_record(path, record())
        again = read_record(path)
        assert again == record()
        assert again.value("saved_bytes") == 2**53 + 1
        assert again.value("energy_J") is None
        assert again.value("absent") is None

    def test_the_same_record_gives_the_same_bytes(self, path: Path) -> None:
        write_record(path, record())
        first = path.read_bytes()
        write_record(path, read_record(path))
        assert path.read_bytes() == first
        assert json.loads(first)["measures"]["energy_J"]["why"] == "no é"
        assert first.endswith(b"}\n")

    def test_leaves_no_temporary_file_and_can_be_read_by_others(self, path: Path) -> None:
        write_record(path, record())
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert path.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("where", ["fsync", "replace", "chmod"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("odd")], ids=repr)
    def test_a_failure_on_the_way_leaves_the_old_file_whole_and_no_other(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
    ) -> None:
        write_record(path, record())
        old = path.read_bytes()

        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(os, where, fail)
        owed = UserError if isinstance(error, OSError) else type(error)
        with pytest.raises(owed) as caught:
            write_record(path, record(status="crashed", why="another"))
        if owed is UserError:
            assert str(path) in str(caught.value)
            assert "No space left" in str(caught.value)
        monkeypatch.undo()
        assert path.read_bytes() == old
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_full_disk_while_the_text_is_written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_text(path, "old")
        real = bench.record.tempfile.NamedTemporaryFile

        def full(*arguments: Any, **named: Any) -> Any:
            file = real(*arguments, **named)

            def write(text: str) -> int:
                file.file.write(text[:3])
                raise OSError(28, "No space left on device")

            file.write = write
            return file

        monkeypatch.setattr(bench.record.tempfile, "NamedTemporaryFile", full)
        with pytest.raises(UserError, match="No space left"):
            write_text(path, "new text")
        assert path.read_text() == "old"
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_text_that_cannot_be_encoded_leaves_nothing(self, path: Path) -> None:
        write_text(path, "old")
        with pytest.raises((UnicodeEncodeError, UserError)):
            write_text(path, "\udcff")
        assert path.read_text() == "old"
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_reader_never_sees_half_a_file_even_if_the_writer_is_killed(self, path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from bench.record import write_text\n"
            "n = 0\n"
            "while True:\n"
            "    n = (n + 1) % 10; write_text(Path(sys.argv[1]), str(n) * 1_000_000)"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, env=environment)
        try:
            end = time.monotonic() + 30
            while not path.exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            seen = set()
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                text = path.read_text()
                seen.add(text[0])
                assert len(text) == 1_000_000
                assert len(set(text)) == 1
        finally:
            writer.kill()
            writer.wait()
        assert len(seen) > 1
        assert len(path.read_text()) == 1_000_000

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("mine")
        with pytest.raises(UserError, match="cannot write"):
            write_text(tmp_path / "runs" / "s" / "x.json", "text")
        assert (tmp_path / "runs").read_text() == "mine"

    def test_a_folder_in_place_of_the_file(self, path: Path) -> None:
        path.mkdir(parents=True)
        with pytest.raises(UserError, match=path.name):
            write_record(path, record())
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def _text(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    def changed(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return changed


DAMAGE: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "one byte short": lambda text: text.rstrip()[:-1],
    "no JSON": lambda text: "nonsense",
    "not UTF-8": lambda text: text.encode() + b"\xff",
    "zeros": lambda text: bytes(len(text)),
    "a list": lambda text: "[]",
    "null": lambda text: "null",
    "nested without end": lambda text: "[" * 200_000,
    "another schema": _text(lambda data: data.update(schema_version=1)),
    "no schema": _text(lambda data: data.pop("schema_version")),
    "no spec": _text(lambda data: data.pop("spec")),
    "unknown field": _text(lambda data: data.update(extra=1)),
    "unknown status": _text(lambda data: data.update(status="fine")),
    "null without a reason": _text(lambda data: data["measures"]["energy_J"].update(why=None)),
    "failure without a reason": _text(lambda data: data.update(status="crashed")),
    "a NaN": lambda text: text.replace(str(2**53 + 1), "NaN"),
    "another run": _text(lambda data: data.update(run_id="other-s0-000000000000")),
    "another spec": _text(lambda data: data["spec"].update(seed=5)),
}


class TestRead:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_damaged_file_is_named(self, path: Path, damage: str) -> None:
        write_record(path, record())
        made = DAMAGE[damage](path.read_text(encoding="utf-8"))
        path.write_bytes(made if isinstance(made, bytes) else made.encode())
        with pytest.raises(UserError) as caught:
            read_record(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError):
            read_suites(path.parents[2])

    def test_a_missing_file_a_folder_and_a_dangling_link(self, path: Path) -> None:
        with pytest.raises(UserError, match=path.name):
            read_record(path)
        path.mkdir(parents=True)
        with pytest.raises(UserError, match=path.name):
            read_record(path)
        path.rmdir()
        path.symlink_to(path.parent / "nowhere")
        with pytest.raises(UserError, match=path.name):
            read_record(path)
        path.unlink()
        path.symlink_to(path)
        with pytest.raises(UserError, match=path.name):
            read_record(path)

    def test_a_file_under_another_name(self, path: Path) -> None:
        write_record(path, record())
        other = path.with_name("other.json")
        path.rename(other)
        with pytest.raises(UserError, match=r"other\.json: holds run " + record().run_id):
            read_record(other)

    def test_records_come_in_the_order_of_their_ids(self, path: Path) -> None:
        for seed in (2, 0, 1):
            one = record(seed)
            write_record(path.with_name(f"{one.run_id}.json"), one)
        found = [one.run_id for one in read_suites(path.parents[2])["s"]]
        assert len(found) == 3
        assert found == sorted(found)

    def test_temporary_files_of_a_killed_writer_are_not_records(self, path: Path) -> None:
        write_record(path, record())
        (path.parent / f".{path.name}.abc.tmp").write_text("half")
        assert len(read_suites(path.parents[2])["s"]) == 1
