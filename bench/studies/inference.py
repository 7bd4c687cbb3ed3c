"""Inference time of a trained DEQ and of the weight-tied network of its cell (table 4)."""

import time
from statistics import median

import torch
from torch import Tensor

from bench.instruments.contention import CONTENDED, Contention
from bench.instruments.machine_lock import MachineLock
from bench.records.spec import RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, NoValues, solutions_of
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import LanguageModel

_TRIES = 4


def study(config: Config) -> Study:
    """One row per task and seed."""
    sizes = {"samples": config.samples, "rounds": config.rounds}
    return Study(
        name="inference",
        measure=measure,
        units={"deq_ms": "ms", "tied_ms": "ms", "ratio": "1", "nfe": "evaluations a batch"},
        settings={"rtol": config.rtol, "cap": config.cap, "depth": config.depth, **sizes},
        rows=tuple(
            PlannedRow(subject, (deq, config.spec(case, config.tied_label, deq.seed)), (config.samples, config.rounds))
            for case, subject, deq in config.deqs()
        ),
        timed=True,
    )


def measure(models: Models, deq: RunSpec, tied: RunSpec, samples: int, rounds: int) -> Values:
    """Wall clock of one batch without gradients: of a trained DEQ, solved as in evaluation, and of the trained weight-tied network
    of its cell; both in turn, one thread, nothing else running. Medians over rounds. `nfe`: evaluations of f in the solve."""
    pair = models.trained(deq), models.trained(tied)
    inputs, _ = models.sequences(deq.task, "valid", samples)
    with torch.no_grad(), solutions_of(pair[0]) as solutions:
        for model in pair:  # a warm-up, too
            model(inputs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with MachineLock().exclusive():
            times = _uncontended(pair, inputs, rounds)
    finally:
        torch.set_num_threads(threads)
    return {
        "nfe": solutions[-1].nfe,
        "deq_ms": number(1e3 * median(ours for ours, _ in times)),
        "tied_ms": number(1e3 * median(theirs for _, theirs in times)),
        "ratio": number(median(ours / theirs for ours, theirs in times)),
    }


def _uncontended(pair: tuple[LanguageModel, LanguageModel], inputs: Tensor, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in every round; NoValues where other work ran during every try."""
    for _ in range(_TRIES):
        contention = Contention(1)
        times = [(seconds(pair[0], inputs), seconds(pair[1], inputs)) for _ in range(rounds)]
        reason = contention.read()
        if reason is None:
            return times
    raise NoValues(f"{CONTENDED}: {reason}")


@torch.no_grad()
def seconds(model: LanguageModel, inputs: Tensor) -> float:
    """Seconds of one forward pass."""
    start = time.perf_counter()
    model(inputs)
    return time.perf_counter() - start
