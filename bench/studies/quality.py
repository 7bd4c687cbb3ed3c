"""Quality of a trained model by tolerance and by cap of the evaluation's solves (figure 3), and by steps on longer sequences."""

from bench.records.spec import ComponentConfig, RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, deq_of, solutions_of
from bench.studies.study import PlannedRow, Study, Values, means_of, number
from bench.tasks.task import Split
from bench.training.evaluation import evaluate
from deq import SOLVERS, Stop

_TIGHT = 1e-6
_UNITS = {"loss": "nats", "steps": "evaluations a sample", "nfe": "evaluations a batch", "residual": "1", "converged": "fraction"}


def studies(config: Config) -> tuple[Study, Study]:
    """Quality by tolerance at the largest cap, and by cap at the tightest tolerance."""
    tightest = min(config.tolerances)
    trained = {"solver": "anderson", "trained at rtol": config.rtol}

    def rows(*stops: Stop) -> tuple[PlannedRow, ...]:
        return tuple(PlannedRow(subject, (spec,), (stops,)) for _, subject, spec in config.deqs())

    return (
        Study(
            name="tolerance",
            measure=measure,
            units={"rtol": "1", **_UNITS},
            settings={"cap": config.most, **trained},
            rows=rows(*(Stop(rtol=rtol, max_steps=config.most) for rtol in config.tolerances)),
        ),
        Study(
            name="cap",
            measure=measure,
            units={"cap": "evaluations", **_UNITS},
            settings={"rtol": tightest, **trained, "trained with cap": config.cap},
            rows=rows(*(Stop(rtol=tightest, max_steps=cap) for cap in config.caps)),
        ),
    )


def steps_at_test(config: Config) -> Study:
    """Scores at every test length by cap of the solves, of models that were trained at the shortest (Anil et al. 2022).

    A looped network is a solve by plain iteration, up to its limit.
    """
    comparison = config.tracking
    task = ComponentConfig(name=comparison.task.name, settings={**comparison.task.settings, "test_samples": 4 * config.samples})
    stops = tuple(Stop(rtol=_TIGHT, max_steps=cap) for cap in config.tracking_caps)
    rows = []
    for label, rate in config.tracking_rates:
        model, train = comparison.rows[label].model, comparison.train.model_copy(update={"learning_rate": rate})
        solver = str(model.settings.get("solver", "picard"))
        for seed in config.seeds:
            spec = RunSpec(group=comparison.group, label=label, role="trial", model=model, task=task, train=train, seed=seed)
            subject = {"task": comparison.group, "model": label, "seed": seed}
            rows.append(PlannedRow(subject, (spec,), (stops, solver, "test")))
    return Study(
        name="test-time steps",
        measure=measure,
        units={"cap": "evaluations", **_UNITS, "scores": "see the task's metrics"},
        settings={"rtol": _TIGHT, "split": "test", "samples": 4 * config.samples, "steps": comparison.train.steps},
        rows=tuple(rows),
    )


def measure(models: Models, spec: RunSpec, stops: tuple[Stop, ...], solver: str = "anderson", split: Split = "valid") -> Values:
    """Loss of a trained model on the validation split (where settings name no other), the evaluations its solves took (mean over
    samples, and over batches), the median relative residual ||f(z) - z|| / ||f(z)|| and the share that met the tolerance, by
    relative tolerance and cap of evaluation. A tolerance of 1 or more is met by z = 0, before any step."""
    task, trained, points = models.task(spec.task), models.trained(spec), []
    for stop in stops:
        model = deq_of(trained, SOLVERS[solver](), stop)
        with solutions_of(model) as solutions:
            scores = evaluate(model, task, split, spec)
        found = {"loss": number(scores[task.headline]), "scores": {name: number(value) for name, value in scores.items()}}
        points.append({"rtol": stop.rtol, "cap": stop.max_steps, **found, **means_of(solutions)})
    metric = task.metrics[task.headline]
    return {"points": points, "metric": task.headline, "unit": metric.unit, "chance": metric.chance, "optimum": metric.optimum}
