"""Text: next-token prediction on any UTF-8 file or folder that the user has, by character or by word."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bench.errors import UserError, unknown
from bench.tasks.task import Metric, Split, Task, derive_seed

Unit = Literal["char", "word"]
Ids = npt.NDArray[np.int32]

UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"
SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev"),
    "test": ("test",),
}


class Text(Task):
    """Any UTF-8 text as a stream of characters or words, its vocabulary taken from the training split alone.

    `data` names a corpus and `paths` says where each name's file or folder lies. A folder with a file that has "train"
    among the parts of its name (train.txt, wiki.train.tokens, ptb-train.txt) is read by split, likewise "valid",
    "validation" or "dev", and "test"; a split without a file is cut from the end of train, 5 % of the tokens each. Any
    other folder's *.txt (without one: all its visible files) are joined in name order, and cut, like a single file,
    into 90 % train, 5 % valid, 5 % test.

    "word": tokens are separated by white space and every newline is an `<eos>`; the `vocabulary_size` most frequent
    words of train (equals: in the order of the words) have ids, all others are `<unk>`, which is added where the text
    has none. "char": every character of train has an id and `<unk>` stands for others; `vocabulary_size` does not
    apply. `symbols[id]` is the token.

    Training reads `size` lanes of the stream side by side: batch n + 1 goes on where batch n stopped, in each lane. An
    epoch ends when the lanes do; the next, like the first, starts at an offset into the circular stream that depends on
    the seed and the epoch, so only there does a batch not continue the last. Evaluation cuts a split into windows of
    `length` and scores each token once; what is left at the end of the split, shorter than a window, is not scored,
    whatever the batch size.

    Chance is the training split's token frequencies, plus one each, as a prediction of the scored test tokens.
    """

    streams = True

    def __init__(
        self,
        *,
        data: str,
        paths: Mapping[str, Path],
        unit: Unit = "char",
        length: int = 64,
        vocabulary_size: int = 10_000,
    ) -> None:
        if data not in paths:
            known = ", ".join(sorted(paths)) or "none"
            raise UserError(f"no path for corpus {data!r}: pass --data {data}=PATH. Known: {known}")
        if unit not in get_args(Unit):
            raise unknown("unit", unit, get_args(Unit))
        for name, value in (("length", length), ("vocabulary_size", vocabulary_size)):
            if value < 1:
                raise UserError(f"text: {name} must be at least 1, got {value}")
        self.data = data
        self.unit = unit
        self.length = length

        texts = _read(Path(paths[data]))
        for split, text in texts.items():
            if not text:
                raise UserError(f"the {split} text of {data!r} ({paths[data]}) is empty")
        streams, names = _characters(texts) if unit == "char" else _words(texts)
        streams = _cut(streams)
        for split, stream in streams.items():
            if len(stream) <= length:
                place = f"the {split} split of {data!r} ({paths[data]}) has {len(stream)} tokens"
                raise UserError(f"{place}: too few for length {length}, which needs {length + 1}")
        counts = np.bincount(streams["train"], minlength=len(names))
        self.symbols, remap = _vocabulary(names, counts, len(names) if unit == "char" else vocabulary_size, unit)
        self.vocabulary = len(self.symbols)
        self.tokens: dict[Split, Tensor] = {split: torch.from_numpy(remap[stream]) for split, stream in streams.items()}
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        counts = torch.bincount(self.tokens["train"], minlength=self.vocabulary).double() + 1
        scored = self.tokens["test"][1 : self._windows("test") * self.length + 1]
        chance = -float((counts / counts.sum()).log()[scored].mean())
        metrics = {
            "loss": Metric(unit="nats/token", better="lower", chance=chance),
            "perplexity": Metric(unit="per token", better="lower", chance=_exp(chance)),
        }
        if self.unit == "char":
            metrics["bits_per_char"] = Metric(unit="bits/char", better="lower", chance=chance / math.log(2))
        return metrics

    def _windows(self, split: Split) -> int:
        return (len(self.tokens[split]) - 1) // self.length

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Training lanes without end, or every window of a held-out split once.

        The windows of a held-out split are dealt to `size` lanes, each contiguous; where they do not divide evenly the
        first lanes hold one more, which makes a last and smaller batch that goes on in those lanes.
        """
        if split not in self.tokens:
            raise unknown("split", split, self.tokens)
        if size < 1:
            raise UserError(f"text: batch size must be at least 1, got {size}")
        if split != "train":
            return self._evaluation(split, size, first)
        most = len(self.tokens["train"]) // self.length
        if size > most:
            raise UserError(
                f"batch size {size} at length {self.length} needs {size * self.length} training tokens; "
                f"{self.data!r} has {len(self.tokens['train'])}, enough for batches up to {most}"
            )
        return self._train(size, seed, first)

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream = self.tokens["train"]
        lane = len(stream) // size
        places = lane * torch.arange(size)[:, None] + torch.arange(self.length + 1)
        for number in count(first):
            epoch, step = divmod(number, lane // self.length)
            offset = derive_seed("text", "offset", seed, epoch) % len(stream)
            yield _pair(stream[(places + offset + step * self.length) % len(stream)])

    def _evaluation(self, split: Split, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream = self.tokens[split]
        full, longer = divmod(self._windows(split), size)
        lanes = torch.arange(size)
        starts = lanes * full + lanes.clamp(max=longer)
        for number in range(first, full + (longer > 0)):
            windows = (starts if number < full else starts[:longer]) + number
            yield _pair(stream[windows[:, None] * self.length + torch.arange(self.length + 1)])

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """`loss`: the mean over all targets is nats per token."""
        # float32, summed in float64: a float64 copy of (B, T, 10 000) logits would dominate the memory that is measured
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return {"loss": (losses.double().sum(), losses.numel())}

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Adds `perplexity` (infinite where it overflows) and, by character, `bits_per_char`."""
        metrics = {**means, "perplexity": _exp(means["loss"])}
        if self.unit == "char":
            metrics["bits_per_char"] = means["loss"] / math.log(2)
        return metrics

    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and of the token ids of all splits."""
        digest = hashlib.sha256(json.dumps(self.symbols).encode())
        for split, stream in self.tokens.items():
            digest.update(f"\n{split} {len(stream)}\n".encode())
            digest.update(stream.numpy().astype("<i4").tobytes())
        return digest.hexdigest()


def _read(path: Path) -> dict[Split, str]:
    """The texts of the splits that have a file of their own; a text without splits comes as train alone."""
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if not path.is_dir():
        return {"train": _decode(path)}
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    named: dict[Split, list[Path]] = {
        split: [file for file in files if set(words) & set(re.split(r"[._-]", file.name.lower()))]
        for split, words in SPLIT_WORDS.items()
    }
    if named["train"]:
        for split, found in named.items():
            if len(found) > 1:
                raise UserError(f"{path} has {len(found)} {split} files, need one: {', '.join(file.name for file in found)}")
        return {split: _decode(found[0]) for split, found in named.items() if found}
    joined = [file for file in files if file.suffix == ".txt"] or files
    if not joined:
        raise UserError(f"{path} holds no text: no files in it")
    texts = [_decode(file) for file in joined]
    # a file that does not end its last line must not glue its last word to the next file's first
    return {"train": "".join(text if text.endswith("\n") else text + "\n" for text in texts[:-1]) + texts[-1]}


def _decode(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def _characters(texts: Mapping[Split, str]) -> tuple[dict[Split, Ids], list[str]]:
    """Provisional ids of the characters and the character of each, in the order of code points."""
    points = {split: np.frombuffer(text.encode("utf-32-le"), dtype="<u4") for split, text in texts.items()}
    used = np.zeros(0x110000, dtype=bool)
    for array in points.values():
        used[array] = True
    ids = (np.cumsum(used) - 1).astype(np.int32)
    return {split: ids[array] for split, array in points.items()}, [chr(point) for point in np.flatnonzero(used)]


def _words(texts: Mapping[Split, str]) -> tuple[dict[Split, Ids], list[str]]:
    """Provisional ids of the words, numbered as they first appear, and the word of each."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__  # a new word's id is the number of words before it
    streams = {split: np.fromiter(map(ids.__getitem__, _split_words(text)), dtype=np.int32) for split, text in texts.items()}
    return streams, list(ids)


def _split_words(text: str) -> Iterator[str]:
    lines = text.split("\n")
    for line in lines[:-1]:
        yield from line.split()
        yield END_OF_LINE
    yield from lines[-1].split()


def _cut(streams: Mapping[Split, Ids]) -> dict[Split, Ids]:
    """All three splits: one that is missing is the last 5 % of train (test from the very end, valid before it)."""
    train = streams["train"]
    share = len(train) // 20
    cut = {}
    for split in ("test", "valid"):
        if split in streams:
            cut[split] = streams[split]
        else:
            train, cut[split] = train[: len(train) - share], train[len(train) - share :]
    return {"train": train, "valid": cut["valid"], "test": cut["test"]}


def _vocabulary(names: list[str], counts: npt.NDArray[np.int64], most: int, unit: Unit) -> tuple[list[str], Ids]:
    """The symbols that get an id and, per provisional id, the id (that of `<unk>` for the rest)."""
    ranked = np.flatnonzero(counts).tolist()
    if unit == "word":
        ranked.sort(key=lambda name: (-counts[name], names[name]))
    kept = ranked[:most]
    symbols = [names[name] for name in kept]
    if UNKNOWN not in symbols:
        symbols.append(UNKNOWN)
    remap = np.full(len(names), symbols.index(UNKNOWN), dtype=np.int32)
    remap[kept] = np.arange(len(kept), dtype=np.int32)
    return symbols, remap


def _exp(loss: float) -> float:
    return math.inf if loss > 709 else math.exp(loss)  # exp(710) overflows float64


def _pair(windows: Tensor) -> tuple[Tensor, Tensor]:
    tokens = windows.long()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
