"""Score a model on a split of its task, the same for every model."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.records.spec import RunSpec
from bench.tasks.task import Split, Task
from bench.training.distributed import Ranks
from bench.training.language_model import LanguageModel

_LOGITS = 1 << 26  # evaluated at a time: those of a whole batch with a word vocabulary may not fit in memory


@torch.no_grad()
def evaluate(model: LanguageModel, task: Task, split: Split, spec: RunSpec, ranks: Ranks | None = None) -> dict[str, float]:
    """The task's metrics over a whole split, in evaluation mode, the same whatever `evaluation_batch`.

    A memory is carried along the task's own lanes, `evaluation_batch` of them at a time: were there as many lanes as the batch is
    large, the score would depend on it, by how many memories begin with nothing. Ranks take the batches in turn, but for a carried
    memory.
    """
    carry, most = spec.train.carry, spec.train.evaluation_batch
    shared = ranks is not None and ranks.size > 1 and not carry
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    training = model.training
    model.eval()
    memories: dict[int, tuple[Any, int]] = {}  # of each part of the lanes, and its number of lanes
    for number, (inputs, targets) in enumerate(task.batches(split, task.lanes(split) if carry else most, seed=0)):
        if shared and ranks is not None and not ranks.owns_batch(number):
            continue
        for part, (tokens, wanted) in enumerate(zip(inputs.split(most), targets.split(most), strict=True)):
            memory, lanes = memories.get(part, (None, len(tokens)))
            output, (y, *_) = model.run(_padded(tokens, lanes).to(spec.device), memory)
            if carry:
                memories[part] = output.memory, lanes
            for name, total, count in _scores(model, task, y[: len(tokens)], wanted.to(spec.device)):
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=total.device)) + total
                counts[name] = counts.get(name, 0) + count
    model.train(training)
    if shared and ranks is not None:
        sums, counts = _over_ranks(ranks, sums, counts)
    return task.summarise({name: sums[name].item() / counts[name] for name in sums})


def _padded(inputs: Tensor, lanes: int) -> Tensor:
    """A smaller batch with as many lanes as its memory has, whose layout only the model knows; the added lanes are not scored."""
    return torch.cat((inputs, inputs[-1:].expand(lanes - len(inputs), -1)))


def _scores(model: LanguageModel, task: Task, y: Tensor, targets: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """The task's scores of the features, some sequences at a time."""
    samples = max(1, _LOGITS // (targets.shape[1] * task.vocabulary))
    for features, wanted in zip(y.split(samples), targets.split(samples), strict=True):
        for name, (total, count) in task.score(model.logits(features), wanted).items():
            yield name, total, count


def _over_ranks(ranks: Ranks, sums: dict[str, Tensor], counts: dict[str, int]) -> tuple[dict[str, Tensor], dict[str, int]]:
    parts = ranks.gather({"sums": {name: value.item() for name, value in sums.items()}, "counts": counts})
    names = {name: None for part in parts for name in part["sums"]}  # a rank may have had no batch
    total = {name: torch.tensor(sum(part["sums"].get(name, 0.0) for part in parts), dtype=torch.float64) for name in names}
    return total, {name: sum(part["counts"].get(name, 0) for part in parts) for name in names}
