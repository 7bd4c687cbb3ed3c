"""Groups of runs as rows (runs that differ in the seed alone), and means over a row's ok runs.

Runs of different specs never share a row: a label that stands for several gets one row each, named by what differs.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from bench.analysis.columns import Column, natural, unit
from bench.analysis.grid import Cell, Sample, cut, footnote, gathered
from bench.analysis.statistics import MIN_EQUAL_SEEDS, Interval, over_seeds, written
from bench.records.errors import UserError
from bench.records.record import Measure, Record, order
from bench.records.spec import RunSpec

Family = Literal["deq", "ode", "tied", "attention", "convolution", "recurrent", "other"]
FAMILIES: dict[str, Family] = {
    **{"deq": "deq", "ode": "ode", "tied": "tied", "looped": "tied", "transformer-xl": "attention", "trellisnet": "convolution"},
    **{"adaptive-loop": "tied", "tcn": "convolution", "lstm": "recurrent", "gru": "recurrent", "state-space": "recurrent"},
}
ORDER: tuple[Family, ...] = ("deq", "ode", "tied", "attention", "convolution", "recurrent", "other")
# Endings of the files that one group writes: a group so named would overwrite another's.
ENDINGS = (
    *("cost", "memory", "solver", "trials", "depth", "gradient", "quality", "budgets"),
    *("tradeoff", "curves", "length", "difficulty"),
)


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """The final runs of one label, in the order of their seeds."""

    label: str
    family: Family
    finals: tuple[Record, ...]

    @property
    def explicit(self) -> bool:
        """Whether its model is an explicit network: neither a DEQ nor a Neural ODE."""
        return self.family not in ("deq", "ode")

    @property
    def ok(self) -> tuple[Record, ...]:
        """The runs whose numbers count."""
        return tuple(record for record in self.finals if record.status == "ok")

    @property
    def failed(self) -> tuple[Record, ...]:
        """The runs that ended otherwise."""
        return tuple(record for record in self.finals if record.status != "ok")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One comparison of a suite; `slug` names its files."""

    suite: str
    name: str
    slug: str
    rows: tuple[ResultRow, ...]
    trials: tuple[Record, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """All runs, finals first."""
        return tuple(record for row in self.rows for record in row.finals) + self.trials


def slug(text: str) -> str:
    """Lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def newest(records: Iterable[Record]) -> list[Record]:
    """The last record of each RunSpec (data, code or environment may have changed in between), by run id."""
    by_key = {record.spec.key: record for record in sorted(records, key=lambda record: (order(record), record.run_id))}
    return sorted(by_key.values(), key=lambda record: record.run_id)


def groups(suite: str, records: Iterable[Record]) -> list[Group]:
    """The comparisons of a suite by name, whatever the order of the records."""
    by_name = gathered((record.spec.group, record) for record in newest(records))
    slugs = [slug(name) for name in by_name]
    found = []
    for name, members in sorted(by_name.items()):
        stem = slug(name)
        if slugs.count(stem) > 1 or stem.endswith(tuple(f"-{ending}" for ending in ENDINGS)):
            stem += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
        finals = [record for record in members if record.spec.role == "final"]
        trials = tuple(record for record in members if record.spec.role == "trial")
        found.append(Group(suite=suite, name=name, slug=stem, rows=_rows(finals), trials=trials))
    return found


def _rows(finals: Sequence[Record]) -> tuple[ResultRow, ...]:
    rows = []
    for label, members in gathered((record.spec.label, record) for record in finals).items():
        variants = list(gathered((json.dumps(_terms(record.spec), sort_keys=True), record) for record in members).values())
        terms = [_terms(variant[0].spec) for variant in variants]
        names = sorted({name for one in terms for name in one})
        differing = [name for name in names if len({repr(one.get(name)) for one in terms}) > 1]
        for variant, one in zip(variants, terms, strict=True):
            suffix = ", ".join(f"{name}={one.get(name)}" for name in differing)
            runs = tuple(sorted(variant, key=lambda record: record.spec.seed))
            for first, second in pairwise(runs):
                if first.spec.seed == second.spec.seed:
                    raise UserError(f"runs {first.run_id} and {second.run_id} are the same seed of one row; move one of them away")
            family = family_of(runs[0].spec.model.name)
            rows.append(ResultRow(label=f"{label} ({suffix})" if suffix else label, family=family, finals=runs))
    return tuple(sorted(rows, key=lambda row: (ORDER.index(row.family), natural(row.label))))


def family_of(model: str) -> Family:
    """The family of a model by its name in the registry; "other" for a user's own."""
    return FAMILIES.get(model, "other")


def flat_spec(spec: RunSpec) -> dict[str, Any]:
    """Flatten a spec: settings as `model.depth`, `task.T`, `train.steps`, `recipe.jacobian`."""
    terms: dict[str, Any] = {"model": spec.model.name, "task": spec.task.name, "device": spec.device, "threads": spec.threads}
    recipe = spec.recipe.model_dump(exclude_defaults=True) if spec.recipe is not None else {}
    parts = {"model": spec.model.settings, "task": spec.task.settings, "train": spec.train.model_dump(), "recipe": recipe}
    terms |= {f"{part}.{name}": value for part, settings in parts.items() for name, value in settings.items()}
    return terms | {"parameters": spec.parameters}


def _terms(spec: RunSpec) -> dict[str, Any]:
    """What must be equal within a row; depths are probed in the first seed alone."""
    terms = flat_spec(spec)
    if spec.trials:
        terms["trials"] = hashlib.sha256(" ".join(sorted(spec.trials)).encode()).hexdigest()[:6]
    return terms


def unequal_terms(group: Group) -> tuple[dict[str, Any], list[str]]:
    """The terms that all rows share, and the names of the others; model, recipe and learning rate are meant to differ."""
    rows = [_terms(row.finals[0].spec) | _data_and_machine(row) for row in group.rows]
    shared: dict[str, Any] = {}
    unequal: list[str] = []
    for name in sorted({name for terms in rows for name in terms}):
        if name.partition(".")[0] in ("model", "recipe", "trials", "parameters") or name == "train.learning_rate":
            continue
        values = [terms.get(name) for terms in rows]
        if any(value != values[0] for value in values):
            unequal.append(name)
        else:
            shared[name] = values[0]
    return shared, unequal


def _data_and_machine(row: ResultRow) -> dict[str, Any]:
    machines = {json.dumps([r.environment.get(name) for name in ("cpu", "usable_cores", "gpu", "torch")]) for r in row.finals}
    return {"data": sorted({r.identity.data for r in row.finals}), "machine": sorted(machines)}


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A row's mean of one measure, why runs lack it, and the measures and samples that it is computed from."""

    estimate: Interval | None
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    samples: tuple[Sample, ...]


def aggregate(row: ResultRow, column: Column) -> Aggregate:
    """The mean over the row's ok runs that have the measure; on the linear scale where a value forbids the column's own."""
    samples, measures, reasons = [], [], set()
    for record in row.finals:
        measure, ok = record.measures.get(column.name), record.status == "ok"
        value = measure.value if measure and ok else None
        reason = "not recorded" if measure is None else measure.reason or ""
        samples.append(
            Sample(f"seed {record.spec.seed}", value, record.run_id, reason if ok else f"{record.status}: {record.reason}")
        )
        if measure and value is not None:
            measures.append(measure)
        elif ok:
            reasons.add(reason or "null")
    values = [measure.value for measure in measures if measure.value is not None]
    estimate = over_seeds(values, column.scale) if values else None
    return Aggregate(estimate=estimate, reasons=tuple(sorted(reasons)), measures=tuple(measures), samples=tuple(samples))


def measure_cell(
    row: ResultRow, column: Column, one: Aggregate, factor: float = 1.0, bold: bool = False, notes: list[str] | None = None
) -> Cell:
    """The cell of a row's mean, its text in the unit times `factor`."""
    notes = [] if notes is None else notes
    marks = []
    if one.estimate is None:
        text = "n/a" if row.ok else "—"
        marks = [footnote(notes, cut(reason)) for reason in one.reasons]
    else:
        text = written(one.estimate, factor, column.counted)
        marks = [footnote(notes, f"{one.estimate.n} of {len(row.ok)} ok runs; the others: {cut(reason)}") for reason in one.reasons]
        if one.estimate.scale != column.scale:
            marks.append(footnote(notes, f"A value is off the {column.scale} scale: mean and interval are on the linear scale."))
    return Cell(
        text,
        bold,
        tuple(marks),
        value=one.estimate.mean if one.estimate else None,
        interval=one.estimate,
        unit=unit(column, one.measures),
        samples=one.samples,
        methods=tuple(dict.fromkeys((measure.method, measure.scope) for measure in one.measures)),
        measure=column.name,
    )


def best(column: Column, rows: Sequence[ResultRow], cells: Sequence[Aggregate]) -> set[int]:
    """Which cells are bold: the best, if its interval overlaps no other's (two runs or more each, none of its own failed).

    Counts without spread need no interval: the best is bold, equal ones together, unless all are equal. Equal samples have an
    interval of unknown width: they count from five runs.
    """
    have = [(index, one.estimate) for index, one in enumerate(cells) if one.estimate is not None]
    if column.better is None or len(have) < 2:
        return set()
    top = (min if column.better == "lower" else max)(estimate.mean for _, estimate in have)
    winners = {index for index, estimate in have if estimate.mean == top}
    if column.counted and all(estimate.has_no_spread for _, estimate in have):
        return winners if len(winners) < len(have) else set()
    index, winner = next((index, estimate) for index, estimate in have if estimate.mean == top)
    few = not column.counted and any(estimate.has_no_spread and estimate.n < MIN_EQUAL_SEEDS for _, estimate in have)
    alone = not few and all(winner.apart(estimate) for other, estimate in have if other != index)
    return {index} if alone and not rows[index].failed else set()
