"""Tokenise text block by block, with a cache for large texts."""

import codecs
import hashlib
import io
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from bench.records.errors import UserError
from bench.tasks.corpora import data_folder, locked_folder
from bench.tasks.splits import split_files
from bench.tasks.task import Split

Unit = Literal["char", "word"]
Ids = npt.NDArray[np.int32]

END_OF_LINE = "<eos>"
_RULES = 2  # version of the tokenisation: a cache of another version is not read
_BLOCK = 1 << 20
_CACHED = 1 << 24  # bytes; a smaller text is tokenised every time, in a second or two
_CONVERT = "If it is UTF-16, convert it: iconv -f UTF-16 -t UTF-8"


@dataclass(frozen=True)
class Tokens:
    """Provisional int32 ids of each split in the order of the text, and the token `names[id]`."""

    streams: Mapping[Split, Ids]
    names: Sequence[str]


def tokenise(path: Path, unit: Unit, published: Mapping[Split, str] | None = None) -> Tokens:
    """Tokenise a file or folder (see Text for how it is read); `published` is as in split_files.

    Needs memory for one block, and for the ids of a small text; the ids of a large one are cached in `data_folder()` by the content
    of its files. Processes wait for each other. UserError for a path that cannot be read, or is not UTF-8.
    """
    files = split_files(path, published or {})
    if sum(file.stat().st_size for part in files.values() for file in part) < _CACHED:
        buffers = {split: io.BytesIO() for split in files}
        names = _write(files, unit, buffers)
        return Tokens({split: np.frombuffer(buffer.getbuffer(), dtype="<i4") for split, buffer in buffers.items()}, names)
    kept = data_folder() / "tokens" / _content(files, unit)
    with locked_folder(kept.parent, f"{kept.name}.lock", f".{kept.name[:8]}-*.tmp"):
        found = _load(kept, files)
        if found is None:
            shutil.rmtree(kept, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{kept.name[:8]}-", suffix=".tmp", dir=kept.parent))
            try:
                with ExitStack() as stack:
                    names = _write(files, unit, {split: stack.enter_context((unfinished / split).open("w+b")) for split in files})
                sizes = {split: (unfinished / split).stat().st_size for split in files}
                (unfinished / "names.json").write_text(json.dumps({"names": names, "sizes": sizes}))
                unfinished.replace(kept)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            found = _load(kept, files)
    if found is None:
        raise UserError(f"cannot read back {kept}, which was just written")
    return found


def _content(files: Mapping[Split, Sequence[Path]], unit: Unit) -> str:
    """Return the SHA-256 of all that the ids depend on."""
    digest = hashlib.sha256(f"{_RULES} {unit}".encode())
    for split, part in files.items():
        for file in part:
            try:
                with file.open("rb") as opened:
                    digest.update(f"\n{split} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
            except OSError as error:
                raise UserError(f"cannot read {file}: {error.strerror}") from error
    return digest.hexdigest()


def _load(kept: Path, files: Iterable[Split]) -> Tokens | None:
    """Map a cache into memory; None where it is incomplete."""
    try:
        header = json.loads((kept / "names.json").read_text())
        if any((kept / split).stat().st_size != header["sizes"][split] for split in files):
            return None
        streams: dict[Split, Ids] = {  # an empty file cannot be mapped
            split: np.memmap(kept / split, dtype="<i4", mode="r") if header["sizes"][split] else np.zeros(0, np.int32)
            for split in files
        }
        return Tokens(streams, header["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(files: Mapping[Split, Sequence[Path]], unit: Unit, outputs: Mapping[Split, BinaryIO]) -> list[str]:
    """Write each split's ids to its output, open for reading and writing; return the names of all ids."""
    return (_write_characters if unit == "char" else _write_words)(files, outputs)


def _write_characters(files: Mapping[Split, Sequence[Path]], outputs: Mapping[Split, BinaryIO]) -> list[str]:
    """Assign ids in the order of code points."""
    used = np.zeros(0x110000, dtype=bool)
    for split, part in files.items():
        for text in _blocks(part):
            points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
            used[points] = True
            outputs[split].write(points.tobytes())
    ids = (np.cumsum(used) - 1).astype("<i4")
    for output in outputs.values():
        output.seek(0)
        _replace(output, ids)
    return [chr(point) for point in np.flatnonzero(used)]


def _replace(file: BinaryIO, ids: Ids) -> None:
    """Replace every number n in the file by ids[n]."""
    while block := file.read(4 * _BLOCK):
        file.seek(-len(block), 1)
        file.write(ids[np.frombuffer(block, dtype="<u4")].tobytes())


def _write_words(files: Mapping[Split, Sequence[Path]], outputs: Mapping[Split, BinaryIO]) -> list[str]:
    """Assign ids in the order in which words first appear."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__  # a new word's id is the number of words before it
    for split, part in files.items():
        for words in _split_words(_blocks(part)):
            outputs[split].write(np.fromiter(map(ids.__getitem__, words), dtype="<i4", count=len(words)).tobytes())
    return list(ids)


def _split_words(blocks: Iterable[str]) -> Iterator[list[str]]:
    begun = ""  # a word cut by the end of a block
    for block in blocks:
        text = begun + block
        begun = "" if not text or text[-1].isspace() else text.rsplit(None, 1)[-1]
        yield text[: len(text) - len(begun)].replace("\n", f" {END_OF_LINE} ").split()
    if begun:
        yield [begun]


def _blocks(files: Sequence[Path]) -> Iterator[str]:
    """Yield the text of the files, one after the other, block by block."""
    for file in files:
        last = ""
        for text in _decoded(file):
            last = text or last
            yield text
        if file is not files[-1] and not last.endswith("\n"):
            yield "\n"  # separate the last word of a file without a final newline from the next file's first


def _decoded(file: Path) -> Iterator[str]:
    """Yield a UTF-8 file block by block, without byte-order mark, CR LF as LF; UserError for another encoding or a NUL byte."""
    decoder, begin, cut = codecs.getincrementaldecoder("utf-8")(), 0, ""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(codecs.BOM_UTF8))
            begin = len(start) if start == codecs.BOM_UTF8 else 0
            opened.seek(begin)
            while block := opened.read(_BLOCK):
                if (nul := block.find(0)) >= 0:
                    raise UserError(
                        f"{file} is not a text in UTF-8: NUL byte at offset {opened.tell() - len(block) + nul}. {_CONVERT}"
                    )
                held = len(decoder.getstate()[0])  # bytes of a character cut by the end of the block
                text = cut + decoder.decode(block)
                begin += held + len(block) - len(decoder.getstate()[0])
                cut = "\r" if text.endswith("\r") else ""  # may be the first half of CR LF
                yield text.removesuffix("\r").replace("\r\n", "\n")
            decoder.decode(b"", final=True)
            yield cut
    except UnicodeDecodeError as error:
        byte, at = error.object[error.start], begin + error.start
        hint = f". {_CONVERT}" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        raise UserError(f"{file} is not UTF-8: byte {byte:#04x} at offset {at}{hint}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
