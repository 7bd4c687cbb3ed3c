"""How well a DEQ, its weight-tied network and recurrent networks of the same size learn a dependency of growing length."""

from bench.execution.parameter_matching import match
from bench.records.spec import ComponentConfig, RunSpec, Settings
from bench.studies.config import DEQ_LABEL, Case, Config
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import count_parameters
from bench.training.registry import build_task

_SENTENCES = 2  # closers in a sequence of any length, so that all trainings see equally many
# Suite smoke's rate for all four models on this language, and its DEQ's caps.
_RATE = 1.6e-2
_CAPS: Settings = {"steps": 12, "backward_steps": 8, "evaluation_steps": 60}


def study(config: Config) -> Study:
    """One row per dependency length, model and seed."""
    rows = []
    for dependency in config.dependencies:
        language: Settings = {"dependency": dependency, "sentences": _SENTENCES, "test_samples": config.dependency_samples}
        case = Case(f"agreement over {dependency}", ComponentConfig(name="agreement", settings=language), _RATE)
        for label, model in models_of(config, case).items():
            for seed in config.dependency_seeds:
                spec = config.spec(case, label, seed, model)
                rows.append(PlannedRow({"model": label, "dependency": dependency, "seed": seed}, (spec,)))
    return Study(
        name="dependency",
        measure=measure,
        units={"loss_agreement": "nats/closer", "excess_nats": "nats/token", "parameters": "1"},
        settings={
            **{"sentences": _SENTENCES, "learning rate": _RATE, "steps": config.steps, "batch": config.batch},
            "caps": _CAPS,
        },
        rows=tuple(rows),
    )


def models_of(config: Config, case: Case) -> dict[str, ComponentConfig]:
    """The models by label; recurrent ones have the width that matches the DEQ's parameters."""
    vocabulary = build_task(case.task, {}).vocabulary
    deq = config.model(DEQ_LABEL)
    deq = ComponentConfig(name=deq.name, settings={**deq.settings, **_CAPS})
    budget, found = count_parameters(deq, vocabulary), {DEQ_LABEL: deq, config.tied_label: config.model(config.tied_label)}
    for name in ("gru", "lstm"):
        found[name.upper()] = match(ComponentConfig(name=name, settings={"inputs": config.width}), vocabulary, budget)
    return found


def measure(models: Models, spec: RunSpec) -> Values:
    """Validation loss at the closer of a sentence of the agreement language, which depends on its opener so many tokens before,
    after the same number of training steps of equally many sentences; parameters within 2 % of the DEQ's, one rate for all.
    Chance is the entropy of closers, the optimum what remains of it given the opener; both are the same for every length."""
    record, closer = models.record(spec), models.task(spec.task).metrics["loss_agreement"]
    return {
        "status": record.status,
        "reason": record.reason,
        **{name: number(record.value(f"valid_{name}")) for name in ("loss_agreement", "excess_nats")},
        "parameters": record.value("parameters_total"),
        "chance": closer.chance,
        "optimum": closer.optimum,
        "converged": record.value("train_converged_fraction"),
    }
