"""Find the file of each split in a folder by the usual names; ambiguous names are an error."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records.errors import UserError
from bench.tasks.task import Split

SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "validation", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_NAMES = "name the files train.txt, valid.txt and test.txt"


def split_files(path: Path, published: Mapping[Split, str] | None = None) -> dict[Split, list[Path]]:
    """Return the file of each split that has one; the files of a text without splits, in name order, as train.

    UserError wherever the names leave open which text is the test. Files of `published` splits must all exist, since cutting the
    text again would change it; an exact file name has precedence (Mikolov's folder has ptb.char.train.txt next to ptb.train.txt).
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise UserError(f"no such file or folder: {path}")
        if not path.is_file():
            raise UserError(f"{path} is neither a regular file nor a folder: save its text to a file first")
        if published:
            raise UserError(f"{path} is one file; its published splits need a folder with {', '.join(published.values())}")
        return {"train": [path]}
    files, folders = _visible(path)
    named: dict[Split, list[Path]] = {split: [file for file in files if split in splits_in(file.name)] for split in SPLIT_WORDS}
    for split, name in (published or {}).items():
        named[split] = [file for file in files if file.name == name] or named[split]
        if not named[split]:
            raise UserError(f"{path} has no {split} file, such as {name}, which the published splits need; it has {_listed(files)}")
    if any(named.values()) or any(splits_in(folder.name) for folder in folders):
        _check_named(path, named, files, folders)
        return {split: found for split, found in named.items() if found}
    joined = [file for file in files if file.suffix == ".txt"] or files
    if not joined:
        raise UserError(f"{path} holds no text: no files in it")
    alike = _alike(joined)
    if alike:
        raise UserError(f"{path}: {_listed(alike)} differ like the files of splits; {_NAMES}, or join them in one file")
    return {"train": joined}


def splits_in(name: str) -> set[Split]:
    """Return the splits among the words of a file name: `wiki.train.tokens`, `train (1).txt`, `TestSet.txt`, `val2`."""
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))}
    words |= {word.removesuffix(end) for word in words for end in ("set", "data", "split")}
    return {split for split, known in SPLIT_WORDS.items() if words & set(known)}


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the visible files and folders; UserError for anything else (a named pipe, a device, a broken link)."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    for entry in entries:
        if not entry.is_file() and not entry.is_dir():
            raise UserError(f"{entry} is neither a regular file nor a folder, or a broken link: remove it from the folder")
    return [entry for entry in entries if entry.is_file()], [entry for entry in entries if entry.is_dir()]


def _check_named(path: Path, named: Mapping[Split, Sequence[Path]], files: Sequence[Path], folders: Sequence[Path]) -> None:
    """Raise UserError unless train has one file, the others at most one, and no other file could be a missing split."""
    for split, found in named.items():
        if len(found) > 1:
            raise UserError(f"{path} has {len(found)} {split} files, need one: {', '.join(file.name for file in found)}")
    chosen = [file for found in named.values() for file in found]
    for file in chosen:
        if chosen.count(file) > 1:
            raise UserError(f"{file} names more than one split: {_NAMES}")
    missing = [split for split, found in named.items() if not found]
    endings = {".txt", *(file.suffix for file in chosen)}
    others = [file for file in files if file not in chosen and file.suffix in endings]
    others += [folder for folder in folders if splits_in(folder.name) & set(missing)]
    if "train" in missing or (missing and others):
        rest = f" (what is {_listed(others)}?)" if others else ""
        raise UserError(f"{path} has no {' and no '.join(missing)} file next to {_listed(chosen)}{rest}: {_NAMES}")


def _alike(files: Sequence[Path]) -> list[Path]:
    """Return files whose names differ only in the word of a split: wikitrain.txt, wikitest.txt."""
    stems: dict[str, dict[Split, Path]] = {}
    for file in files:
        for split, words in SPLIT_WORDS.items():
            for word in words:
                stem = file.name.lower().replace(word, "\0")
                if "\0" in stem:
                    stems.setdefault(stem, {})[split] = file
    return next((sorted(found.values()) for found in stems.values() if len(set(found.values())) > 1), [])


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:9]) + (f" and {len(files) - 9} more" if len(files) > 9 else "") or "no files"
