"""What quality a tolerance or a cap of the evaluation's solves buys, on one trained model (figure 3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.evaluation import evaluate
from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, median, number, solved
from bench.experiments.scale import DEQ_LABEL, Scale
from bench.spec import Spec
from deq import DEQ, Anderson, Solution, Stop

_UNITS = {"loss": "nats", "steps": "evaluations a sample", "nfe": "evaluations a batch", "residual": "1", "converged": "fraction"}
_WHAT = (
    "Validation loss of a trained DEQ, the evaluations its solves took (mean over samples of their own, and of batches), their "
    "median relative residual ||f(z) - z|| / ||f(z)|| and the share that met the tolerance,"
)


@dataclass
class Heard:
    """What solves said, collected from a layer's watch."""

    solutions: list[Solution] = field(default_factory=list)

    def __call__(self, phase: str, solution: Solution) -> None:
        """Keep a solution."""
        self.solutions.append(solution)

    def of_samples(self, name: str) -> Tensor:
        """A per-sample diagnostic of all solves, joined, in float64."""
        return torch.cat([getattr(solution, name).double() for solution in self.solutions])


@contextmanager
def heard(layer: DEQ) -> Iterator[Heard]:
    """Listen to a layer's solves."""
    listener = Heard()
    stop = layer.watch(listener)
    try:
        yield listener
    finally:
        stop()


def experiments(scale: Scale) -> tuple[Experiment, Experiment]:
    """Quality by tolerance at the largest cap, and by cap at the tightest tolerance."""
    tightest = min(scale.tolerances)
    by_tolerance = tuple(Stop(rtol=rtol, max_steps=scale.most) for rtol in scale.tolerances)
    by_cap = tuple(Stop(rtol=tightest, max_steps=cap) for cap in scale.caps)

    def parts(stops: tuple[Stop, ...]) -> tuple[Part, ...]:
        return tuple(
            Part(subject={"task": case.label, "seed": seed}, follow=follow, arguments=(spec, stops), specs=(spec,))
            for case in scale.cases
            for seed in scale.seeds
            for spec in [scale.spec(case, DEQ_LABEL, seed)]
        )

    return (
        Experiment(
            name="tolerance",
            measured=f"{_WHAT} against the relative tolerance of evaluation; one of 1 or more is met by z = 0, before any step.",
            units={"rtol": "1", **_UNITS},
            settings={"cap": scale.most, "solver": "anderson", "trained at rtol": scale.rtol},
            parts=parts(by_tolerance),
        ),
        Experiment(
            name="cap",
            measured=f"{_WHAT} against the cap of evaluation.",
            units={"cap": "evaluations", **_UNITS},
            settings={"rtol": tightest, "solver": "anderson", "trained at rtol": scale.rtol, "trained with cap": scale.cap},
            parts=parts(by_cap),
        ),
    )


def follow(models: Models, spec: Spec, stops: tuple[Stop, ...]) -> dict[str, Any]:
    """A point a stop."""
    task, trained = models.task(spec.task), models.trained(spec)
    points = []
    for stop in stops:
        model = solved(trained, solver=Anderson(), stop=stop)
        assert isinstance(model.core, DEQ)
        with heard(model.core) as listener:
            scores = evaluate(model, task, "valid", spec)
        points.append(
            {
                "rtol": stop.rtol,
                "cap": stop.max_steps,
                "loss": number(scores[task.headline]),
                "scores": {name: number(value) for name, value in scores.items()},
                "steps": number(listener.of_samples("steps").mean()),
                "nfe": number(sum(solution.nfe for solution in listener.solutions) / len(listener.solutions)),
                "residual": median(listener.of_samples("residual")),
                "converged": number(listener.of_samples("converged").mean()),
            }
        )
    metric = task.metrics[task.headline]
    return {"points": points, "metric": task.headline, "unit": metric.unit, "chance": metric.chance, "floor": metric.floor}
