"""Inference time of a trained DEQ, also with loose solves, and of the weight-tied network of its cell (table 4)."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
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
from deq import DEQ

_TRIES = 4


def study(config: Config) -> Study:
    """One row per task and seed."""
    sizes = {"samples": config.samples, "rounds": config.rounds}
    return Study(
        name="inference",
        measure=measure,
        units=dict.fromkeys(("deq_ms", "loose_ms", "tied_ms"), "ms") | dict.fromkeys(("nfe", "loose_nfe"), "evaluations a batch"),
        settings={"rtol": config.rtol, "loose rtol": config.loose, "cap": config.cap, "depth": config.depth, **sizes},
        rows=tuple(
            PlannedRow(
                subject,
                (deq, config.spec(case, config.tied_label, deq.seed)),
                (config.loose, config.samples, config.rounds),
            )
            for case, subject, deq in config.deqs()
        ),
        numerics=2,
        timed=True,
    )


def measure(models: Models, deq: RunSpec, tied: RunSpec, loose: float, samples: int, rounds: int) -> Values:
    """Wall clock of one batch without gradients: of a trained DEQ, solved as in evaluation and (`loose`) to a greater tolerance,
    and of the trained weight-tied network of its cell; in turn, one thread, nothing else running. Medians over rounds. `nfe`:
    evaluations of f in a solve."""
    trained = models.trained(deq), models.trained(tied)
    timed = (trained[0], _solved_to(loose, trained[0]), trained[1])
    inputs, _ = models.sequences(deq.task, "valid", samples)
    evaluations = []
    with torch.no_grad():
        for model in timed[:2]:  # a warm-up, too
            with solutions_of(model) as solutions:
                model(inputs)
            evaluations.append(solutions[-1].nfe)
        timed[2](inputs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with MachineLock().exclusive():
            times = _uncontended(timed, inputs, rounds)
    finally:
        torch.set_num_threads(threads)
    medians = (number(1e3 * median(one)) for one in zip(*times, strict=True))
    return dict(zip(("deq_ms", "loose_ms", "tied_ms", "nfe", "loose_nfe"), (*medians, *evaluations), strict=True))


def _solved_to(rtol: float, model: LanguageModel) -> LanguageModel:
    """A copy of a DEQ that solves to another tolerance."""
    found = copy.deepcopy(model)
    assert isinstance(found.core, DEQ)
    found.core.evaluation_stop = replace(found.core.evaluation_stop, rtol=rtol)
    return found


def _uncontended(models: Sequence[LanguageModel], inputs: Tensor, rounds: int) -> list[list[float]]:
    """Seconds of each model in every round; NoValues where other work ran during every try."""
    for _ in range(_TRIES):
        contention = Contention(1)
        times = [[seconds(model, inputs) for model in models] for _ in range(rounds)]
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
