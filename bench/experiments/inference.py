"""How long a trained DEQ takes to answer beside the weight-tied network of its cell (table 4): timed, alone on the machine."""

import time
from statistics import median as middle
from typing import Any

import torch
from torch import Tensor

from bench.contention import CONTENDED, Contention
from bench.experiments.experiment import Contended, Experiment, Part
from bench.experiments.models import Models, number
from bench.experiments.quality import heard
from bench.experiments.scale import Scale
from bench.machine import Machine
from bench.model import LanguageModel
from bench.spec import Spec
from deq import DEQ

_TRIES = 4


def experiment(scale: Scale) -> Experiment:
    """A row a task and seed, made when everything else is."""
    parts = tuple(
        Part(
            subject={"task": case.label, "seed": seed},
            follow=follow,
            arguments=(deq, tied, scale.samples, scale.rounds),
            specs=(deq, tied),
            alone=True,
        )
        for case in scale.cases
        for seed in scale.seeds
        for deq, tied in [tuple(scale.spec(case, label, seed) for label in scale.labels())]
    )
    return Experiment(
        name="inference",
        measured="Wall clock of one batch without gradients: of a trained DEQ, solved as it is in evaluation, and of the trained "
        "weight-tied network of its cell; both in turn, one thread, nothing else running. Medians over rounds. `nfe`: evaluations "
        "of f that the solve took, the attached one not counted.",
        units={"deq_ms": "ms", "tied_ms": "ms", "ratio": "1", "nfe": "evaluations a batch"},
        settings={"rtol": scale.rtol, "cap": scale.cap, "depth": scale.depth, "samples": scale.samples, "rounds": scale.rounds},
        parts=parts,
    )


def follow(models: Models, deq: Spec, tied: Spec, samples: int, rounds: int) -> dict[str, Any]:
    """Medians of both, and of the ratio round by round; Contended where other work ran beside every try."""
    ours, theirs = models.trained(deq), models.trained(tied)
    inputs, _ = models.sequences(deq.task, "valid", samples)
    assert isinstance(ours.core, DEQ)
    with torch.no_grad(), heard(ours.core) as listener:
        for model in (ours, theirs):  # which warms them up, too
            model(inputs)
    found: dict[str, Any] = {"nfe": listener.solutions[-1].nfe}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Machine().exclusive():
            times, why = _uncontended(ours, theirs, inputs, rounds)
    finally:
        torch.set_num_threads(threads)
    if why:
        raise Contended(f"{CONTENDED}: {why}")
    return {
        **found,
        "deq_ms": number(1e3 * middle(mine for mine, _ in times)),
        "tied_ms": number(1e3 * middle(other for _, other in times)),
        "ratio": number(middle(mine / other for mine, other in times)),
    }


def _uncontended(
    ours: LanguageModel, theirs: LanguageModel, inputs: Tensor, rounds: int
) -> tuple[list[tuple[float, float]], str | None]:
    """Seconds of both, round by round, taken again where other work ran beside them; and why the last try was no better."""
    for _ in range(_TRIES):
        contention = Contention(1)
        times = [(clock(ours, inputs), clock(theirs, inputs)) for _ in range(rounds)]
        why = contention.read()
        if why is None:
            break
    return times, why


@torch.no_grad()
def clock(model: LanguageModel, inputs: Tensor) -> float:
    """Seconds of one forward pass, inputs (B, T)."""
    start = time.perf_counter()
    model(inputs)
    return time.perf_counter() - start
