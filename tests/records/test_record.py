"""Records: atomic writes, damage, digests, and missing values with their reasons."""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from running import IDENTITY

from bench.records.errors import LONGEST, LeftOut, UserError
from bench.records.metric import Metric
from bench.records.record import (
    DIGESTS,
    CurvePoint,
    Measure,
    Record,
    head_of,
    measured,
    read_head,
    read_record,
    record_text,
    write_record,
    write_text,
)
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store
from bench.report.report import read_suites

ROOT = Path(__file__).resolve().parents[2]


def record(seed: int = 0, **changes: Any) -> Record:
    spec = RunSpec(
        group="g",
        label="l",
        model=ComponentConfig(name="gru", settings={"width": 8}),
        task=ComponentConfig(name="copy", settings={"T": 3}),
        train=TrainConfig(steps=4, batch=2, learning_rate=0.1),
        seed=seed,
    )
    fields: dict[str, Any] = {
        "run_id": IDENTITY.run_id(spec.key),
        "suite": "s",
        "spec": spec,
        "identity": IDENTITY,
        "status": "ok",
        "metrics": {"loss": Metric(unit="nats", better="lower", chance=1.5)},
        "curve": [CurvePoint(step=1, seconds=0.1, train_loss=1 / 3, valid={"loss": 2.0})],
        "measures": {
            "saved_bytes": measured(2**53 + 1, "B", "counted", "a step"),
            "energy_J": measured(None, "J", "NVML", "run", "no é"),
        },
        "probes": {"depth": [{"depth": 2, "saved_bytes": 3}]},
        "provenance": {"runs_side_by_side": 1},
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
        assert made.reason == f"not finite ({value})"

    def test_a_reason_given_is_kept(self) -> None:
        assert measured(math.nan, "nats", "m", "s", "no batches").reason == "no batches"

    @pytest.mark.parametrize("reason", [None, ""])
    def test_null_without_a_reason_is_refused(self, reason: str | None) -> None:
        with pytest.raises(ValidationError, match="needs a reason"):
            measured(None, "nats", "m", "s", reason)
        with pytest.raises(ValidationError, match="needs a reason"):
            Measure(value=None, unit="nats", method="m", scope="s", reason=reason)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_measure_and_a_point_hold_no_nan(self, value: float) -> None:
        with pytest.raises(ValidationError):
            Measure(value=value, unit="nats", method="m", scope="s")
        with pytest.raises(ValidationError):
            CurvePoint(step=1, seconds=0.0, train_loss=value)

    def test_zero_is_a_value(self) -> None:
        assert measured(0, "B", "m", "s").value == 0

    def test_counts_stay_whole(self) -> None:
        assert isinstance(measured(2**60 + 1, "B", "m", "s").value, int)

    @pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "crashed"])
    def test_a_failure_without_a_reason_is_refused(self, status: str) -> None:
        with pytest.raises(ValidationError, match="needs a reason"):
            record(status=status)


class TestReason:
    def test_is_cut_where_it_is_made(self) -> None:
        long = "begins " + "x" * 50_000_000 + " ends"
        for text in (record(status="crashed", reason=long).reason, measured(None, "B", "m", "s", long).reason):
            assert text is not None
            assert len(text) <= LONGEST
            assert text.startswith("begins ")
            assert text.endswith(" ends")
            assert f"{len(long):,} characters" in text

    @given(text=st.text(st.characters(), min_size=1, max_size=20).map(lambda text: text * 300))
    def test_of_any_characters_is_kept_whole_by_the_file(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        one = record(status="crashed", reason=text)
        path = tmp_path_factory.mktemp("reason") / f"{one.run_id}.json"
        write_record(path, one)
        assert read_record(path) == one
        assert read_head(path) == head_of(one)

    def test_of_an_old_record_may_be_longer_than_what_a_listing_reads_at_once(self, path: Path) -> None:
        write_record(path, record(status="crashed", reason="PLACE"))
        text = _text(without_digests)(path.read_text(encoding="utf-8"))
        lines = json.dumps(json.loads(text), indent=1, ensure_ascii=False).replace("PLACE", "é" * 9_000)
        path.write_text(lines, encoding="utf-8")
        head = read_head(path)
        assert head is not None
        assert head.reason == "é" * 9_000
        assert Store(path.parents[2]).read_all("s")[0].status == "crashed"


class TestWrite:
    def test_round_trip(self, path: Path) -> None:
        write_record(path, record())
        again = read_record(path)
        assert again == record()
        assert again.value("saved_bytes") == 2**53 + 1
        assert again.value("energy_J") is None
        assert again.value("absent") is None

    def test_the_text_is_read_as_a_record_by_pydantic_too_and_its_digest_judged(self) -> None:
        text = record_text(record())
        assert Record.model_validate_json(text.encode()) == record()
        with pytest.raises(ValidationError, match="digest does not fit"):
            Record.model_validate_json(text.replace("9007199254740993", "9007199254740992"))

    def test_the_same_record_gives_the_same_bytes(self, path: Path) -> None:
        write_record(path, record())
        first = path.read_bytes()
        write_record(path, read_record(path))
        assert path.read_bytes() == first
        assert json.loads(first)["measures"]["energy_J"]["reason"] == "no é"
        assert first.endswith(b"}\n")

    @pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
    def test_leaves_no_temporary_file_and_can_be_read_by_whom_the_umask_lets(self, path: Path, umask: int, mode: int) -> None:
        before = os.umask(umask)
        try:
            write_record(path, record())
        finally:
            os.umask(before)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert path.stat().st_mode & 0o777 == mode

    @pytest.mark.parametrize("where", ["fsync", "replace"])
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
            write_record(path, record(status="crashed", reason="another"))
        if owed is UserError:
            assert str(path) in str(caught.value)
            assert "No space left" in str(caught.value)
        monkeypatch.undo()
        assert path.read_bytes() == old
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_full_disk_while_the_text_is_written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_text(path, "old")

        def full(handle: int, mode: str) -> Any:
            os.close(handle)
            return open("/dev/full", mode)

        monkeypatch.setattr(os, "fdopen", full)
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
            "import sys; from pathlib import Path; from bench.records.record import write_text\n"
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
    "null without a reason": _text(lambda data: data["measures"]["energy_J"].update(reason=None)),
    "failure without a reason": _text(lambda data: data.update(status="crashed")),
    "a NaN": lambda text: text.replace(str(2**53 + 1), "NaN"),
    "another run": _text(lambda data: data.update(run_id="other-s0-000000000000")),
    "another spec": _text(lambda data: data["spec"].update(seed=5)),
}


def without_digests(data: dict[str, Any]) -> None:
    for name in DIGESTS:
        del data[name]


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
        with pytest.warns(LeftOut, match=path.name), pytest.raises(UserError, match="no records"):
            read_suites(path.parents[2])

    @pytest.mark.parametrize("damage", ["another spec", "failure without a reason", "another run"])
    def test_what_is_wrong_is_found_without_a_digest_too(self, path: Path, damage: str) -> None:
        write_record(path, record())
        path.write_text(_text(without_digests)(DAMAGE[damage](path.read_text(encoding="utf-8"))))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"its content is that of run|needs a reason|holds run"):
            read_record(path)

    def test_a_record_from_before_there_were_digests_is_read(self, path: Path) -> None:
        write_record(path, record())
        text = path.read_text(encoding="utf-8")
        path.write_text("".join(line for line in text.splitlines(keepends=True) if 'digest":' not in line), encoding="utf-8")
        assert 'digest":' not in path.read_text(encoding="utf-8")
        assert read_record(path) == record()
        assert read_head(path) == head_of(record())

    @pytest.mark.parametrize("name", DIGESTS)
    def test_one_digest_alone_is_damage(self, path: Path, name: str) -> None:
        write_record(path, record())
        path.write_text(_text(lambda data: data.pop(name))(path.read_text(encoding="utf-8")))
        with pytest.raises(UserError, match="digest does not fit"):
            read_record(path)

    @pytest.mark.parametrize("layout", ["crlf", "compact"])
    def test_another_layout_of_the_same_content_is_no_damage(self, path: Path, layout: str) -> None:
        write_record(path, record())
        text = path.read_text(encoding="utf-8")
        path.write_bytes((text.replace("\n", "\r\n") if layout == "crlf" else json.dumps(json.loads(text))).encode())
        assert read_record(path) == record()
        store = Store(path.parents[2])
        assert list(store.heads("s")) == [head_of(record())]

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


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of a file: a bit, a cut, a piece that is moved, doubled or lost, two lines or two numbers that change places."""
    kind = draw(st.sampled_from(["bit", "cut", "lose", "double", "lines", "digit"]))
    first, second = draw(st.floats(0, 1, exclude_max=True)), draw(st.floats(0, 1, exclude_max=True))
    bit = draw(st.integers(0, 7))

    def changed(content: bytes) -> bytes:
        a, b = sorted((int(first * len(content)), int(second * len(content))))
        lines = content.split(b"\n")
        here, there = int(first * len(lines)), int(second * len(lines))
        if kind == "lines":
            lines[here], lines[there] = lines[there], lines[here]
        return {
            "bit": lambda: content[:a] + bytes([content[a] ^ 1 << bit]) + content[a + 1 :],
            "cut": lambda: content[:a],
            "lose": lambda: content[:a] + content[b:],
            "double": lambda: content[:b] + content[a:],
            "lines": lambda: b"\n".join(lines),
            "digit": lambda: re.sub(rb"\d", b"7", content[:a], count=1) + content[a:],
        }[kind]()

    return changed


@given(change=mutations())
def test_a_mutated_record_is_refused_in_one_line_or_is_the_same_record(
    tmp_path_factory: pytest.TempPathFactory, change: Callable[[bytes], bytes]
) -> None:
    one = record()
    path = tmp_path_factory.getbasetemp() / "mutated" / "runs" / "s" / f"{one.run_id}.json"
    write_record(path, one)
    path.write_bytes(change(path.read_bytes()))
    found, refusal = None, ""
    try:
        found = read_record(path)
    except UserError as error:
        refusal = str(error)
    assert found == one or (found is None and str(path) in refusal and "\n" not in refusal)
    head = read_head(path)
    assert head is None or head == head_of(one)
