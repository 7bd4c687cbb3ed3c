"""Text: next-token prediction on any UTF-8 file or folder that the user has, by character or by word."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bench.records.errors import UserError, unknown
from bench.tasks.corpora import CORPORA, check, fetch, located
from bench.tasks.task import Metric, Split, Task, derive_seed
from bench.tasks.tokens import Ids, Unit, tokenise

UNKNOWN = "<unk>"
_DEFAULT_VOCABULARY = 10_000
_CHUNK = 1 << 22
_LANES, _LANE_WINDOWS = 10, 64


class Text(Task):
    """Any UTF-8 text as a stream of characters or words, its vocabulary taken from the training split alone.

    `data` names a corpus and `paths` says where each name's file or folder lies. A folder with files that have the name of
    a split among the words of theirs (train.txt, wiki.valid.tokens, ptb-test.txt; SPLIT_WORDS has all names) is read by
    split. A split without a file is cut from the end of train, 5 % of the tokens each, if no file is left that could be it.
    Any other folder's *.txt (without one: all its visible files) are joined in name order, and cut, like a single file,
    into 90 % train, 5 % valid, 5 % test. Names that leave the split of a file open are an error. A byte-order mark is no
    text, and CR LF is one newline; another encoding, or a NUL byte, is an error.

    The names of CORPORA (ptb, wikitext-2, wikitext-103, tinyshakespeare) need no path: they are fetched. By word, such a
    corpus must have the published counts, wherever it lies; by character nothing is checked but what was fetched.

    "word": tokens are separated by white space and every newline is an `<eos>`; the `vocabulary_size` most frequent
    words of train (equals: in the order of the words; without a number 10,000, of a published corpus all) have ids, all
    others are `<unk>`, which is added where the text has none. "char": every character of train has an id and `<unk>`
    stands for others; `vocabulary_size` does not apply. `symbols[id]` is the token.

    Training reads `size` lanes of the stream side by side: batch n + 1 goes on where batch n stopped, in each lane. An
    epoch ends when the lanes do; the next, like the first, starts at an offset into the circular stream that depends on
    the seed and the epoch, so only there does a batch not continue the last, and a carried memory begin anew. Evaluation
    cuts a split into windows of `length` and scores each token once; what is left at the end of the split, shorter than a
    window, is not scored, whatever the batch size; a memory is carried along the same `lanes` at any. `windows` scores the
    first so many alone, for runs that validate often.

    Chance is the training split's token frequencies, plus one each, as a prediction of the scored test tokens.
    """

    numerics: ClassVar[int] = 1

    streams = True

    def __init__(
        self,
        *,
        data: str,
        paths: Mapping[str, Path],
        unit: Unit = "char",
        length: int = 64,
        vocabulary_size: int | None = None,
        windows: int | None = None,
    ) -> None:
        corpus = CORPORA.get(data)
        if data not in paths and corpus is None:
            known = ", ".join(sorted(paths)) or "none"
            published = ", ".join(sorted(CORPORA))
            raise UserError(f"no path for corpus {data!r}: pass --data {data}=PATH. Known: {known}; to be fetched: {published}")
        if unit not in get_args(Unit):
            raise unknown("unit", unit, get_args(Unit))
        for name, value in (("length", length), ("vocabulary_size", vocabulary_size), ("windows", windows)):
            if value is not None and value < 1:
                raise UserError(f"text: {name} must be at least 1, got {value}")
        self.data = data
        self.unit = unit
        self.length = length
        self._most = windows

        path = Path(paths[data]) if data in paths else fetch(corpus)  # type: ignore[arg-type]
        path = path if corpus is None else located(corpus, path)
        tokens = tokenise(path, unit, corpus.files if corpus else None)
        for split, stream in tokens.streams.items():
            if not len(stream):
                raise UserError(f"the {split} text of {data!r} ({path}) is empty")
        names, streams = tokens.names, _cut(tokens.streams)
        counts = _counted(streams["train"], len(names))
        if corpus is not None and unit == "word":
            check(corpus, path, {split: len(stream) for split, stream in tokens.streams.items()}, int(np.count_nonzero(counts)))
        for split, stream in streams.items():
            if len(stream) <= length:
                place = f"the {split} split of {data!r} ({path}) has {len(stream)} tokens"
                raise UserError(f"{place}: too few for length {length}, which needs {length + 1}")
        whole = unit == "char" or (corpus is not None and corpus.vocabulary is not None and vocabulary_size is None)
        most = len(names) if whole else vocabulary_size or _DEFAULT_VOCABULARY
        self.symbols, remap = _vocabulary(names, counts, most, unit)
        self.vocabulary = len(self.symbols)
        self.tokens: dict[Split, Tensor] = {split: torch.from_numpy(_renamed(stream, remap)) for split, stream in streams.items()}
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, Metric]:
        counts = torch.from_numpy(_counted(self.tokens["train"].numpy(), self.vocabulary)).double() + 1
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
        windows = (len(self.tokens[split]) - 1) // self.length
        return windows if self._most is None else min(windows, self._most)

    def lanes(self, split: Split) -> int:
        """Ten, as the authors' code evaluates (AWD-LSTM, TrellisNet, DEQ), but one for each 64 windows at most."""
        return min(_LANES, max(1, self._windows(split) // _LANE_WINDOWS))

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

    def _per_epoch(self, size: int) -> int:
        """Training batches in an epoch."""
        return len(self.tokens["train"]) // size // self.length

    def begins(self, number: int, size: int) -> bool:
        """At the first batch of an epoch, whose lanes stand elsewhere."""
        return number % self._per_epoch(size) == 0

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream = self.tokens["train"]
        lane = len(stream) // size
        places = lane * torch.arange(size)[:, None] + torch.arange(self.length + 1)
        for number in count(first):
            epoch, step = divmod(number, self._per_epoch(size))
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
            for chunk in stream.split(_CHUNK):
                digest.update(chunk.numpy().astype("<i4").tobytes())
        return digest.hexdigest()


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


def _counted(stream: Ids, names: int) -> npt.NDArray[np.int64]:
    """How often each id stands in the stream; chunk by chunk, as numpy copies what it counts to 64 bits."""
    counts = np.zeros(names, dtype=np.int64)
    for start in range(0, len(stream), _CHUNK):
        counts += np.bincount(stream[start : start + _CHUNK], minlength=names)
    return counts


def _renamed(stream: Ids, remap: Ids) -> Ids:
    """The stream in memory, each id by its new one."""
    renamed = np.empty(len(stream), dtype=np.int32)
    for start in range(0, len(stream), _CHUNK):
        renamed[start : start + _CHUNK] = remap[stream[start : start + _CHUNK]]
    return renamed


def _vocabulary(names: Sequence[str], counts: npt.NDArray[np.int64], most: int, unit: Unit) -> tuple[list[str], Ids]:
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
