"""Text: next-token prediction on any UTF-8 file or folder, by character or by word."""

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
from bench.tasks.task import Metric, Split, Task, check_positive, derive_seed, digest, inputs_and_targets, perplexity
from bench.tasks.tokens import Ids, Unit, tokenise

UNKNOWN = "<unk>"
_DEFAULT_VOCABULARY = 10_000
_CHUNK = 1 << 22
_LANES, _LANE_WINDOWS = 10, 64


class Text(Task):
    """Any UTF-8 text as a stream of characters or words, with a vocabulary from the training split alone.

    `data` names a corpus; `paths` gives each name's file or folder. In a folder, files with the name of a split among the words of
    theirs (train.txt, wiki.valid.tokens, ptb-test.txt; see SPLIT_WORDS) are that split. A missing split is cut from the end of
    train, 5 % of the tokens each, if no other file could be it. The *.txt files of any other folder (without one: all visible
    files) are joined in name order and cut, like a single file, into 90 % train, 5 % valid, 5 % test. Ambiguous names are an error.
    A byte-order mark is dropped and CR LF read as LF; another encoding, or a NUL byte, is an error.

    The names in CORPORA (ptb, wikitext-2, wikitext-103, tinyshakespeare) need no path: they are downloaded. By word, such a corpus
    must have the published counts, wherever it is read from; by character only the download is checked.

    "word": tokens are separated by white space and every newline is an `<eos>`. The `vocabulary_size` most frequent words of train
    (ties: in the order of the words; default 10,000, of a published corpus all) have ids, all others are `<unk>`, which is added if
    the text has none. "char": every character of train has an id and `<unk>` stands for others; `vocabulary_size` does not apply.
    `symbols[id]` is the token.

    Training reads `size` lanes of the stream in parallel: batch n + 1 continues batch n in each lane. An epoch ends with the lanes;
    every epoch starts at an offset into the circular stream that depends on seed and epoch, where a carried memory restarts.
    Evaluation cuts a split into windows of `length` and scores each token once, without the remainder shorter than a window; a
    memory is carried along `lanes` for any batch size. `windows` scores only the first `windows` windows, for frequent validation.

    Chance predicts the scored test tokens by the training split's token frequencies, plus one each.
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
            raise UserError(f"no path for corpus {data!r}: pass --data {data}=PATH. Known: {known}; downloadable: {published}")
        if unit not in get_args(Unit):
            raise unknown("unit", unit, get_args(Unit))
        given = {"length": length, "vocabulary_size": vocabulary_size, "windows": windows}
        check_positive("text", **{name: value for name, value in given.items() if value is not None})
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
            "perplexity": Metric(unit="per token", better="lower", chance=perplexity(chance)),
        }
        if self.unit == "char":
            metrics["bits_per_char"] = Metric(unit="bits/char", better="lower", chance=chance / math.log(2))
        return metrics

    def _windows(self, split: Split) -> int:
        windows = (len(self.tokens[split]) - 1) // self.length
        return windows if self._most is None else min(windows, self._most)

    def lanes(self, split: Split) -> int:
        """Ten, as in the authors' code (AWD-LSTM, TrellisNet, DEQ), but at most one per 64 windows."""
        return min(_LANES, max(1, self._windows(split) // _LANE_WINDOWS))

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training lanes without end, or every window of a held-out split once.

        The windows of a held-out split are divided into `size` contiguous lanes; where they do not divide evenly, the first lanes
        have one more, in a last and smaller batch.
        """
        if split not in self.tokens:
            raise unknown("split", split, self.tokens)
        check_positive("text", batch_size=size)
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
        """Number of training batches per epoch."""
        return len(self.tokens["train"]) // size // self.length

    def begins(self, number: int, size: int) -> bool:
        """Whether the batch is the first of an epoch, which starts at another offset."""
        return number % self._per_epoch(size) == 0

    def _train(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream = self.tokens["train"]
        lane = len(stream) // size
        places = lane * torch.arange(size)[:, None] + torch.arange(self.length + 1)
        for number in count(first):
            epoch, step = divmod(number, self._per_epoch(size))
            offset = derive_seed("text", "offset", seed, epoch) % len(stream)
            yield inputs_and_targets(stream[(places + offset + step * self.length) % len(stream)])

    def _evaluation(self, split: Split, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        stream = self.tokens[split]
        full, longer = divmod(self._windows(split), size)
        lanes = torch.arange(size)
        starts = lanes * full + lanes.clamp(max=longer)
        for number in range(first, full + (longer > 0)):
            windows = (starts if number < full else starts[:longer]) + number
            yield inputs_and_targets(stream[windows[:, None] * self.length + torch.arange(self.length + 1)])

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return `loss` over all targets."""
        # float32, summed in float64: a float64 copy of (B, T, 10 000) logits would dominate the measured memory
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return {"loss": (losses.double().sum(), losses.numel())}

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Add `perplexity` and, by character, `bits_per_char`."""
        metrics = {**means, "perplexity": perplexity(means["loss"])}
        if self.unit == "char":
            metrics["bits_per_char"] = means["loss"] / math.log(2)
        return metrics

    def fingerprint(self) -> str:
        """Return the SHA-256 of the vocabulary and the ids of all splits."""
        return digest(json.dumps(self.symbols), self.tokens)


def _cut(streams: Mapping[Split, Ids]) -> dict[Split, Ids]:
    """Return all three splits; a missing one is the last 5 % of train (test from the very end, valid before it)."""
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
    """Count each id in the stream; in chunks, since numpy copies what it counts to 64 bits."""
    counts = np.zeros(names, dtype=np.int64)
    for start in range(0, len(stream), _CHUNK):
        counts += np.bincount(stream[start : start + _CHUNK], minlength=names)
    return counts


def _renamed(stream: Ids, remap: Ids) -> Ids:
    """Map the ids of the stream, in memory."""
    renamed = np.empty(len(stream), dtype=np.int32)
    for start in range(0, len(stream), _CHUNK):
        renamed[start : start + _CHUNK] = remap[stream[start : start + _CHUNK]]
    return renamed


def _vocabulary(names: Sequence[str], counts: npt.NDArray[np.int64], most: int, unit: Unit) -> tuple[list[str], Ids]:
    """Return the symbols with an id and the id of each provisional id (that of `<unk>` for the rest)."""
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
