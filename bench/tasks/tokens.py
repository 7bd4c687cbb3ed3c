"""Text to token ids, block by block: a hundred million words need no more memory than their ids, and are counted once."""

import codecs
import hashlib
import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import UserError
from bench.tasks.published import alone_in, data_folder
from bench.tasks.task import Split

Unit = Literal["char", "word"]
Ids = npt.NDArray[np.int32]

END_OF_LINE = "<eos>"
SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev"),
    "test": ("test",),
}
_RULES = 1  # of tokenisation: a cache made by others is not read
_BLOCK = 1 << 20
_CACHED = 1 << 24  # bytes: a smaller text is tokenised again, in a second or two


@dataclass(frozen=True)
class Tokens:
    """Provisional ids of each split, int32 as they stand in the text, and the token `names[id]`."""

    streams: Mapping[Split, Ids]
    names: Sequence[str]


def tokenise(path: Path, unit: Unit, published: Mapping[Split, str] | None = None) -> Tokens:
    """The tokens of a file or folder (see Text for how it is read), kept for the next time where it is large.

    Needs memory for one block, and for the ids of a text too small to be kept. The cache is by the content of the files, in
    `data_folder()`; processes wait for each other. UserError for a path that cannot be read, or is not UTF-8. `published` is as
    in split_files.
    """
    files = split_files(path, published or {})
    if sum(file.stat().st_size for part in files.values() for file in part) < _CACHED:
        with tempfile.TemporaryDirectory(prefix="deq-bench-") as folder:
            names = _write(files, unit, Path(folder))
            return Tokens({split: np.fromfile(Path(folder) / split, dtype="<i4") for split in files}, names)
    kept = data_folder() / "tokens" / _content(files, unit)
    with alone_in(kept.parent, f"{kept.name}.lock", f".{kept.name[:8]}-*.tmp"):
        found = _load(kept, files)
        if found is None:
            shutil.rmtree(kept, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{kept.name[:8]}-", suffix=".tmp", dir=kept.parent))
            try:
                names = _write(files, unit, unfinished)
                sizes = {split: (unfinished / split).stat().st_size for split in files}
                (unfinished / "names.json").write_text(json.dumps({"names": names, "sizes": sizes}))
                unfinished.replace(kept)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            found = _load(kept, files)
    if found is None:
        raise UserError(f"{kept} does not hold what was just written to it")
    return found


def split_files(path: Path, published: Mapping[Split, str] | None = None) -> dict[Split, list[Path]]:
    """The files of the splits that have one of their own; those of a text without splits, in name order, as train alone.

    Of a text with `published` splits, by the names of their files, each must be there: cut anew it would be another text. A file
    of that very name goes before others (Mikolov's folder has ptb.char.train.txt beside ptb.train.txt).
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if not path.is_dir():
        if published:
            raise UserError(f"{path} is one file; its published splits need a folder with {', '.join(published.values())}")
        return {"train": [path]}
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    named: dict[Split, list[Path]] = {
        split: [file for file in files if set(words) & set(re.split(r"[._-]", file.name.lower()))]
        for split, words in SPLIT_WORDS.items()
    }
    for split, name in (published or {}).items():
        named[split] = [file for file in files if file.name == name] or named[split]
        if not named[split]:
            holds = ", ".join(file.name for file in files[:9]) or "no files"
            raise UserError(
                f"{path} has no {split} file, such as {name}, and the published splits are not cut anew; it has {holds}"
            )
    if named["train"]:
        for split, found in named.items():
            if len(found) > 1:
                raise UserError(f"{path} has {len(found)} {split} files, need one: {', '.join(file.name for file in found)}")
        return {split: found for split, found in named.items() if found}
    joined = [file for file in files if file.suffix == ".txt"] or files
    if not joined:
        raise UserError(f"{path} holds no text: no files in it")
    return {"train": joined}


def _content(files: Mapping[Split, Sequence[Path]], unit: Unit) -> str:
    """SHA-256 of all that the ids depend on."""
    digest = hashlib.sha256(f"{_RULES} {unit}".encode())
    for split, part in files.items():
        for file in part:
            with file.open("rb") as opened:
                digest.update(f"\n{split} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _load(kept: Path, files: Iterable[Split]) -> Tokens | None:
    """What a cache holds, its ids mapped into memory; None where it is not whole."""
    try:
        said = json.loads((kept / "names.json").read_text())
        if any((kept / split).stat().st_size != said["sizes"][split] for split in files):
            return None
        streams: dict[Split, Ids] = {  # nothing of an empty file can be mapped
            split: np.memmap(kept / split, dtype="<i4", mode="r") if said["sizes"][split] else np.zeros(0, np.int32)
            for split in files
        }
        return Tokens(streams, said["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(files: Mapping[Split, Sequence[Path]], unit: Unit, folder: Path) -> list[str]:
    """Write each split's ids to a file of its name; the names of all ids."""
    write = _write_characters if unit == "char" else _write_words
    return write(files, folder)


def _write_characters(files: Mapping[Split, Sequence[Path]], folder: Path) -> list[str]:
    """Ids in the order of code points."""
    used = np.zeros(0x110000, dtype=bool)
    for split, part in files.items():
        with (folder / split).open("wb") as out:
            for text in _blocks(part):
                points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
                used[points] = True
                out.write(points.tobytes())
    ids = (np.cumsum(used) - 1).astype("<i4")
    for split in files:
        with (folder / split).open("r+b") as out:
            _replaced(out, ids)
    return [chr(point) for point in np.flatnonzero(used)]


def _replaced(file: BinaryIO, ids: Ids) -> None:
    """Every number n in the file by ids[n]."""
    while block := file.read(4 * _BLOCK):
        file.seek(-len(block), 1)
        file.write(ids[np.frombuffer(block, dtype="<u4")].tobytes())


def _write_words(files: Mapping[Split, Sequence[Path]], folder: Path) -> list[str]:
    """Ids in the order in which the words first appear."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__  # a new word's id is the number of words before it
    for split, part in files.items():
        with (folder / split).open("wb") as out:
            for words in _split_words(_blocks(part)):
                out.write(np.fromiter(map(ids.__getitem__, words), dtype="<i4", count=len(words)).tobytes())
    return list(ids)


def _split_words(blocks: Iterable[str]) -> Iterator[list[str]]:
    begun = ""  # a word that a block's end cuts
    for block in blocks:
        text = begun + block
        begun = "" if not text or text[-1].isspace() else text.rsplit(None, 1)[-1]
        yield text[: len(text) - len(begun)].replace("\n", f" {END_OF_LINE} ").split()
    if begun:
        yield [begun]


def _blocks(files: Sequence[Path]) -> Iterator[str]:
    """The text of the files, one after the other, block by block."""
    for file in files:
        decoder, begin, last = codecs.getincrementaldecoder("utf-8")(), 0, ""
        try:
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    held = len(decoder.getstate()[0])  # the bytes of a character that the block's end cut
                    text = decoder.decode(block)
                    begin += held + len(block) - len(decoder.getstate()[0])
                    last = text or last
                    yield text
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            byte, at = error.object[error.start], begin + error.start
            raise UserError(f"{file} is not UTF-8: byte {byte:#04x} at offset {at}") from error
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error
        if file is not files[-1] and not last.endswith("\n"):
            yield "\n"  # a file that does not end its last line must not glue its last word to the next file's first
