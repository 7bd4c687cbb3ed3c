"""The memory figures of Bai, Kolter, Koltun (2019), tables 2 and 3, against the bytes that a step of each model needs.

Their caption: sequence length 150, batch size 15, "does not include word embeddings". It leaves open what else counts, so each
published way to read it is a Reading.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.memory.step import Call, Shape, predicted
from bench.records.spec import ComponentConfig, Settings
from bench.suites.paper import CHOSEN, COPY, PRINTED, VOCABULARY, WIKITEXT, PaperRow

BATCH, LENGTH = 15, 150
GB = 2**30
WITHIN = 0.2  # of the printed figure: two digits, another device, another version of torch and of the code
_HELD = {"weights": 0, "gradients": 0, "optimiser": 0}
_HISTORY = "solver history"

Verdict = Literal["consistent", "cannot tell", "not consistent", "not built"]


@dataclass(frozen=True)
class Reading:
    """One way to read the protocol: the step's configuration, its meaning, and how often a kind of bytes counts if not once."""

    name: str
    configuration: str
    means: str
    times: Mapping[str, int] = field(default_factory=dict)


_TABLES = {"embeddings": 0}
_WHOLE = "the whole step; of the embedding and softmax tables neither weights, gradients nor optimiser state"
_CLUSTERS = "as `model`, the softmax split in clusters as in TrellisNet's scripts (2800, 20000, 76000)"
_UV = "as `core`, with two states a solver step, as the released Broyden solver keeps them; this library's keeps one"
_CAPS = "as `core`, capped as in other versions of the scripts: 30 and 50 (Transformer), 50 and 70 (TrellisNet)"
READINGS = (
    Reading("model", "model", _WHOLE, _TABLES),
    Reading("model, clusters", "clusters", _CLUSTERS, _TABLES),
    Reading("core", "core", "embedding and softmax left out altogether, with what they compute"),
    Reading("core, activations", "core", "as `core`, without weights, gradients and optimiser state", _HELD),
    Reading("core, no history", "core", "as `core`, without what the solver stores of its steps", {_HISTORY: 0}),
    Reading("core, activations, no history", "core", "as `core`, without any of these", {**_HELD, _HISTORY: 0}),
    Reading("core, U and V", "core", _UV, {_HISTORY: 2}),
    Reading("core, carried", "carried", "as `core`, with the memory of 150 positions before (Transformers)"),
    Reading("core, other caps", "caps", _CAPS),
)
_CLUSTERED = 100_000  # words; a smaller vocabulary has no clusters

# A DEQ, the explicit network that it is compared with, and whether that one is weight-tied or recomputes.
PAIRS = (
    ("DEQ-TrellisNet, Penn Treebank", "TrellisNet-60", "tied"),
    ("DEQ-TrellisNet", "TrellisNet-70", "tied"),
    ("DEQ-Transformer small", "Transformer-XL small, weight-tied 16 layers", "tied"),
    ("DEQ-Transformer small", "Transformer-XL small, 4 layers", "untied"),
    ("DEQ-Transformer medium", "Transformer-XL medium, 16 layers", "untied"),
    ("DEQ-Transformer medium, adaptive", "Transformer-XL medium, 18 layers, adaptive", "untied"),
    ("DEQ-TrellisNet", "TrellisNet-70, checkpointed", "checkpointed"),
)


def configurations(model: ComponentConfig, shape: Shape) -> Iterator[tuple[str, ComponentConfig, Shape]]:
    """The configurations of a step that apply to a model."""
    settings = model.settings
    solved = model.name == "deq" and settings.get("solver") == "broyden"
    trellis = model.name == "trellisnet" or settings.get("cell") == "trellis"
    if solved:
        model = whole_history(model, int(settings["steps"]), int(settings["backward_steps"]))  # type: ignore[arg-type]
    core = replace(shape, ends=False)
    yield "model", model, shape
    if trellis and shape.vocabulary > _CLUSTERED:
        clusters: Settings = {"cutoffs": "2800,20000,76000", "div_value": 1.0}
        yield "clusters", ComponentConfig(name=model.name, settings=model.settings | clusters), shape
    yield "core", model, core
    if settings.get("memory_length") or settings.get("cell.memory_length"):
        yield "carried", model, replace(core, carry=True)
    if solved:
        steps, backward = (50, 70) if trellis else (30, 50)
        yield "caps", whole_history(model, steps, backward), replace(core, steps=steps, backward_steps=backward)


def whole_history(model: ComponentConfig, steps: int, backward_steps: int) -> ComponentConfig:
    """The model with room for every step of either solve, as in the released solver; the default here restarts after 30."""
    return ComponentConfig(name=model.name, settings={**model.settings, "solver.window": max(steps, backward_steps)})


def label_of(row: PaperRow) -> str:
    """The row's label, unique also for the model that both tables have."""
    return row.label if row.table == WIKITEXT or row.label != "DEQ-TrellisNet" else f"{row.label}, Penn Treebank"


def calls(also: Mapping[str, ComponentConfig] | None = None) -> list[Call]:
    """Calls that each measure one row: of every printed memory figure, and of every model of the user's own."""
    found: list[Call] = []
    for row in PRINTED:
        if row.table != COPY and row.memory is not None:
            auxiliary = row.recipe.auxiliary if row.recipe is not None else 0.0
            facts = {"label": label_of(row), "table": row.table, "printed_gb": row.memory, "published": CHOSEN not in row.remark}
            found.append((_row, (facts, row.model, row.vocabulary, auxiliary)))
    for label, model in (also or {}).items():
        facts = {"label": label, "table": "your own", "printed_gb": None, "published": True}
        found.append((_row, (facts, model, VOCABULARY[WIKITEXT], 0.0)))
    return found


def _row(facts: dict[str, Any], model: ComponentConfig | None, vocabulary: int, auxiliary: float) -> dict[str, Any]:
    row: dict[str, Any] = {**facts, "model": None, "steps": {}, "readings": {}}
    if model is None:
        return row
    row["model"] = model.model_dump(mode="json")
    shape = Shape(batch=BATCH, length=LENGTH, vocabulary=vocabulary, auxiliary=auxiliary)
    for configuration, built, changed in configurations(model, shape):
        waterfall = predicted(built, changed)
        row["steps"][configuration] = {
            **{"settings": built.settings, "shape": changed.__dict__, "peak": waterfall.peak, "phase": waterfall.phase},
            **{"phases": waterfall.phases, "fused": sorted(waterfall.operators & FUSED.keys())},
        }
        with_history = any(kinds[_HISTORY] for kinds in waterfall.phases.values())
        for reading in READINGS:
            if reading.configuration == configuration and (with_history or _HISTORY not in reading.times):
                row["readings"][reading.name] = waterfall.counted(reading.times)
    return row


# The counts are of what these operators save on a CPU. Other devices' kernels save, apart from the same inputs and output:
FUSED = {
    "_scaled_dot_product_flash_attention_for_cpu": "attention: log-sum-exp, 4 B a query and head; CUDA's flash kernel the same "
    "and two numbers of its random state, its memory-efficient kernel with queries rounded up to 32",
    "mkldnn_rnn_layer": "LSTM: oneDNN's workspace; cuDNN's reserve is of its own size, which its library alone says",
}


def off(row: dict[str, Any], reading: str) -> float | None:
    """The bytes of a reading over the printed figure, minus one."""
    if row["printed_gb"] is None or reading not in row["readings"]:
        return None
    return float(row["readings"][reading] / GB / row["printed_gb"] - 1)


def verdict(row: dict[str, Any]) -> tuple[Verdict, str | None]:
    """Whether the printed figure is what the model needs, by the rule of tables.py, and the nearest reading."""
    if not row["readings"]:
        return "not built", None
    near = {name: abs(found) for name in row["readings"] if (found := off(row, name)) is not None}
    if not near:
        return "cannot tell", None
    best = min(near, key=lambda name: near[name])
    literal = "model, clusters" if "model, clusters" in near else "model"
    if row["published"] and near[literal] <= WITHIN:
        return "consistent", best
    return ("cannot tell" if near[best] <= WITHIN else "not consistent"), best


def reduction(found: list[dict[str, Any]], pair: tuple[str, str, str], reading: str) -> float | None:
    """The share of memory that a DEQ saves by a reading, or by the paper's own tables ("paper").

    A reading that only a DEQ has is compared with the other's `core`.
    """
    by_label = {row["label"]: {"paper": row["printed_gb"], **row["readings"]} for row in found}
    deq, explicit = (by_label.get(label, {}) for label in pair[:2])
    against = _against(reading, explicit)
    return float(1 - deq[reading] / explicit[against]) if reading in deq and against in explicit else None


def _against(reading: str, explicit: Mapping[str, Any]) -> str:
    """The reading of an explicit network that a DEQ's is compared with."""
    plain = {"model, clusters": "model", "core, activations, no history": "core, activations"}
    return reading if reading in explicit else plain.get(reading, "core")


@dataclass(frozen=True)
class ReductionClaim:
    """A reduction that the paper claims in words, the kinds of pairs it is about, and its least (of an "up to", largest) share."""

    words: str
    kinds: tuple[str, ...]
    share: float
    up_to: bool = False


CLAIMS = (
    ReductionClaim("up to 88 % less", ("tied", "untied"), 0.88, up_to=True),
    ReductionClaim("over 80 % less than weight-tied networks", ("tied",), 0.80),
    ReductionClaim("over 60 % less than networks that are not weight-tied", ("untied",), 0.60),
    ReductionClaim("less than gradient checkpointing", ("checkpointed",), 0.0),
)


def shares(found: list[dict[str, Any]], claim: ReductionClaim, reading: str) -> list[float]:
    """The reductions of the pairs that a claim is about."""
    pairs = [pair for pair in PAIRS if pair[2] in claim.kinds]
    return [share for pair in pairs if (share := reduction(found, pair, reading)) is not None]


def missed(found: list[dict[str, Any]], claim: ReductionClaim, reading: str) -> list[str]:
    """The models of a claim's pairs whose bytes by a reading are not within 20 % of the printed figure."""
    if reading == "paper":
        return []
    by_label, errors = {row["label"]: row for row in found}, dict[str, float | None]()
    for pair in PAIRS:
        if pair[2] in claim.kinds and reduction(found, pair, reading) is not None:
            deq, explicit = (by_label[label] for label in pair[:2])
            errors[pair[0]] = off(deq, reading)
            errors[pair[1]] = off(explicit, _against(reading, explicit["readings"]))
    return [label for label, error in errors.items() if error is not None and abs(error) > WITHIN]


def span(reductions: list[float]) -> str:
    """The smallest and the largest in %."""
    low, high = (f"{100 * share:.0f}" for share in (min(reductions), max(reductions)))
    return low if low == high else f"{low} to {high}"


def holds(claim: ReductionClaim, reductions: list[float]) -> bool:
    """Whether all reductions exceed the claimed one; for an "up to", whether the largest reaches it (within half a percent)."""
    return max(reductions) >= claim.share - 0.005 if claim.up_to else min(reductions) > claim.share
