"""A table is made of rows (runs that differ in the seed alone), columns (measures) and cells (a mean over a row's ok runs).

Runs of different specs never share a row: a label that stands for several gets one row each, named by what differs.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.analysis.statistics import DECIDES, Interval, Scale, over_seeds
from bench.records.errors import UserError
from bench.records.metric import Metric
from bench.records.record import Measure, Record, order
from bench.records.spec import RunSpec

Better = Literal["lower", "higher"]
Family = Literal["deq", "ode", "tied", "attention", "convolution", "recurrent", "other"]
FAMILIES: dict[str, Family] = {
    "deq": "deq",
    "ode": "ode",
    "tied": "tied",
    "transformer-xl": "attention",
    "trellisnet": "convolution",
    "tcn": "convolution",
    "lstm": "recurrent",
    "gru": "recurrent",
}
ORDER: tuple[Family, ...] = ("deq", "ode", "tied", "attention", "convolution", "recurrent", "other")
# Endings of the files that one group writes: a group so named would overwrite another's.
ENDINGS = ("cost", "memory", "solver", "trials", "depth", "curves", "steps", "seconds", "residual", "tradeoff", "quality")


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """The final runs of one label, in the order of their seeds."""

    label: str
    family: Family
    finals: tuple[Record, ...]

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
    """One record for each RunSpec, by run id: where data, code or environment changed, the one that was made last."""
    by_key: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: (order(record), record.run_id)):
        by_key[record.spec.key] = record
    return sorted(by_key.values(), key=lambda record: record.run_id)


def groups(suite: str, records: Iterable[Record]) -> list[Group]:
    """The comparisons of a suite by name, whatever the order of the records."""
    by_name: dict[str, list[Record]] = {}
    for record in newest(records):
        by_name.setdefault(record.spec.group, []).append(record)
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


def _rows(finals: list[Record]) -> tuple[ResultRow, ...]:
    labels: dict[str, dict[str, list[Record]]] = {}
    for record in finals:
        alike = json.dumps(_terms(record.spec), sort_keys=True)
        labels.setdefault(record.spec.label, {}).setdefault(alike, []).append(record)
    rows = []
    for label, variants in labels.items():
        terms = {alike: _terms(members[0].spec) for alike, members in variants.items()}
        names = {name for variant in terms.values() for name in variant}
        differing = sorted(name for name in names if len({repr(variant.get(name)) for variant in terms.values()}) > 1)
        for alike, members in variants.items():
            suffix = ", ".join(f"{name}={terms[alike].get(name)}" for name in differing)
            rows.append(_row(f"{label} ({suffix})" if suffix else label, members))
    return tuple(sorted(rows, key=lambda row: (ORDER.index(row.family), natural(row.label))))


def _row(label: str, members: list[Record]) -> ResultRow:
    finals = sorted(members, key=lambda record: record.spec.seed)
    for first, second in pairwise(finals):
        if first.spec.seed == second.spec.seed:
            raise UserError(f"runs {first.run_id} and {second.run_id} are the same seed of one row; move one of them away")
    return ResultRow(label=label, family=family_of(finals[0].spec.model.name), finals=tuple(finals))


def family_of(model: str) -> Family:
    """The family of a model by its name in the registry; "other" for a user's own."""
    return FAMILIES.get(model, "other")


def flat_spec(spec: RunSpec) -> dict[str, Any]:
    """What a spec asks for, settings as `model.depth`, `task.T`, `train.steps`, `recipe.jacobian`."""
    terms: dict[str, Any] = {"model": spec.model.name, "task": spec.task.name, "device": spec.device, "threads": spec.threads}
    terms |= {f"model.{name}": value for name, value in spec.model.settings.items()}
    terms |= {f"task.{name}": value for name, value in spec.task.settings.items()}
    terms |= {f"train.{name}": value for name, value in spec.train.model_dump().items()}
    if spec.recipe is not None:
        terms |= {f"recipe.{name}": value for name, value in spec.recipe.model_dump(exclude_defaults=True).items()}
    return terms | {"parameters": spec.parameters}


def _terms(spec: RunSpec) -> dict[str, Any]:
    """Everything of a spec that must be equal within a row; depths are probed in the first seed alone."""
    terms = flat_spec(spec)
    if spec.trials:
        terms["trials"] = hashlib.sha256(" ".join(sorted(spec.trials)).encode()).hexdigest()[:6]
    return terms


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which tied 2 comes before tied 12."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", text))


def unequal_terms(group: Group) -> tuple[dict[str, Any], list[str]]:
    """What all rows share, and the names of what they do not; model, recipe and learning rate are meant to differ."""
    rows = [_terms(row.finals[0].spec) | _places(row) for row in group.rows]
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


def _places(row: ResultRow) -> dict[str, Any]:
    """What no spec says and rows must share all the same: the data's content and the machine."""
    machines = {json.dumps([r.environment.get(name) for name in ("cpu", "usable_cores", "gpu", "torch")]) for r in row.finals}
    return {"data": sorted({str(r.provenance.get("data_sha256")) for r in row.finals}), "machine": sorted(machines)}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure as a column: its head, direction (None: not a score), scale, and whether it is counted, not sampled."""

    name: str
    head: str
    better: Better | None = "lower"
    scale: Scale = "log"
    counted: bool = False
    chance: float | None = None
    optimum: float | None = None


PARAMETERS = (
    Column(name="parameters_total", head="params", better=None, counted=True),
    Column(name="parameters_nonembedding", head="non-emb. params", better=None, counted=True),
)
COST = (
    Column(name="train_s", head="training"),
    Column(name="step_ms_median", head="step"),
    Column(name="tokens_per_s", head="throughput", better="higher"),
    Column(name="train_step_flops", head="FLOPs a step", counted=True),
    Column(name="forward_flops", head="FLOPs forward", counted=True),
    Column(name="energy_J", head="energy"),
    Column(name="mean_power_W", head="mean power"),
)
COST_MORE = tuple(Column(name=name, head=name) for name in ("step_ms_p10", "step_ms_p90", "build_s", "warmup_s", "evaluation_s"))
MEMORY = (
    Column(name="saved_bytes", head="saved for backward", counted=True),
    Column(name="peak_live_bytes", head="peak live", counted=True),
    Column(name="held_bytes", head="held throughout", counted=True),
    Column(name="solver_bytes", head="solver storage", counted=True),
    Column(name="host_peak_bytes", head="host peak", scale="linear"),
    Column(name="cuda_allocated_peak_bytes", head="CUDA allocated"),
    Column(name="cuda_reserved_peak_bytes", head="CUDA reserved"),
    Column(name="nvml_process_bytes", head="NVML process"),
)
MEMORY_MORE = tuple(Column(name=name, head=name) for name in ("cuda_requested_peak_bytes", "nvml_device_bytes"))
SOLVER = (
    Column(name="train_forward_nfe_mean", head="train NFE forward"),
    Column(name="train_backward_nfe_mean", head="train NFE backward"),
    Column(name="train_residual_p95", head="train residual p95"),
    Column(name="train_converged_fraction", head="train converged", better="higher", scale="fraction"),
    Column(name="train_backward_converged_fraction", head="backward converged", better="higher", scale="fraction"),
    Column(name="eval_forward_nfe_mean", head="test NFE"),
    Column(name="eval_residual_p95", head="test residual p95"),
    Column(name="eval_converged_fraction", head="test converged", better="higher", scale="fraction"),
    Column(name="future_leak_nats", head="future leak"),
)
SOLVER_MORE = tuple(
    Column(name=name, head=name)
    for name in (
        *("train_forward_nfe_p95", "train_backward_nfe_p95", "train_residual_p50", "train_residual_max"),
        *("train_backward_residual_p50", "train_backward_residual_p95", "train_backward_residual_max"),
        *("eval_forward_nfe_p95", "eval_residual_p50", "eval_residual_p99", "eval_residual_max"),
    )
)


def metrics(records: Iterable[Record]) -> tuple[str, dict[str, Metric]]:
    """The headline's name and all metrics, headline first; UserError where runs of one group disagree about them."""
    found: dict[str, Metric] = {}
    headline: Record | None = None
    for record in records:
        headline = headline or record
        if record.headline != headline.headline:
            raise UserError(f"runs {headline.run_id} and {record.run_id} of one group have different headline metrics")
        for name, metric in record.metrics.items():
            if found.setdefault(name, metric) != metric:
                raise UserError(f"run {record.run_id} means another thing by {name!r} than the runs of its group before it")
    first = headline.headline if headline else "loss"
    return first, dict(sorted(found.items(), key=lambda item: (item[0] != first, item[0])))


def metric_scale(name: str, metric: Metric) -> Scale:
    """Log for losses and perplexities, which are positive ratios; an excess can be negative, and a user's own score anything."""
    if metric.unit == "fraction":
        return "fraction"
    ratio = name.startswith(("loss", "perplexity", "bits_per")) or metric.unit.startswith(("nats", "bits"))
    return "log" if ratio and not name.startswith("excess") else "linear"


def metric_columns(group: Group, split: Literal["test", "valid"] = "test") -> list[Column]:
    """A column for each metric of the group's task."""
    return [
        Column(
            name=f"{split}_{name}",
            head=name.replace("_", " "),
            better=metric.better,
            scale=metric_scale(name, metric),
            chance=metric.chance,
            optimum=metric.optimum,
        )
        for name, metric in metrics(group.records)[1].items()
    ]


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A row's mean of one measure, with why runs lack it, and the measures and the runs it comes from."""

    estimate: Interval | None
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    runs: tuple[str, ...]


def cell(row: ResultRow, column: Column) -> Aggregate:
    """The mean over the row's ok runs that have the measure; on the linear scale where a value forbids the column's own."""
    present = [(record.run_id, record.measures.get(column.name)) for record in row.ok]
    reasons = {(m.reason or "null") if m else "not recorded" for _, m in present if m is None or m.value is None}
    have = [(run, m, m.value) for run, m in present if m is not None and m.value is not None]
    estimate = over_seeds([value for _, _, value in have], column.scale) if have else None
    measures = tuple(m for _, m, _ in have)
    return Aggregate(estimate=estimate, reasons=tuple(sorted(reasons)), measures=measures, runs=tuple(run for run, _, _ in have))


def unit(column: Column, cells: Sequence[Aggregate]) -> str:
    """The unit that the runs wrote; UserError where they disagree."""
    units = sorted({measure.unit for one in cells for measure in one.measures})
    if len(units) > 1:
        raise UserError(f"runs of one group give {column.name} in different units: {', '.join(units)}")
    return "" if not units or units[0] == "1" else units[0]


def shown_unit(column: Column, written: str, cells: Sequence[Aggregate]) -> tuple[float, str]:
    """Factor and unit in which a column reads well."""
    values = [one.estimate.mean for one in cells if one.estimate is not None]
    return readable("count" if column.name.startswith("parameters_") else written, values)


def readable(unit: str, values: Sequence[float]) -> tuple[float, str]:
    """Factor and unit for values: bytes in powers of 1024; FLOPs, joules and counts in powers of 1000; others as they are."""
    if unit not in ("B", "FLOP", "J", "count"):
        return 1.0, unit
    base, prefixes = (1024, ["", "Ki", "Mi", "Gi", "Ti"]) if unit == "B" else (1000, ["", "k", "M", "G", "T", "P"])
    sizes = sorted(map(abs, values))
    middle, power = sizes[len(sizes) // 2] if sizes else 0.0, 0
    while middle >= base and power + 1 < len(prefixes):
        middle, power = middle / base, power + 1
    return base**-power, prefixes[power] + ("" if unit == "count" else unit)


def best(column: Column, rows: Sequence[ResultRow], cells: Sequence[Aggregate]) -> set[int]:
    """Which cells are bold: the best, if its interval overlaps no other's (two runs or more each, none of its own failed).

    Counts without spread need no interval: the best is bold, equal ones together, unless all are equal. What is sampled and equal
    has an interval of unknown width, so that it is told apart with five runs or more.
    """
    have = [(index, one.estimate) for index, one in enumerate(cells) if one.estimate is not None]
    if column.better is None or len(have) < 2:
        return set()
    choose = min if column.better == "lower" else max
    top = choose(estimate.mean for _, estimate in have)
    if column.counted and all(estimate.exact for _, estimate in have):
        winners = {index for index, estimate in have if estimate.mean == top}
        return winners if len(winners) < len(have) else set()
    index, winner = next((index, estimate) for index, estimate in have if estimate.mean == top)
    few = not column.counted and any(estimate.exact and estimate.n < DECIDES for _, estimate in have)
    alone = not few and all(winner.apart(estimate) for other, estimate in have if other != index)
    return {index} if alone and not rows[index].failed else set()


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


def _probe(row: ResultRow, name: str, form: TypeAdapter[Any], nothing: Any) -> tuple[Any, str | None]:
    record = next((record for record in row.ok if name in record.probes), None)
    if record is None:
        return nothing, None
    try:
        return form.validate_python(record.probes[name]), record.run_id
    except ValidationError as error:
        raise UserError(f"run {record.run_id}: probe {name!r} is damaged ({error.errors()[0]['msg']})") from error


def depth_probe(row: ResultRow) -> tuple[dict[str, list[DepthPoint]], str | None]:
    """Points by method, by depth, and the run they are from: the row's first seed that was probed (they are counts)."""
    points, run = _probe(row, "depth", _DEPTH, [])
    methods: dict[str, list[DepthPoint]] = {}
    for point in sorted(points, key=lambda point: point.depth):
        methods.setdefault(point.method, []).append(point)
    return dict(sorted(methods.items())), run


def residual_probe(row: ResultRow) -> tuple[dict[str, list[tuple[float, float, float]]], str | None]:
    """[nfe, p50, p95] by solver, and the run they are from: the row's first seed that was probed."""
    curves, run = _probe(row, "residual_by_nfe", _RESIDUAL, {})
    return dict(sorted(curves.items())), run


def beta_probe(row: ResultRow) -> tuple[list[BetaPoint], str | None]:
    """Points by nudge and beta, and the run they are from: the row's first seed."""
    points, run = _probe(row, "gradient_by_beta", _BETA, [])
    return sorted(points, key=lambda point: (not point.symmetric, -point.beta)), run
