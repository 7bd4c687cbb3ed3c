"""Corpora by the names and the encodings of their files: the right splits and the right text, or one clear refusal."""

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli.options import parse_data
from bench.records.errors import UserError
from bench.tasks.text import Text
from bench.tasks.tokens import tokenise

ROLES = {
    "train": ("train", "training", "Train", "TRAIN", "trn", "trainset", "TrainSet", "wikitrain"),
    "valid": ("valid", "validation", "val", "dev", "eval", "Valid", "devset", "wikivalid"),
    "test": ("test", "testing", "Test", "tst", "testset", "TestData", "wikitest"),
    "other": ("notes", "contest", "latest", "strain", "devices", "value", "chapter"),
}
LETTER = {"train": "r", "valid": "v", "test": "t", "other": "o"}  # what each file's text is made of
SIZES = {"train": 400, "valid": 60, "test": 60, "other": 60}


def loaded(path: Path, **given: Any) -> Text:
    return Text(data="c", paths={"c": path}, **{"length": 2, **given})


def content(task: Text, split: str) -> str:
    return "".join(task.symbols[token] for token in task.tokens[split].tolist())  # type: ignore[index]


def folder(path: Path, *names: str) -> Path:
    """A folder with a file of each name; the text of each is its role's letter, by the first role whose word is in the name."""
    path.mkdir(exist_ok=True)
    for name in names:
        role = next(role for role, words in ROLES.items() if any(word.lower() in name.lower() for word in words))
        (path / name).write_text(LETTER[role] * SIZES[role])
    return path


@pytest.mark.parametrize("train", ["training.txt", "train2.txt", "train (1).txt", "trn.txt", "TrainSet.txt", "my train.txt"])
@pytest.mark.parametrize("valid", ["valid.txt", "val.txt", "eval.txt", "dev.txt"])
def test_splits_are_known_by_their_usual_names(train: str, valid: str, tmp_path: Path) -> None:
    tokens = tokenise(folder(tmp_path, train, valid, "tst.txt", "notes.txt"), "char")
    found = {split: {tokens.names[token] for token in stream} for split, stream in tokens.streams.items()}
    assert found == {"train": {"r"}, "valid": {"v"}, "test": {"t"}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test.txt", "valid.txt", "tain.txt"), "no train file next to valid.txt, test.txt (what is tain.txt?)"),
        (("test.txt", "valid.txt"), "no train file next to valid.txt, test.txt"),
        (("train.txt", "test.txt", "holdout.txt"), "no valid file next to train.txt, test.txt (what is holdout.txt?)"),
        (("train.txt", "train2.txt", "test.txt"), "2 train files, need one: train.txt, train2.txt"),
        (("train.txt", "dev.txt", "eval.txt"), "2 valid files, need one: dev.txt, eval.txt"),
        (("train-test.txt", "valid.txt"), "train-test.txt names more than one split"),
        (
            ("wikitrain.txt", "wikivalid.txt", "wikitest.txt"),
            "wikitest.txt, wikitrain.txt, wikivalid.txt differ like the files of splits",
        ),
        (("train.py", "a.txt", "b.txt"), "no valid and no test file next to train.py (what is a.txt, b.txt?)"),
    ],
)
def test_names_that_leave_a_split_open_are_refused_with_the_files(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("abc " * 50)
    with pytest.raises(UserError, match=re.escape(message)):
        loaded(tmp_path)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_folder_named_like_a_split_is_not_passed_over(name: str, tmp_path: Path) -> None:
    folder(tmp_path, "chapter.txt")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"what is chapter.txt, {name}\?"):
        loaded(tmp_path)
    folder(tmp_path, "train.txt", "valid.txt", "test.txt")
    assert set(content(loaded(tmp_path), "train")) == {"r"}


@given(data=st.data())
def test_test_text_is_never_trained_on_whatever_the_files_are_called(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before, after = st.sampled_from(["", "ptb.", "my-", "a b ", "1_"]), st.sampled_from(["", "2", " (1)", ".v1", "-en", "_00"])
    endings = st.sampled_from([".txt", ".TXT", ".tokens", "", ".md"])
    path = tmp_path_factory.mktemp("corpus")
    made: dict[str, set[str]] = {}
    common = data.draw(before)
    for role in data.draw(st.lists(st.sampled_from(sorted(ROLES)), min_size=1, max_size=5)):
        name = common + data.draw(st.sampled_from(ROLES[role])) + data.draw(after) + data.draw(endings)
        (path / name).write_text(LETTER[role] * SIZES[role])
        made.setdefault(role, set()).add(name)
    try:
        task = loaded(path)
    except UserError:
        return
    trained = set(content(task, "train"))
    assert "train" not in made or "t" not in trained
    for split, letter in (("valid", "v"), ("test", "t")):
        if any(not name.startswith(f"{common}wiki") for name in made.get(split, ())):
            assert letter not in trained
            assert set(content(task, split)) == set("<unk>")  # its own file's text, not the end of train


MARKED = "naïve café \n日本語 words\n"


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_text_and_cr_lf_one_newline(encoding: str, newline: str, unit: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "plain" / f"{split}.txt").write_bytes((MARKED * 9).encode())
        (tmp_path / "other" / f"{split}.txt").write_bytes((MARKED * 9).replace("\n", newline).encode(encoding))
    plain, other = (loaded(tmp_path / name, unit=unit) for name in ("plain", "other"))
    assert other.symbols == plain.symbols
    assert other.fingerprint() == plain.fingerprint()


def test_no_byte_order_mark_is_left_where_files_are_joined(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(MARKED * 9, encoding="utf-8-sig")
    assert "\ufeff" not in loaded(tmp_path).symbols


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_text_in_utf_16_or_32_is_refused_with_what_to_do(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("plain words\n" * 20).encode(encoding))
    with pytest.raises(UserError, match=r"a\.txt is not .*UTF-8.* at offset \d.*iconv -f UTF-16 -t UTF-8"):
        loaded(tmp_path / "a.txt")


@pytest.mark.parametrize("block", [1, 3, 4, 100, 1 << 20])
@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        (b"a\xc3\xa9 b\xff c", "word", "byte 0xff at offset 5"),
        (b"abc\xe2\x82", "word", "byte 0xe2 at offset 3"),
        (b"\xef\xbb\xbfab\xff", "char", "byte 0xff at offset 5"),
        (b"\xef\xbb\xbfab\0", "char", "NUL byte at offset 5"),
    ],
)
def test_bytes_that_are_no_text_are_found_where_they_are(
    text: bytes, unit: Any, message: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tasks.tokens._BLOCK", block)
    (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        tokenise(tmp_path / "a.txt", unit)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=40),
    encoding=st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1", "cp1252"]
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([1, 2, 5, 1 << 20]),
    cut=st.integers(0, 3),
)
def test_a_text_is_read_as_it_was_written_or_refused(
    text: str, encoding: str, newline: str, block: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = f"é é {text}\n"  # é alone is no UTF-8 in latin-1; the newline has a NUL in UTF-16
    raw = text.replace("\n", newline).encode(encoding, "replace")
    raw = raw[: len(raw) - cut]
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.tasks.tokens._BLOCK", block)
        try:
            tokens = tokenise(file, "char")
        except UserError:
            tokens = None
    assert tokens is not None or cut or encoding not in ("utf-8", "utf-8-sig")
    if tokens is not None:
        assert encoding in ("utf-8", "utf-8-sig")
        assert "".join(tokens.names[token] for token in tokens.streams["train"]) == raw.decode("utf-8-sig").replace("\r\n", "\n")


PIECES = [b"a", b" ", b"\n", b"\r", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", "é日".encode()]


@given(
    raw=st.binary(max_size=9) | st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join), unit=st.sampled_from(["char", "word"])
)
def test_random_bytes_are_text_or_refused(raw: bytes, unit: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("bytes") / "a.txt"
    file.write_bytes(raw)
    try:
        tokens = tokenise(file, unit)
    except UserError:
        return
    assert "\0" not in raw.decode("utf-8-sig")
    assert unit == "word" or len(tokens.streams["train"]) == len(raw.decode("utf-8-sig").replace("\r\n", "\n"))


def in_time(call: Any) -> list[Any]:
    """What the call returned or raised; fails where it hangs."""
    ended: list[Any] = []

    def go() -> None:
        try:
            ended.append(call())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(20)
    assert ended, "it hangs"
    return ended


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "broken link"])
@pytest.mark.parametrize("name", ["test.txt", "chapter3.txt"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, name: str, tmp_path: Path) -> None:
    corpus = folder(tmp_path / "corpus", "train.txt" if "test" in name else "chapter.txt")
    special = corpus / name
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        special.symlink_to(tmp_path / "pipe")
    else:
        special.symlink_to("/dev/zero" if kind == "device" else tmp_path / "absent")
    for path in (corpus, special):
        for call in (lambda path=path: loaded(path), lambda path=path: tokenise(path, "word")):
            (error,) = in_time(call)
            assert isinstance(error, UserError)
            assert name in str(error)
    (error,) = in_time(lambda: parse_data([f"c={special}"]))
    assert isinstance(error, UserError)


@given(pair=st.text(max_size=30) | st.text("ab=./~ \0\n", max_size=30) | st.builds("a={}".format, st.text(max_size=600)))
def test_any_data_option_is_read_or_refused_in_a_line(pair: str) -> None:
    try:
        found = parse_data([pair])
    except UserError:
        return
    assert all(path.exists() for path in found.values())


def test_a_path_that_cannot_be_looked_at_is_refused_in_a_line(tmp_path: Path) -> None:
    for path in ("x" * 300, "x/" * 3000, "a\0b"):
        with pytest.raises(UserError, match="--data c"):
            parse_data([f"c={tmp_path / path}"])
