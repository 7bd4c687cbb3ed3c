"""Results other than runs: a damaged file is an error of one line that names the file and how to restore it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.claims.claim import judge_claims
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.cli.main import app
from bench.perf_gate.accepted import read_accepted
from bench.records import side_file
from bench.records.errors import UserError
from bench.records.side_file import SideFile
from bench.report.html.sources import memory_tables, peer_tables

RESULTS = Path(__file__).resolve().parents[2] / "results"
# Each with who reads it, and the command that makes it.
FILES: dict[str, tuple[SideFile, Callable[[Path], object], str]] = {
    "claims/experiments.json": (
        side_file.EXPERIMENTS,
        lambda folder: judge_claims(CLAIMS, Evidence(folder)),
        "python -m bench claims --measure",
    ),
    "memory/paper.json": (side_file.MEMORY, memory_tables, "python -m bench memory"),
    "peers/peers.json": (side_file.PEERS, peer_tables, "python -m bench peers"),
    "gate/expected.json": (
        side_file.COUNTS,
        lambda folder: read_accepted(folder / "gate/expected.json"),
        "python -m bench gate accept",
    ),
}
KIND = SideFile(needs=("rows",), remedy="`make it` makes it again", schema=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def plain(content: Any) -> Any:
    return json.loads(json.dumps(content))


@given(JSON)
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    path = tmp_path_factory.mktemp("side") / "a.json"
    path.write_text(json.dumps(KIND.sealed({"rows": rows}), indent=1))
    assert repr(KIND.read(path)) == repr(plain({"rows": rows}))  # as text: NaN is not equal to itself


def test_no_file_is_nothing(tmp_path: Path) -> None:
    assert KIND.read(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "not a JSON object"),
        (b'{"rows": []}', "it has no digest"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b'{"a": ' * 100_000, "recursion"),
        (b'{"rows": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (json.dumps({**KIND.sealed({"rows": [1]}), "rows": [2]}).encode(), "not what its digest says"),
        (json.dumps(SideFile(needs=(), remedy="", schema=1).sealed({"rows": []})).encode(), "schema 1, this version reads 2"),
        (json.dumps(KIND.sealed({"row": []})).encode(), "it lacks rows"),
    ],
)
def test_a_damaged_file_is_one_line_that_says_how_to_make_it_again(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json is damaged \(.*{reason}.*\); `make it` makes it again$") as found:
        KIND.read(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a\.json is damaged \(not a regular file\)"):
        KIND.read(tmp_path / "a.json")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published side files and figures, without runs."""
    folder = tmp_path_factory.mktemp("results")
    for name in FILES:
        (folder / name).parent.mkdir()
        shutil.copy(RESULTS / name, folder / name)
    return folder


@given(name=st.sampled_from(sorted(FILES)), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_a_damaged_side_file_is_never_a_traceback_and_never_another_number(
    copied: Path, name: str, where: float, bit: int, data: st.DataObject
) -> None:
    whole = (RESULTS / name).read_bytes()
    at = int(where * len(whole))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
    damaged = data.draw(st.sampled_from([flipped, whole[:at], whole[at:], whole + whole[at:], whole[:at] + whole[at + 9 :]]))
    (copied / name).write_bytes(damaged)
    try:
        kind, read, command = FILES[name]
        try:
            found = kind.read(copied / name)
        except UserError:
            with pytest.raises(UserError, match=f"{copied / name} is damaged .*`{command}"):
                read(copied)
        else:  # white space, or another way to write the same number
            assert found == kind.read(RESULTS / name)
    finally:
        (copied / name).write_bytes(whole)


COMMANDS = {
    "claims/experiments.json": (["claims", "--only", "steps-grow"], ["explain", "steps-grow"]),
    "memory/paper.json": (["claims", "--only", "memory-whole"], ["explain", "memory/paper/a/b"]),
    "peers/peers.json": (["explain", "peers/steps/a/b"],),
}


@pytest.mark.parametrize(("name", "arguments"), [(name, one) for name, many in COMMANDS.items() for one in many])
def test_every_command_that_reads_a_damaged_file_names_it(name: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes((RESULTS / name).read_bytes().replace(b"1", b"2", 1))
    result = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert f"{tmp_path / name} is damaged" in str(result.exception)


@pytest.mark.parametrize("arguments", [["gate"], ["gate", "accept", "--why", "new"]])
def test_the_gate_accepts_nothing_by_damaged_counts(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cli.develop.counted", lambda suite: {})
    path = tmp_path / "expected.json"
    path.write_bytes((RESULTS / "gate/expected.json").read_bytes().replace(b'"tolerance": 0', b'"tolerance": 8', 1))
    before = path.read_bytes()
    more = ["--changes", str(tmp_path / "C.md")] if "accept" in arguments else []
    result = CliRunner().invoke(app, [*arguments, "--expected", str(path), *more])
    assert isinstance(result.exception, UserError)
    assert "restore it from version control" in str(result.exception)
    assert path.read_bytes() == before


def test_a_change_log_that_is_no_text_is_named(tmp_path: Path) -> None:
    from bench.perf_gate.accepted import Quantity, accept

    (tmp_path / "C.md").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"C\.md cannot be read"):
        accept(tmp_path / "e.json", "2", {"a": Quantity(value=1, unit="B")}, "new", tmp_path / "C.md")
