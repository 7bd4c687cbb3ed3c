"""Whether a trained model predicts from the past alone, and what its score is if it must."""

import torch
from torch import Tensor

from bench.records.record import Measure, measured
from bench.records.spec import RunSpec
from bench.tasks.task import Task
from bench.training.final_probes import first_batch
from bench.training.language_model import LanguageModel

_PREDICTIONS = 4096  # from prefixes, at most: each is a solve of its own


@torch.no_grad()
def causality(model: LanguageModel, task: Task, spec: RunSpec) -> dict[str, Measure]:
    """How much later tokens change predictions, and where they do, how much the headline changes without them.

    On the first test batch, with no memory carried into it.
    """
    inputs, targets = first_batch("test", task, spec)
    model.eval()
    leak, count = _future_leak(model, task, inputs), max(1, _PREDICTIONS // inputs.shape[1])
    short = "sequences of one token" if leak is None else None
    # The first test sequences say nothing of parts that are longer or harder.
    why_no_gap = short or ("later tokens change no prediction" if not leak else "several test parts" if task.parts > 1 else None)
    gap = None if why_no_gap else _prefix_gap(model, task, inputs[:count], targets[:count])
    model.train()
    changed = "largest change of a log-probability in the first half when every token of the second half is another"
    shorter = f"{task.headline} where every position is predicted from its own prefix alone, minus that of whole sequences"
    unit, scope = task.metrics[task.headline].unit, f"first {min(count, len(inputs))} test sequences"
    return {
        "future_leak_nats": measured(leak, "nats", changed, "first test batch", short),
        "prefix_gap": measured(gap, unit, shorter, scope, why_no_gap),
    }


def _future_leak(model: LanguageModel, task: Task, inputs: Tensor) -> float | None:
    half = inputs.shape[1] // 2
    if not half:
        return None
    shifted = (inputs[:, half:] + task.vocabulary // 2) % task.vocabulary
    changed = torch.cat((inputs[:, :half], shifted), dim=1)
    before, after = (model(tokens)[0][:, :half].log_softmax(-1) for tokens in (inputs, changed))
    return (before - after).abs().max().item()


def _prefix_gap(model: LanguageModel, task: Task, inputs: Tensor, targets: Tensor) -> float:
    def headline(features: Tensor) -> float:
        scores = task.score(model.logits(features), targets)
        return task.summarise({name: total.item() / count for name, (total, count) in scores.items()})[task.headline]

    def features(tokens: Tensor) -> Tensor:
        _, (y, *_) = model.run(tokens)
        return y

    by_prefix = torch.cat([features(inputs[:, :end])[:, -1:] for end in range(1, inputs.shape[1] + 1)], dim=1)
    return headline(by_prefix) - headline(features(inputs))
