"""How well a dependence of growing length is learned, by a DEQ, its weight-tied depth and recurrent networks of its size."""

from typing import Any

from bench.budget import match
from bench.catalog import build_task
from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, number
from bench.experiments.scale import DEQ_LABEL, Case, Scale
from bench.model import count_parameters
from bench.spec import Named, Settings, Spec

_SENTENCES = 2  # closers a sequence, whatever the length, so that all see as many
# The rate that the sweeps of suite smoke chose for all four on this language, and its DEQ's caps.
_RATE = 1.6e-2
_CAPS: Settings = {"steps": 12, "backward_steps": 8, "evaluation_steps": 60}


def experiment(scale: Scale) -> Experiment:
    """A row a dependency length, model and seed."""
    parts = []
    for dependency in scale.dependencies:
        case = _case(dependency, scale.dependency_samples)
        for label, model in models_of(scale, case).items():
            for seed in scale.dependency_seeds:
                spec = scale.spec(case, label, seed, model)
                subject: dict[str, str | int] = {"model": label, "dependency": dependency, "seed": seed}
                parts.append(Part(subject=subject, follow=follow, arguments=(spec,), specs=(spec,)))
    return Experiment(
        name="dependency",
        measured="Validation loss at the closer of a sentence of the agreement language, which is told by its opener that many "
        "tokens before, after the same number of training steps of equally many sentences; parameters within 2 % of the DEQ's, one "
        "rate for all. Chance is the entropy of closers, the floor what the opener leaves open; the same for every length.",
        units={"loss_agreement": "nats/closer", "excess_nats": "nats/token", "parameters": "1"},
        settings={"sentences": _SENTENCES, "learning rate": _RATE, "steps": scale.steps, "batch": scale.batch, **_CAPS},
        parts=tuple(parts),
    )


def _case(dependency: int, samples: int) -> Case:
    settings: Settings = {"dependency": dependency, "sentences": _SENTENCES, "test_samples": samples}
    return Case(label=f"agreement over {dependency}", task=Named(name="agreement", settings=settings), rate=_RATE, lengths=())


def models_of(scale: Scale, case: Case) -> dict[str, Named]:
    """The four models by label; the recurrent ones as wide as makes them as large as the DEQ."""
    vocabulary = build_task(case.task, {}).vocabulary
    deq = scale.model(DEQ_LABEL)
    deq = Named(name=deq.name, settings={**deq.settings, **_CAPS})
    budget = count_parameters(deq, vocabulary)
    recurrent = {
        name.upper(): match(Named(name=name, settings={"inputs": scale.width}), vocabulary, budget) for name in ("gru", "lstm")
    }
    return {DEQ_LABEL: deq, scale.tied_label: scale.model(scale.tied_label), **recurrent}


def follow(models: Models, spec: Spec) -> dict[str, Any]:
    """What the training ended with."""
    record, metrics = models.record(spec), models.task(spec.task).metrics
    scores = {name: record.value(f"valid_{name}") for name in ("loss_agreement", "excess_nats")}
    closer = metrics["loss_agreement"]
    return {
        "status": record.status,
        "why": record.why,
        **{name: None if value is None else number(value) for name, value in scores.items()},
        "parameters": record.value("parameters_total"),
        "chance": closer.chance,
        "floor": closer.floor,
        "converged": record.value("train_converged_fraction"),
    }
