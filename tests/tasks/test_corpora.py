"""Published corpora: fetched from a server on loopback, broken off, tampered with, hostile; and tokenised in little memory."""

import errno
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from cases import exhaustive
from running import PATIENCE_S

import bench.tasks.text as text_module
from bench.records.errors import UserError
from bench.tasks.corpora import CORPORA, Corpus, check, fetch, located
from bench.tasks.download import Download
from bench.tasks.text import Text
from bench.tasks.tokens import tokenise
from bench.tasks.unzip import extract

pytestmark = pytest.mark.end_to_end

WORDS = {
    "train": "the cat sat <unk> \n the dog sat \n" * 20,
    "valid": " the cat \n\n the <unk> \n" * 6,
    "test": "a dog\n the cat\n" * 6,
}
COUNTS = {"train": 180, "valid": 42, "test": 36}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass
class Site:
    """A loopback server: what it serves by path, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    refuses: str = "nobody"  # 403 to a client whose name has this in it
    break_after: int | None = None  # bytes of the next answer's body, then the connection is closed
    stalls: bool = False  # it breaks off by sending no more, and leaves the connection open
    ranges: bool = True
    drips: tuple[str, ...] = ()  # of these paths, a byte at a time without end
    compresses: bool = False  # where the client lets it; a range is then one of the compressed bytes
    address: str = ""

    def download(self, name: str, content: bytes, most: int = 10**6) -> Download:
        self.files[f"/{name}"] = content
        return Download(urls=(f"{self.address}/{name}",), checksum=f"md5:{hashlib.md5(content).hexdigest()}", most=most)


@pytest.fixture
def site() -> Iterator[Site]:
    served, over = Site(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            served.seen.append((self.path, wanted))
            served.agents.append(self.headers.get("User-Agent") or "")
            if served.refuses in served.agents[-1].lower():
                self.send_error(403)
                return
            if self.path in served.drips:
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):  # until the client leaves
                    while not over.wait(0.02):
                        self.wfile.write(b"a")
                        self.wfile.flush()
                return
            content = served.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            compressed = served.compresses and "gzip" in (self.headers.get("Accept-Encoding") or "")
            content = gzip.compress(content) if compressed else content
            first = int(re.findall(r"\d+", wanted)[0]) if wanted and served.ranges else 0
            if first and first >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if wanted and served.ranges else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if compressed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            most, served.break_after = served.break_after, None
            self.wfile.write(content[first:] if most is None else content[first : first + most])
            if most is not None and served.stalls:
                self.wfile.flush()
                over.wait(PATIENCE_S)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()  # seconds between looks for its end
    yield served
    over.set()
    server.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEQ_BENCH_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def zipped(members: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zipped_with(name: str) -> bytes:
    """A good archive but for a member more, of a name that no one should trust."""
    return zipped({name: "x", **{f"mini/{split}.tokens": text for split, text in WORDS.items()}})


def linking() -> bytes:
    """The training split is a link to a file outside."""
    buffer = io.BytesIO(zipped({f"mini/{split}.tokens": text for split, text in WORDS.items() if split != "train"}))
    link = zipfile.ZipInfo("mini/train.tokens")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # 3: Unix, whose modes these are
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def encrypted() -> bytes:
    """Every header says so, which is bit 0 of the flags: 6 bytes into a local header, 8 into a central one."""
    content = bytearray(zipped({f"mini/{split}.tokens": text for split, text in WORDS.items()}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + flags] |= 1
    return bytes(content)


def plain(site: Site, **changes: object) -> Corpus:
    files = {f"mini.{split}.txt": site.download(f"mini.{split}.txt", text.encode()) for split, text in WORDS.items()}
    return replace(Corpus(name="mini", downloads=files, tokens=COUNTS, vocabulary=6), **changes)  # type: ignore[arg-type]


def packed(site: Site, content: bytes | None = None, largest: int = 10_000) -> Corpus:
    content = zipped({f"mini/{split}.tokens": text for split, text in WORDS.items()}) if content is None else content
    return Corpus(
        name="mini",
        downloads={"mini.zip": site.download("mini.zip", content)},
        members={f"mini/{split}.tokens": f"{split}.tokens" for split in WORDS},
        largest=largest,
        tokens=COUNTS,
        vocabulary=6,
    )


def left(folder: Path) -> list[str]:
    """Every file below a folder but locks."""
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".lock"))


@pytest.mark.parametrize("make", [plain, packed])
def test_a_corpus_is_fetched_once_and_loaded_as_published(
    make: Callable[[Site], Corpus], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make(site)
    monkeypatch.setattr(text_module, "CORPORA", {"mini": corpus})
    task = Text(data="mini", paths={}, unit="word", length=4)
    assert task.vocabulary == 6
    assert {split: len(stream) for split, stream in task.tokens.items()} == COUNTS
    asked = len(site.seen)
    assert asked == len(corpus.downloads)
    again = Text(data="mini", paths={}, unit="word", length=4)
    assert len(site.seen) == asked
    assert again.fingerprint() == task.fingerprint()


def test_the_archive_is_not_kept_and_the_folder_has_the_members_alone(site: Site, home: Path) -> None:
    fetch(packed(site))
    assert left(home) == [f"mini/text/{split}.tokens" for split in ("test", "train", "valid")]


def test_another_mirror_is_asked_where_one_fails(site: Site) -> None:
    corpus = plain(site)
    good = corpus.downloads["mini.train.txt"]
    site.files["/tampered"] = b"other bytes"
    urls = ("http://127.0.0.1:9/closed", f"{site.address}/missing", f"{site.address}/tampered", *good.urls)
    corpus = replace(corpus, downloads={**corpus.downloads, "mini.train.txt": replace(good, urls=urls)})
    assert (fetch(corpus) / "mini.train.txt").read_text() == WORDS["train"]


@pytest.mark.parametrize("library", ["python", "urllib", "requests", "pooch"])
def test_a_host_that_refuses_the_names_of_libraries_serves_this_program(site: Site, library: str) -> None:
    site.refuses = library
    assert (fetch(packed(site)) / "train.tokens").read_text() == WORDS["train"]
    assert re.fullmatch(r"deq-bench(/[\w.+]+)?", site.agents[-1])


def test_where_all_mirrors_fail_each_is_named_with_its_reason_and_nothing_is_left(site: Site, home: Path) -> None:
    corpus = plain(site)
    site.files["/tampered"] = b"other bytes"
    urls = ("http://127.0.0.1:9/closed", f"{site.address}/missing", f"{site.address}/tampered")
    bad = replace(corpus.downloads["mini.train.txt"], urls=urls)
    with pytest.raises(UserError) as caught:
        fetch(replace(corpus, downloads={"mini.train.txt": bad}))
    message = str(caught.value)
    assert all(url in message for url in urls)
    assert "no connection" in message
    assert "404" in message
    assert "checksum" in message
    assert "--data mini=PATH" in message
    assert left(home) == []


def large(site: Site) -> Corpus:
    return packed(site, zipped({"extra": os.urandom(100_000), **{f"mini/{split}.tokens": text for split, text in WORDS.items()}}))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(site: Site, home: Path, ranges: bool) -> None:
    corpus, site.ranges, site.break_after = large(site), ranges, 70_000
    assert (fetch(corpus) / "train.tokens").read_text() == WORDS["train"]
    (first, nothing), (second, wanted) = site.seen
    assert (first, nothing, second) == ("/mini.zip", None, "/mini.zip")
    assert wanted is not None
    assert 50_000 < int(wanted.removeprefix("bytes=").removesuffix("-")) <= 70_000


def test_a_mirror_that_brings_no_more_is_left_and_the_next_run_goes_on(site: Site, home: Path) -> None:
    corpus, site.break_after = large(site), 70_000
    content = site.files["/mini.zip"]
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # bound, not listening: refused
        closed = f"http://127.0.0.1:{gone.getsockname()[1]}/mini.zip"
        (home / "mini").mkdir(parents=True)
        (home / "mini" / "mini.zip.part").write_bytes(content[:60_000])
        download = replace(corpus.downloads["mini.zip"], urls=(closed,))
        with pytest.raises(UserError, match="no connection"):
            fetch(replace(corpus, downloads={"mini.zip": download}))
    assert left(home) == ["mini/mini.zip.part"]
    assert (fetch(corpus) / "train.tokens").read_text() == WORDS["train"]
    assert site.seen == [("/mini.zip", "bytes=60000-")]


def test_a_part_is_continued_in_bytes_of_the_file_not_of_a_compressed_answer(site: Site, home: Path) -> None:
    corpus, site.compresses = plain(site), True
    (home / "mini").mkdir(parents=True)
    (home / "mini" / "mini.train.txt.part").write_text(WORDS["train"][:50])
    assert (fetch(corpus) / "mini.train.txt").read_text() == WORDS["train"]


def test_a_host_that_drops_packets_costs_seconds_whatever_its_addresses_and_mirrors(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tasks.download._HEAD", 1.0)
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        waiting = [socket.socket() for _ in range(3)]  # its queue is full: a further connection waits without end
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
        urls = tuple(f"http://127.0.0.1:{hole.getsockname()[1]}/{name}" for name in "abcde")
        corpus = Corpus(name="mini", downloads={"a.txt": Download(urls=urls, checksum="md5:0", most=10)})
        start = time.perf_counter()
        with pytest.raises(UserError, match=r"/a: no connection \(no answer within 1 s\); .*/e: .*the same host.*--data mini=PATH"):
            fetch(corpus)
        assert time.perf_counter() - start < 4.5  # five mirrors, one host
        for one in waiting:
            one.close()


@pytest.mark.exhaustive
def test_a_download_that_was_killed_goes_on(site: Site, home: Path) -> None:
    corpus, site.break_after, site.stalls = large(site), 70_000, True
    process = multiprocessing.get_context("spawn").Process(target=_fetch_slowly, args=(corpus, str(home)))
    process.start()
    part = home / "mini" / "mini.zip.part"
    end = time.monotonic() + PATIENCE_S
    while not part.exists() or not part.stat().st_size:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_S)
    assert left(home) == ["mini/mini.zip.part"]
    assert (fetch(corpus) / "train.tokens").read_text() == WORDS["train"]
    assert site.seen[1][1] is not None
    assert left(home) == [f"mini/text/{split}.tokens" for split in ("test", "train", "valid")]


@pytest.mark.parametrize("part", [b"rubbish", b"x" * 50_000])
def test_what_another_download_left_behind_does_no_harm(site: Site, home: Path, part: bytes) -> None:
    corpus = packed(site)
    (home / "mini").mkdir(parents=True)
    (home / "mini" / "mini.zip.part").write_bytes(part)
    assert (fetch(corpus) / "test.tokens").read_text() == WORDS["test"]


def test_what_the_user_keeps_in_the_folder_of_a_corpus_stays(site: Site, home: Path) -> None:
    (home / "mini" / ".text-mine.tmp").mkdir(parents=True)
    (home / "mini" / "tmp").mkdir()
    mine = ["mini/.text-abcdefgh.tmp", "mini/.text-mine.tmp/a", "mini/tmp/a", "mini/tmp1234_abc", "mini/tmpnotes.txt"]
    for name in mine:
        (home / name).write_text("mine")
    fetch(packed(site))
    assert {*left(home)} >= {*mine}


@pytest.mark.parametrize("kind", ["link", "dangling link", "second name", "pipe"])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_part_that_leads_elsewhere_is_not_written_to(kind: str, resumes: bool, site: Site, home: Path, tmp_path: Path) -> None:
    corpus, site.ranges = packed(site), resumes
    mine, part = tmp_path / "mine.txt", home / "mini" / "mini.zip.part"
    mine.write_text("mine")
    part.parent.mkdir(parents=True)
    if kind == "second name":
        part.hardlink_to(mine)
    elif kind == "pipe":
        os.mkfifo(part)
    else:
        part.symlink_to(mine if kind == "link" else tmp_path / "absent")
    assert (fetch(corpus) / "train.tokens").read_text() == WORDS["train"]
    assert mine.read_text() == "mine"
    assert not (tmp_path / "absent").exists()


def test_a_mirror_that_drips_is_left_for_the_next_and_frees_the_folder(
    site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tasks.download._GRACE", 0.3)
    site.drips = ("/slow/a", "/slow/b")
    corpus = plain(site)
    good = corpus.downloads["mini.train.txt"]
    slow = tuple(f"{site.address}{path}" for path in site.drips)
    with pytest.raises(UserError, match=r"/slow/a: too slow: \d+ bytes in .*/slow/b: too slow"):
        fetch(replace(corpus, downloads={**corpus.downloads, "mini.train.txt": replace(good, urls=slow)}))
    corpus = replace(corpus, downloads={**corpus.downloads, "mini.train.txt": replace(good, urls=(*slow, *good.urls))})
    assert (fetch(corpus) / "mini.train.txt").read_text() == WORDS["train"]


def test_a_body_without_end_is_cut_off(site: Site, home: Path) -> None:
    content = b"a" * 3_000_000
    corpus = Corpus(name="mini", downloads={"a.txt": site.download("a.txt", content, most=1_500_000)})
    with pytest.raises(UserError, match="larger than the maximum of 1,500,000 bytes"):
        fetch(corpus)
    assert left(home) == []


HOSTILE = {
    "truncated": (zipped({f"mini/{s}.tokens": t * 50 for s, t in WORDS.items()})[:-40], "truncated or damaged"),
    "no zip": (b"<html>Moved</html>" * 30, "truncated or damaged"),
    "traversal": (zipped_with("../../evil.txt"), "path '../../evil.txt'"),
    "absolute": (zipped_with("/etc/evil"), "path '/etc/evil'"),
    "backslashes": (zipped_with("a\\..\\..\\..\\evil.txt"), "it contains the path"),
    "a backslash": (zipped_with("\\evil.txt"), "it contains the path"),
    "drive": (zipped_with("C:/evil.txt"), "path 'C:/evil.txt'"),
    "drive without a slash": (zipped_with("C:evil.txt"), "path 'C:evil.txt'"),
    "link": (linking(), "mini/train.tokens is not a file"),
    "encrypted": (encrypted(), "truncated or damaged"),
    "a name that is not UTF-8": (zipped_with("é").replace("é".encode(), b"\xff\xfe"), "truncated or damaged"),
    "incomplete": (zipped({"mini/train.tokens": "a b"}), "incomplete"),
    "bomb": (zipped({f"mini/{s}.tokens": b"a" * 5_000_000 for s in WORDS}), "larger than the maximum of 10,000 bytes"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(site: Site, home: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        fetch(packed(site, content))
    assert left(home) == []
    assert not (home.parent / "evil.txt").exists()


COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize(
    ("compression", "every"), [*((one, 7) for one in COMPRESSIONS), *exhaustive(*((one, 1) for one in COMPRESSIONS))]
)
def test_whatever_byte_is_flipped_it_is_the_right_text_or_a_refusal(compression: int, every: int, tmp_path: Path) -> None:
    """So many bytes of the archive, in turn, by an amount drawn at random; and pairs of them."""
    text, draw = random_text(60).encode(), random.Random(0)
    whole, file = zipped({"a.txt": text, "é.txt": text}, compression), tmp_path / "a.zip"
    places = [[place] for place in range(0, len(whole), every)] + [
        draw.choices(range(len(whole)), k=2) for _ in range(200 // every)
    ]
    outcomes = set()
    for flipped in places:
        content = bytearray(whole)
        for place in flipped:
            content[place] ^= draw.randrange(1, 256)
        file.write_bytes(content)
        try:
            extract(file, {"a.txt": "a.txt", "é.txt": "b.txt"}, tmp_path / "out", 10_000)
        except UserError:
            outcomes.add("refused")
            assert left(tmp_path) == ["a.zip"], flipped
        else:
            outcomes.add("right")
            assert {name: (tmp_path / "out" / name).read_bytes() for name in ("a.txt", "b.txt")} == {"a.txt": text, "b.txt": text}
            shutil.rmtree(tmp_path / "out")
    assert outcomes == {"refused", "right"}


def test_an_archive_whose_bytes_were_changed_inside_a_member_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.txt": os.urandom(4000)}))
    content[2000] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged"):
        extract(tmp_path / "a.zip", {"a.txt": "a.txt"}, tmp_path / "out", 10_000)
    assert left(tmp_path) == ["a.zip"]


def test_a_bomb_that_lies_about_its_size_is_cut_off(tmp_path: Path) -> None:
    """The declared size, four bytes of the central directory and of the local header, says 10."""
    content = zipped({"a.txt": b"a" * 5_000_000})
    lied = content.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lied != content
    (tmp_path / "a.zip").write_bytes(lied)
    with pytest.raises(UserError):
        extract(tmp_path / "a.zip", {"a.txt": "a.txt"}, tmp_path / "out", 1_000_000)
    assert left(tmp_path) == ["a.zip"]


def test_the_users_own_archive_is_taken_if_it_is_the_published_one(site: Site, tmp_path: Path) -> None:
    corpus = packed(site)
    mine = tmp_path / "mine.zip"
    mine.write_bytes(site.files["/mini.zip"])
    assert (located(corpus, mine) / "train.tokens").read_text() == WORDS["train"]
    assert site.seen == []
    mine.write_bytes(site.files["/mini.zip"] + b" ")
    with pytest.raises(UserError, match="not the published archive"):
        located(corpus, mine)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_folder_that_is_not_the_corpus_it_claims_to_be_is_refused(
    split: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "CORPORA", {"mini": plain(site)})
    for name, text in WORDS.items():
        (tmp_path / f"mini.{name}.txt").write_text(text + ("\n" if name == split else ""))
    with pytest.raises(UserError, match=f"is not mini: {COUNTS[split] + 1} {split} tokens where {COUNTS[split]} were published"):
        Text(data="mini", paths={"mini": tmp_path}, unit="word", length=4)
    assert Text(data="mini", paths={"mini": tmp_path}, unit="char", length=4).vocabulary > 6
    (tmp_path / f"mini.{split}.txt").write_text(WORDS[split])
    assert Text(data="mini", paths={"mini": tmp_path}, unit="word", length=4).vocabulary == 6


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_published_corpus_without_one_of_its_splits_is_refused_not_cut(
    split: str, unit: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "CORPORA", {"mini": plain(site)})
    for name in {*WORDS} - {split}:
        (tmp_path / f"{name}.txt").write_text(WORDS[name])
    with pytest.raises(UserError, match=rf"has no {split} file, such as mini\.{split}\.txt.*it has "):
        Text(data="mini", paths={"mini": tmp_path}, unit=unit, length=4)  # type: ignore[arg-type]
    (tmp_path / "one.txt").write_text(WORDS["train"])
    with pytest.raises(UserError, match=r"one\.txt is one file; .* a folder with mini\.train\.txt"):
        Text(data="mini", paths={"mini": tmp_path / "one.txt"}, unit=unit, length=4)  # type: ignore[arg-type]


def test_a_file_of_the_published_name_goes_before_its_neighbours(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "CORPORA", {"mini": plain(site)})
    for name, text in WORDS.items():
        (tmp_path / f"mini.{name}.txt").write_text(text)
        (tmp_path / f"mini.char.{name}.txt").write_text("t h e _ c a t\n")
    assert Text(data="mini", paths={"mini": tmp_path}, unit="word", length=4).vocabulary == 6


def test_a_folder_for_data_that_cannot_be_written_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.tokens._CACHED", 0)
    (tmp_path / "a.txt").write_text("one two")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEQ_BENCH_DATA", str(tmp_path / "file" / "below"))
    for act in (lambda: fetch(plain(site)), lambda: tokenise(tmp_path / "a.txt", "word")):
        with pytest.raises(UserError, match=r"cannot write to .*file/below.*; DEQ_BENCH_DATA names another folder"):
            act()


def test_the_vocabulary_of_a_published_corpus_is_whole_unless_it_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "CORPORA", {"mini": plain(site)})
    task = Text(data="mini", paths={}, unit="word", length=4, vocabulary_size=3)
    assert task.symbols == ["<eos>", "sat", "the", "<unk>"]  # twice a line pair each; equals in the order of the words


def test_a_name_that_is_neither_given_nor_published_lists_both() -> None:
    with pytest.raises(UserError, match=r"--data mine=PATH.*downloadable: ptb, tinyshakespeare, wikitext-103, wikitext-2"):
        Text(data="mine", paths={})


def test_the_published_numbers_are_those_of_the_literature() -> None:
    found = {name: (*corpus.tokens.values(), corpus.vocabulary) for name, corpus in CORPORA.items() if corpus.vocabulary}
    assert found == {
        "ptb": (929_589, 73_760, 82_430, 10_000),
        "wikitext-2": (2_088_628, 217_646, 245_569, 33_278),
        "wikitext-103": (103_227_021, 217_646, 245_569, 267_735),
    }
    assert all(len(d.urls) > 1 for corpus in CORPORA.values() for d in corpus.downloads.values() if corpus.vocabulary)
    assert all(url.startswith("https://") for c in CORPORA.values() for d in c.downloads.values() for url in d.urls)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_end_of_sentence_rule_gives_the_published_counts_of_real_text(split: str) -> None:
    file = SHARED / "wikitext-2" / f"{split}.txt"
    if not file.exists():
        pytest.skip("needs WikiText-2's held-out files")
    assert len(tokenise(file, "word").streams["train"]) == CORPORA["wikitext-2"].tokens[split]  # type: ignore[index]


def test_the_real_tinyshakespeare_has_the_checksum() -> None:
    file = SHARED / "tinyshakespeare" / "input.txt"
    if not file.exists():
        pytest.skip("needs tinyshakespeare")
    (download,) = CORPORA["tinyshakespeare"].downloads.values()
    assert download.checksum == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def _fetch_slowly(corpus: Corpus, home: str) -> None:
    os.environ["DEQ_BENCH_DATA"] = home
    fetch(corpus)


@pytest.mark.exhaustive
def test_two_processes_fetch_once_and_a_killed_one_does_no_harm(site: Site, home: Path) -> None:
    corpus = packed(site)
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch_slowly, args=(corpus, str(home))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(site.seen) == 1
    assert left(home) == [f"mini/text/{split}.tokens" for split in ("test", "train", "valid")]


KILLED = """
import os, sys, bench.tasks.unzip as archive
from pathlib import Path
write = archive._write
def die(opened, member, file, most):
    write(opened, member, file, most)
    os.kill(os.getpid(), 9)
archive._write = die
archive.extract(Path(sys.argv[1]), {"mini/train.tokens": "train.tokens"}, Path(sys.argv[2]), 10_000)
"""


def test_an_extraction_that_was_killed_is_done_again(site: Site, home: Path, tmp_path: Path) -> None:
    corpus = packed(site)
    (tmp_path / "a.zip").write_bytes(site.files["/mini.zip"])
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.zip", home / "mini" / "text"], check=False)
    assert ended.returncode == -9
    assert (fetch(corpus) / "train.tokens").read_text() == WORDS["train"]


# tokens ---------------------------------------------------------------------------------------------------------------


def random_text(words: int, seed: int = 0) -> str:
    numbers = np.random.default_rng(seed).zipf(1.3, words) % 50_000
    return " ".join(f"w{n}" + ("\n" if n % 7 == 0 else "") for n in numbers)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_blocks_and_the_cache_change_no_id(unit: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, seed in (("train", 0), ("valid", 1), ("test", 2)):
        (folder / f"{split}.txt").write_text(random_text(20_000, seed) + "é€😀")
    plain = tokenise(folder, unit)  # type: ignore[arg-type]
    assert not home.exists()
    monkeypatch.setattr("bench.tasks.tokens._BLOCK", 1 << 10)
    monkeypatch.setattr("bench.tasks.tokens._CACHED", 0)
    for _ in range(2):
        kept = tokenise(folder, unit)  # type: ignore[arg-type]
        assert list(kept.names) == list(plain.names)
        assert all(np.array_equal(kept.streams[split], plain.streams[split]) for split in ("train", "valid", "test"))
    found = next((home / "tokens").glob("*/train"))
    assert left(home / "tokens") == [f"{found.parent.name}/{name}" for name in ("names.json", "test", "train", "valid")]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_words_are_those_of_each_line_wherever_blocks_end(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against str.split line by line, with every white space that Python knows, and characters of one to four bytes; by character,
    CR LF is one newline."""
    monkeypatch.setattr("bench.tasks.tokens._BLOCK", block)
    letters = np.random.default_rng(0).choice(list("aé€😀 \n\t\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000"), 600)
    for end in ("", "x", "\n", "é"):
        text = "".join(letters) + end
        (tmp_path / "a.txt").write_bytes(text.encode())
        lines = text.split("\n")
        words = [word for line in lines[:-1] for word in [*line.split(), "<eos>"]] + lines[-1].split()
        tokens = tokenise(tmp_path / "a.txt", "word")
        assert [tokens.names[token] for token in tokens.streams["train"]] == words
        tokens = tokenise(tmp_path / "a.txt", "char")
        assert "\r\n" in text
        assert "".join(tokens.names[token] for token in tokens.streams["train"]) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("cached", [0, 1 << 24])
def test_a_full_temporary_folder_keeps_no_text_from_being_read(
    cached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bench.tasks.tokens._CACHED", cached)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    monkeypatch.setattr(tempfile, "gettempdir", full)
    (tmp_path / "a.txt").write_text("one two")
    if cached:
        assert list(tokenise(tmp_path / "a.txt", "word").names) == ["one", "two"]
    else:  # a large text is kept in the folder for data, which is then what is full
        with pytest.raises(UserError, match=r"cannot write to .*No space left.*; DEQ_BENCH_DATA names another folder"):
            tokenise(tmp_path / "a.txt", "word")


def test_an_empty_split_of_a_large_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.tokens._CACHED", 0)
    for name, text in (("train", "a b c " * 50), ("valid", " "), ("test", "a b c " * 50)):
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(UserError, match=r"the valid text of 'mine' .* is empty"):
        Text(data="mine", paths={"mine": tmp_path}, unit="word", length=4)


@pytest.mark.parametrize("damage", ["truncated", "no names", "half names"])
def test_a_damaged_cache_is_made_again(damage: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.tokens._CACHED", 0)
    (tmp_path / "a.txt").write_text(random_text(3000))
    before = np.array(tokenise(tmp_path / "a.txt", "word").streams["train"])
    (kept,) = (home / "tokens").glob("*/train")
    if damage == "truncated":
        kept.write_bytes(kept.read_bytes()[:-4])
    elif damage == "no names":
        kept.with_name("names.json").unlink()
    else:
        kept.with_name("names.json").write_text(kept.with_name("names.json").read_text()[:50])
    assert np.array_equal(tokenise(tmp_path / "a.txt", "word").streams["train"], before)


def test_the_cache_goes_by_the_content(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.tokens._CACHED", 0)
    for name, text in (("a", "one two"), ("b", "one two"), ("c", "one three")):
        (tmp_path / f"{name}.txt").write_text(text)
        assert list(tokenise(tmp_path / f"{name}.txt", "word").names) == text.split()
    assert len(list((home / "tokens").glob("*/train"))) == 2


MEASURED = """
import resource, sys
from pathlib import Path
from bench.tasks.tokens import tokenise
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = tokenise(Path(sys.argv[1]), "word")
print(len(tokens.streams["train"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("ends", ["", *exhaustive("\n")], ids=["one line", "lines"])
def test_tokenising_needs_memory_for_a_block_and_not_for_the_text(ends: str, tmp_path: Path) -> None:
    """A text of 32 MiB, 9 million words: as one list of strings it would need some 700 MiB."""
    block = random_text(200_000).replace("\n", ends).encode()
    repeats = (32 << 20) // len(block)
    (tmp_path / "big.txt").write_bytes((block + b" ") * repeats)
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", MEASURED, tmp_path / "big.txt"], capture_output=True, text=True, check=True)
    count, kilobytes = json.loads("[" + out.stdout.strip().replace(" ", ",") + "]")
    assert count >= 200_000 * repeats
    assert kilobytes < 120 * 1024, f"{kilobytes} KiB in {time.perf_counter() - start:.0f} s"


OF_TEXT = """
import sys
from pathlib import Path
from bench.tasks.text import Text
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
task = Text(data="mine", paths={"mine": Path(sys.argv[1])}, unit="word")
print(sum(len(stream) for stream in task.tokens.values()), peak() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmHWM of /proc")
def test_a_text_takes_nine_bytes_a_token_and_what_a_block_takes(tmp_path: Path) -> None:
    """24 MiB, 6 million words: their ids, 4 bytes each, read from the cache (mapped, so it counts too) and renamed into memory."""
    block = random_text(200_000).encode()
    (tmp_path / "big.txt").write_bytes((block + b" ") * ((24 << 20) // len(block)))
    out = subprocess.run([sys.executable, "-c", OF_TEXT, tmp_path / "big.txt"], capture_output=True, text=True, check=True)
    tokens, kilobytes = map(int, out.stdout.split())
    assert tokens > 5_000_000
    assert kilobytes * 1024 < 9 * tokens + (64 << 20), f"{kilobytes} KiB for {tokens} tokens"


def test_check_says_every_number_that_is_wrong(tmp_path: Path) -> None:
    corpus = CORPORA["ptb"]
    check(corpus, tmp_path, dict(corpus.tokens), 10_000)
    with pytest.raises(UserError, match=r"1 train tokens where 929,589.*; 0 test tokens.*; 9,999 different words where 10,000"):
        check(corpus, tmp_path, {"train": 1, "valid": 73_760}, 9_999)
