"""Score a model on a split of its task."""

from typing import Any

import torch
from torch import Tensor

from bench.records.spec import RunSpec
from bench.tasks.task import Split, Task
from bench.training.distributed import Ranks
from bench.training.language_model import LanguageModel

_LOGITS = 1 << 26  # computed at a time: those of a whole batch with a word vocabulary may not fit in memory


@torch.no_grad()
def evaluate(model: LanguageModel, task: Task, split: Split, spec: RunSpec, ranks: Ranks | None = None) -> dict[str, float]:
    """The task's metrics over a whole split, in evaluation mode, independent of `evaluation_batch`.

    A carried memory follows the task's lanes, of which `evaluation_batch` are evaluated at a time: were the lanes as many as the
    batch is large, its size would decide how many memories start empty. Without a carried memory, ranks share the batches.
    """
    carry, most = spec.train.carry, spec.train.evaluation_batch
    ranks = Ranks() if carry or ranks is None else ranks
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    training = model.training
    model.eval()
    memories: dict[int, tuple[Any, int]] = {}  # of each part of the lanes, with its number of lanes
    for number, (inputs, targets) in enumerate(task.batches(split, task.lanes(split) if carry else most, seed=0)):
        if not ranks.owns_batch(number):
            continue
        samples = max(1, _LOGITS // (targets.shape[1] * task.vocabulary))
        for part, (tokens, wanted) in enumerate(zip(inputs.split(most), targets.split(most), strict=True)):
            memory, lanes = memories.get(part, (None, len(tokens)))
            # Only the model knows its memory's layout, so a smaller batch is padded to the memory's lanes, which are not scored.
            padded = torch.cat((tokens, tokens[-1:].expand(lanes - len(tokens), -1)))
            output, (y, *_) = model.run(padded.to(spec.device), memory)
            if carry:
                memories[part] = output.memory, lanes
            for features, expected in zip(y[: len(tokens)].split(samples), wanted.to(spec.device).split(samples), strict=True):
                for name, (total, count) in task.score(model.logits(features), expected).items():
                    sums[name] = sums[name] + total if name in sums else total.double()
                    counts[name] = counts.get(name, 0) + count
    model.train(training)
    parts = ranks.gather({"sums": {name: value.item() for name, value in sums.items()}, "counts": counts})
    names = {name: None for part in parts for name in part["sums"]}  # a rank may have had no batch

    def over_ranks(what: str, name: str) -> float:
        return sum(part[what].get(name, 0) for part in parts)

    return task.summarise({name: over_ranks("sums", name) / over_ranks("counts", name) for name in names})
