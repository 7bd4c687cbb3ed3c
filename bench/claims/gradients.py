"""Table of the gradients by every adjoint, from the study of adjoints."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.analysis.grid import Cell, Sample, Table, footnote, gathered, line
from bench.analysis.statistics import Scale, over_seeds, significant, written
from bench.claims.evidence import Evidence

STUDY = "adjoints"
COMMAND = f"python -m bench claims --measure --study {STUDY}"
_PHASES = ("forward", "backward")
Points = dict[int, Mapping[str, Any]]  # by seed
_LEGEND = (
    "Every forward solve starts at the initial state (by Anderson; SHINE's by Broyden, reverse's by the reversible iteration,"
    " unroll's by Picard) and ends at the tolerance or at the cap, as does a backward solve. The exact gradient is that of "
    "the implicit function theorem at the root, by a dense solve, in all parameters; the error is relative to its norm. f: "
    "evaluations, with those that a backward pass repeats. VJPs: backward passes through an evaluation, the last one, to the "
    "parameters, included; propagation's are gradients of its potential, whose values count as f. Solved: sequences, of all "
    "seeds, whose forward solve met the tolerance; backward: whose backward solve did, of reverse whose steps were retraced "
    "to the start. unroll differentiates the solve that was made, exactly, and reverse too where it retraces the steps; where"
    " rounding has grown too much, what it returns is wrong. Theirs is the gradient of the truncated solve, which is not that of "
    "the equilibrium, and far from it where plain iteration does not converge. implicit, GMRES and SHINE refined to the "
    "tolerance are exact but for the tolerances; SHINE and phantom are inexact at any tolerance. Geometric means over seeds "
    "with their 95 % t-intervals; of counts arithmetic ones."
)


@dataclass(frozen=True, kw_only=True)
class _Column:
    head: str
    name: str  # of the number in a point; `phase.name` of one in a phase
    tight: bool = False  # at the tightest tolerance, not at the loosest
    scale: Scale = "log"
    unit: str = "1"


_COLUMNS = (
    _Column(head="1 - cosine ↓", name="one_less_cosine"),
    _Column(head="relative error ↓", name="distance"),
    _Column(head="relative error at {tight} ↓", name="distance", tight=True),
    _Column(head="f ↓", name="evaluations", scale="linear", unit="evaluations"),
    _Column(head="VJPs ↓", name="products", scale="linear", unit="VJPs"),
    _Column(head="solved ↑", name="forward.converged", scale="fraction"),
    _Column(head="backward ↑", name="backward.converged", scale="fraction"),
)


def table(evidence: Evidence) -> Table | None:
    """A line per trained model and adjoint; None where the study has no values."""
    study = evidence.studies.get(STUDY, {})
    rows: list[Mapping[str, Any]] = study.get("rows", [])
    points = [(row["task"], row["seed"], point) for row in rows if row["values"] for point in row["values"]["points"]]
    if not points:
        return None
    tolerances = {point["rtol"] for _, _, point in points}
    loose, tight = max(tolerances), min(tolerances)
    found = {key: dict(own) for key, own in gathered(_keyed(points)).items()}
    batch, cap, steps = (study["settings"][name] for name in ("batch", "cap", "steps"))
    notes: list[str] = []
    lines = []
    for (task, adjoint, rtol), own in found.items():
        if rtol == loose:
            lacking = [row for row in rows if row["task"] == task and not row["values"]]
            marks = tuple(footnote(notes, f"{task}, seed {row['seed']}, has no values: {row['reason']}.") for row in lacking)
            cells = _cells({loose: own, tight: found[task, adjoint, tight]}, batch, notes)
            lines.append(line(Cell(task, notes=marks), adjoint, *cells, family="deq", method=adjoint))
    absent = {row["task"]: row["reason"] for row in rows if row["task"] not in {task for task, _, _ in points}}
    return Table(
        kind=STUDY,
        title="Gradients of trained DEQs by every adjoint, against the exact gradient",
        caption=f"Solves to {significant(loose, 1, scientific=True)} in at most {cap} evaluations, in float64, on the first "
        f"{batch} training sequences that have a root; DEQs after {steps} training steps, {len(study['seeds'])} seeds.",
        legend=_LEGEND,
        heads=(("model", ""), ("adjoint", ""), *((column.head.format(tight=significant(tight, 1)), "") for column in _COLUMNS)),
        rows=tuple(lines),
        notes=tuple(notes),
        remarks=tuple(f"{task} has no values: {reason}." for task, reason in absent.items()),
        data=tuple(_data(points)),
        text_columns=(0, 1),
        label_columns=2,
    )


def _keyed(points: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Iterator[tuple[tuple[str, str, float], tuple[int, Any]]]:
    for task, seed, point in points:
        yield (task, point["adjoint"], point["rtol"]), (seed, point)


def _cells(points: Mapping[float, Points], batch: int, notes: list[str]) -> Iterator[Cell]:
    """The cells of a line, from its points by tolerance and seed."""
    for column in _COLUMNS:
        own = points[min(points) if column.tight else max(points)]
        values = {seed: _value(point, column.name) for seed, point in own.items()}
        cell = _solved(values, column, batch) if column.scale == "fraction" else _mean(values, column, notes)
        if column.tight and any(point[phase] and point[phase]["converged"] < 1 for point in own.values() for phase in _PHASES):
            cell = replace(cell, notes=(*cell.notes, footnote(notes, "Not every solve met that tolerance.")))
        yield cell


def _value(point: Mapping[str, Any], name: str) -> float | None:
    """A number of a point; None where it is not finite, or the phase had no solve."""
    phase, dot, own = name.rpartition(".")
    part = (point[phase] or {}) if dot else point
    value: float | None = part.get(own)
    return value


def _samples(values: Mapping[int, float | None], reason: str) -> tuple[Sample, ...]:
    return tuple(Sample(f"seed {seed}", value, reason="" if value is not None else reason) for seed, value in values.items())


def _mean(values: Mapping[int, float | None], column: _Column, notes: list[str]) -> Cell:
    known = [float(value) for value in values.values() if value is not None]
    cell = Cell(
        "n/a",
        unit=column.unit,
        samples=_samples(values, "not finite"),
        measure=f"{column.name}{', tight' if column.tight else ''}",
    )
    if len(known) < len(values):
        cell = replace(cell, notes=(footnote(notes, f"Finite in {len(known)} of {len(values)} seeds."),))
    if not known:
        return cell
    estimate = over_seeds(known, column.scale)
    text = written(estimate, counted=column.scale == "linear")
    return replace(cell, text=text, value=estimate.mean, interval=estimate)


def _solved(shares: Mapping[int, float | None], column: _Column, batch: int) -> Cell:
    """How many sequences of all seeds were solved, of how many; a dash where there is no solve."""
    known = [share for share in shares.values() if share is not None]
    if not known:
        return Cell("—", measure=column.name)
    count = round(batch * sum(known))
    return Cell(
        f"{count}/{batch * len(known)}",
        value=count / (batch * len(known)),
        unit=column.unit,
        samples=_samples(shares, "no solve"),
        measure=column.name,
    )


def _data(points: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Iterator[dict[str, object]]:
    """Every number, of all tolerances and seeds."""
    more = (_Column(head="", name=f"{phase}.nfe", unit="evaluations") for phase in _PHASES)
    columns = [*(column for column in _COLUMNS if not column.tight), *more]
    for task, seed, point in points:
        for column in columns:
            yield {
                **{"suite": "claims", "group": task, "label": point["adjoint"], "column": column.name, "solver": point["solver"]},
                **{"rtol": point["rtol"], "seed": seed, "value": _value(point, column.name), "unit": column.unit},
            }
