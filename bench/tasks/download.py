"""Download one published file from the first mirror that serves it whole, resuming where a connection broke."""

import importlib.metadata
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

_CONNECT, _HEAD, _SILENCE = 3.0, 6.0, 30.0  # seconds
_TRIES = 5  # per mirror, as long as each brings more bytes
_GRACE, _SLOWEST = 15.0, 20_000  # a mirror gets so many seconds, plus one per so many bytes received
_BLOCK = 1 << 14  # bytes; the last block is lost when a connection breaks


@dataclass(frozen=True, kw_only=True)
class Download:
    """One published file: its mirrors, its checksum in pooch's notation ("md5:..."), and its maximal size in bytes."""

    urls: tuple[str, ...]
    checksum: str
    most: int


def has_checksum(file: Path, checksum: str) -> bool:
    """Whether the file exists and has the checksum."""
    algorithm, _, expected = checksum.partition(":")
    return file.is_file() and bool(pooch.file_hash(str(file), alg=algorithm) == expected)


def retrieve(download: Download, target: Path) -> list[str]:
    """Download the file from the first mirror that serves it whole; return the mirrors' failures, empty on success."""
    if has_checksum(target, download.checksum):
        return []
    part = _Part(target.with_name(f"{target.name}.part"))
    failures, silent = [], set[str]()
    for url in download.urls:
        host = urlsplit(url).netloc
        for _ in range(2 if part.size() else 1):  # a second time from the start, if another mirror's partial file was wrong
            try:
                if host in silent:
                    raise _NoAnswerError("the same host")
                pooch.get_logger().info("Downloading %s", url)
                _download(url, part, download.most)
                if has_checksum(part.path, download.checksum):
                    part.path.replace(target)
                    return []
                part.path.unlink()
                reason = "wrong checksum"
            except (requests.RequestException, ValueError) as error:
                reason = _reason(error)
                if isinstance(error, _NoAnswerError):
                    silent.add(host)
            if part.size():
                break
        failures.append(f"{url}: {reason}")
    return failures


class _NoAnswerError(requests.ConnectionError):
    """The host does not answer."""


def _reason(error: Exception) -> str:
    if isinstance(error, requests.ConnectionError) and error.args:
        reason = str(getattr(error.args[0], "reason", error.args[0])).rpartition(": ")[2]
        return f"no connection ({reason})" if isinstance(error, _NoAnswerError) else f"connection broken ({reason})"
    return str(error).split("\n")[0]


def _ask(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Return the head of an answer within `_HEAD` seconds; requests does not limit the resolver or the number of addresses."""
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
        raise _NoAnswerError(f"no answer within {_HEAD:g} s")
    if isinstance(answers[0], requests.ConnectionError):
        raise _NoAnswerError(*answers[0].args) from answers[0]
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _agent() -> str:
    """Return this program's name and version: some hosts refuse the user agents of HTTP libraries."""
    try:
        return f"deq-bench/{importlib.metadata.version('deq-bench')}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "deq-bench"


class _Part:
    """The partial file of a download; never a link or another file of the user's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """Return its size; remove anything but a regular file with one name."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return found.st_size
        self.path.unlink()
        return 0

    def open(self, mode: str) -> BinaryIO:
        """Open the file for writing, without following links."""
        self.size()
        return open(self.path, mode, opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666))  # type: ignore[return-value]


def _download(url: str, part: _Part, most: int) -> None:
    """Write the file to its part, resuming at the part's end if the server supports it."""
    for left in reversed(range(_TRIES)):
        have = part.size()
        try:
            _stream(url, part, have, most)
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if not left or part.size() <= have:
                raise


def _stream(url: str, part: _Part, have: int, most: int) -> None:
    # identity: a range of a compressed answer would count compressed bytes
    wanted = {"Accept-Encoding": "identity", "User-Agent": _agent()} | ({"Range": f"bytes={have}-"} if have else {})
    with _ask(url, wanted) as answer:
        if have and answer.status_code == 416:  # no more bytes: the part is whole, or of another file
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
                    raise ValueError(f"larger than the maximum of {most:,} bytes")
                file.write(block)


def _body(answer: requests.Response) -> Iterator[bytes]:
    """Yield the answer's body as it arrives; requests.RequestException where it is too slow."""
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
