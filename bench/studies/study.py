"""A study: planned rows, and the function that measures each on trained models."""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from bench.records.errors import one_line
from bench.records.identity import numeric_environment
from bench.records.spec import RunSpec
from bench.studies.models import Models, NoValues
from deq import ADJOINTS, SOLVERS, Solution

Values = dict[str, Any]


@dataclass(frozen=True)
class PlannedRow:
    """A row to measure: its subject (task, model, seed), the specs of its trained models, further arguments of `measure`."""

    subject: dict[str, Any]
    specs: tuple[RunSpec, ...] = ()
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """`measure(models, *specs, *arguments)` returns a row's values as plain JSON; its docstring describes them in the record.

    `settings`: what all rows share. `numerics`: raise it when the same row gets other values, and all are measured again, as they
    are when that of a solver or an adjoint is raised. `timed`: rows are measured last, with no other row running.
    """

    name: str
    measure: Callable[..., Values]
    units: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: tuple[PlannedRow, ...]
    numerics: int = 1
    timed: bool = False

    @property
    def measured(self) -> str:
        """What is measured, in words."""
        return " ".join((inspect.getdoc(self.measure) or "").split())

    def values(self, row: PlannedRow, models: Models) -> tuple[Values | None, str | None]:
        """Measure a row: its values, or None and the reason."""
        try:
            return self.measure(models, *row.specs, *row.arguments), None
        except (NoValues, torch.linalg.LinAlgError) as error:
            return None, one_line(str(error))

    def made_by(self, row: PlannedRow, models: Models) -> str:
        """Hash of what decides a row's values: study, numerics, arguments, trainings, environment. UserError without the data."""
        runs = [models.identity(spec).run_id(spec.key) for spec in row.specs]
        content = (self.name, self.numerics, row.subject, row.arguments, runs, numeric_environment(models.here), *_raised())
        return hashlib.sha256(json.dumps(to_jsonable_python(content), sort_keys=True).encode()).hexdigest()[:16]


def _raised() -> list[tuple[str, int]]:
    """The solvers and adjoints with raised numerics: a row may use them whatever its trainings use."""
    versions = {name: getattr(make, "numerics", 1) for name, make in (SOLVERS | ADJOINTS).items()}
    return [(name, version) for name, version in versions.items() if version > 1]


def number(value: float | Tensor | None) -> float | None:
    """A float of seven digits, as many as float32 holds; None where it is not finite."""
    return float(f"{float(value):.7g}") if value is not None and math.isfinite(value) else None


def median(values: Tensor) -> float | None:
    """The median over samples; None without samples, or where one is not finite."""
    return number(values.double().quantile(0.5)) if values.numel() and bool(torch.isfinite(values).all()) else None


def means_of(solutions: Sequence[Solution]) -> Values:
    """Of solves, evaluations (`steps`: mean over samples, `nfe`: over batches), median residual and share that converged."""
    steps, residual, converged = (
        torch.cat([getattr(solution, name).double() for solution in solutions]) for name in ("steps", "residual", "converged")
    )
    nfe = sum(solution.nfe for solution in solutions) / len(solutions)
    means = {"steps": number(steps.mean()), "nfe": number(nfe)}
    return {**means, "residual": median(residual), "converged": number(converged.mean())}
