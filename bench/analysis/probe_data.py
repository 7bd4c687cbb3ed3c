"""What probes of single runs recorded: memory by depth, residual by evaluations, gradient by beta.

Each function returns the data and the run they are from: the row's first seed that was probed (None: none was).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.analysis.aggregate import ResultRow
from bench.records.errors import UserError


class DepthPoint(BaseModel):
    """What one method needs at one depth."""

    model_config = ConfigDict(frozen=True)

    method: str
    depth: int
    saved_bytes: int
    peak_live_bytes: int
    solver_bytes: int | None = None


class BetaPoint(BaseModel):
    """How far equilibrium propagation's gradient is from the implicit one at a nudge of size beta."""

    model_config = ConfigDict(frozen=True)

    symmetric: bool
    beta: float
    one_less_cosine: float
    distance: float


_BETA = TypeAdapter(list[BetaPoint])
_DEPTH = TypeAdapter(list[DepthPoint])
_RESIDUAL = TypeAdapter(dict[str, list[tuple[float, float, float]]])


def _probe(row: ResultRow, name: str, form: TypeAdapter[Any], default: Any) -> tuple[Any, str | None]:
    record = next((record for record in row.ok if name in record.probes), None)
    if record is None:
        return default, None
    try:
        return form.validate_python(record.probes[name]), record.run_id
    except ValidationError as error:
        raise UserError(f"run {record.run_id}: probe {name!r} is damaged ({error.errors()[0]['msg']})") from error


def depth_probe(row: ResultRow) -> tuple[dict[str, list[DepthPoint]], str | None]:
    """Points by method, by depth."""
    points, run = _probe(row, "depth", _DEPTH, [])
    methods: dict[str, list[DepthPoint]] = {}
    for point in sorted(points, key=lambda point: (point.method, point.depth)):
        methods.setdefault(point.method, []).append(point)
    return methods, run


def residual_probe(row: ResultRow) -> tuple[dict[str, list[tuple[float, float, float]]], str | None]:
    """[evaluations, p50, p95] by solver."""
    curves, run = _probe(row, "residual_by_nfe", _RESIDUAL, {})
    return dict(sorted(curves.items())), run


def beta_probe(row: ResultRow) -> tuple[list[BetaPoint], str | None]:
    """Points by nudge and beta."""
    points, run = _probe(row, "gradient_by_beta", _BETA, [])
    return sorted(points, key=lambda point: (not point.symmetric, -point.beta)), run
