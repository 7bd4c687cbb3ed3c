"""Columns of tables: recorded measures with their heads, directions, scales and units."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.analysis.statistics import Scale
from bench.records.errors import UserError
from bench.records.metric import Metric
from bench.records.record import Measure, Record

Better = Literal["lower", "higher"]


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
STEP = Column(name="step_ms_median", head="step")
COST = (
    Column(name="train_s", head="training"),
    STEP,
    Column(name="tokens_per_s", head="throughput", better="higher"),
    Column(name="train_step_flops", head="FLOPs a step", counted=True),
    Column(name="forward_flops", head="FLOPs forward", counted=True),
    Column(name="energy_J", head="energy"),
    Column(name="mean_power_W", head="mean power"),
)
COST_MORE = tuple(Column(name=name, head=name) for name in ("step_ms_p10", "step_ms_p90", "build_s", "warmup_s", "evaluation_s"))
SAVED = Column(name="saved_bytes", head="saved for backward", counted=True)
PEAK = Column(name="peak_live_bytes", head="peak live", counted=True)
MEMORY = (
    SAVED,
    PEAK,
    Column(name="held_bytes", head="held throughout", counted=True),
    Column(name="solver_bytes", head="solver storage", counted=True),
    Column(name="host_peak_bytes", head="host peak", scale="linear"),
    Column(name="cuda_allocated_peak_bytes", head="CUDA allocated"),
    Column(name="cuda_reserved_peak_bytes", head="CUDA reserved"),
    Column(name="nvml_process_bytes", head="NVML process"),
)
MEMORY_MORE = tuple(
    Column(name=name, head=name) for name in ("cuda_requested_peak_bytes", "cublas_workspace_bytes", "nvml_device_bytes")
)
TEST_CONVERGED = Column(name="eval_converged_fraction", head="test converged", better="higher", scale="fraction")
LEAK = Column(name="future_leak_nats", head="future leak")
PREFIX_GAP = Column(name="prefix_gap", head="prefix gap", better=None, scale="linear")
SOLVER = (
    Column(name="train_forward_nfe_mean", head="train NFE forward"),
    Column(name="train_backward_nfe_mean", head="train NFE backward"),
    Column(name="train_residual_p95", head="train residual p95"),
    Column(name="train_converged_fraction", head="train converged", better="higher", scale="fraction"),
    Column(name="train_backward_converged_fraction", head="backward converged", better="higher", scale="fraction"),
    Column(name="eval_forward_nfe_mean", head="test NFE"),
    Column(name="eval_residual_p95", head="test residual p95"),
    TEST_CONVERGED,
    LEAK,
    PREFIX_GAP,
)
SOLVER_MORE = tuple(
    Column(name=name, head=name)
    for name in (
        *("train_forward_nfe_p95", "train_backward_nfe_p95", "train_residual_p50", "train_residual_max"),
        *("train_backward_residual_p50", "train_backward_residual_p95", "train_backward_residual_max"),
        *("eval_forward_nfe_p95", "eval_residual_p50", "eval_residual_p99", "eval_residual_max"),
    )
)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which tied 2 comes before tied 12."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", text))


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
    return first, dict(sorted(found.items(), key=lambda item: (item[0] != first, natural(item[0]))))


def metric_scale(name: str, metric: Metric) -> Scale:
    """Log for losses and perplexities, which are positive ratios; an excess can be negative, and a user's own score anything."""
    if metric.unit == "fraction":
        return "fraction"
    ratio = name.startswith(("loss", "perplexity", "bits_per")) or metric.unit.startswith(("nats", "bits"))
    return "log" if ratio and not name.startswith("excess") else "linear"


def metric_columns(records: Iterable[Record], split: Literal["test", "valid"] = "test") -> list[Column]:
    """A column for each metric of the records, the headline first."""
    return [
        Column(
            name=f"{split}_{name}",
            head=name.replace("_", " "),
            better=metric.better,
            scale=metric_scale(name, metric),
            chance=metric.chance,
            optimum=metric.optimum,
        )
        for name, metric in metrics(records)[1].items()
    ]


def metric_parts(names: Iterable[str], score: str) -> list[tuple[int, str]]:
    """The metrics of a score on parts of the test split, as `accuracy_last_T64`, in order of the number that ends each name."""
    found = [match for name in names if (match := re.fullmatch(rf"{score}_[A-Za-z](\d+)", name))]
    return sorted((int(match[1]), match[0]) for match in found)


def unit(column: Column, measures: Iterable[Measure]) -> str:
    """The unit that the runs wrote; UserError where they disagree."""
    units = sorted({measure.unit for measure in measures})
    if len(units) > 1:
        raise UserError(f"runs of one group give {column.name} in different units: {', '.join(units)}")
    return "" if units in ([], ["1"]) else units[0]


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
