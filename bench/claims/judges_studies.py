"""What the experiments say of a claim: trained models looked at from close by, per seed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from bench.analysis.statistics import significant
from bench.claims.claim import Part, counted
from bench.claims.evidence import EXPERIMENTS_SOURCE, Evidence
from bench.claims.hypothesis_tests import bound, paired, tested
from bench.claims.judges_runs import between, part

Values = Mapping[str, Any]
_WITHIN_NATS = 0.02
_FEWER = 0.8


def _rows(evidence: Evidence, name: str) -> list[Values]:
    """The rows of an experiment that have values."""
    found = evidence.experiments
    rows = found["experiments"].get(name, {}).get("rows", []) if found else []
    return [row for row in rows if row["values"] is not None]


def _by_task(rows: list[Values], read: Callable[[Values], float | None]) -> Iterator[tuple[str, dict[int, float]]]:
    """A number of each row, by task and seed."""
    for task in dict.fromkeys(row["task"] for row in rows):
        numbers = {row["seed"]: value for row in rows if row["task"] == task and (value := read(row["values"])) is not None}
        if numbers:
            yield task, numbers


def _of(row: Part) -> Part:
    return replace(row, sources=(EXPERIMENTS_SOURCE,))


def _counted(about: str, value: str, asked: str, met: bool, note: str = "") -> Part:
    return counted(about, value, asked, met, EXPERIMENTS_SOURCE, note)


def steps_grow(evidence: Evidence) -> list[Part]:
    """Evaluations of a forward solve in the last tenth of the training over those in the first."""
    rows = [row for row in _rows(evidence, "training") if row["model"] == "DEQ"]
    parts = []
    for task, ratios in _by_task(
        rows, lambda values: _ratio(values["course"][-1]["forward_nfe"], values["course"][0]["forward_nfe"])
    ):
        found = tested(list(ratios.values()), 1.0, "log")
        parts.append(_of(part(f"{task}: last tenth over first", found, 1.0, "above", "", suite="")))
    return parts


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def backward_is_shorter(evidence: Evidence) -> list[Part]:
    """Evaluations of a backward solve over those of a forward one, over the whole training."""
    rows = [row for row in _rows(evidence, "training") if row["model"] == "DEQ"]
    parts = []
    for task, backward in _by_task(rows, lambda values: values["train_backward_nfe_mean"]):
        forward = dict(_by_task(rows, lambda values: values["train_forward_nfe_mean"]))[task]
        found = paired(backward, forward, _FEWER, "log")
        parts.append(_of(part(f"{task}: backward over forward", found, _FEWER, "below", "", suite="")))
    return parts


def slower_to_answer(low: float, high: float) -> Callable[[Evidence], list[Part]]:
    """Milliseconds of a batch without gradients, of a trained DEQ over the trained weight-tied network, between two ratios."""

    def judge(evidence: Evidence) -> list[Part]:
        rows, parts = _rows(evidence, "inference"), []
        for task, ours in _by_task(rows, lambda values: values["deq_ms"]):
            theirs = dict(_by_task(rows, lambda values: values["tied_ms"]))[task]
            evaluations = sorted(dict(_by_task(rows, lambda values: values["nfe"]))[task].values())
            made = between(f"{task}: DEQ over tied", ours, theirs, low, high, suite="")
            many = ", ".join(f"{count:g}" for count in evaluations)
            parts.append(_of(replace(made, note=f"{made.note}; evaluations of the solves: {many}")))
        return parts

    return judge


def flat_in(name: str, setting: str, loose: float, tight: float) -> Callable[[Evidence], list[Part]]:
    """How much validation loss is lost by a looser tolerance or a lower cap of the evaluation's solves."""

    def read(at: float) -> Callable[[Values], float | None]:
        return lambda values: next((point["loss"] for point in values["points"] if point[setting] == at), None)

    def judge(evidence: Evidence) -> list[Part]:
        rows, parts = _rows(evidence, name), []
        for task, losses in _by_task(rows, read(loose)):
            best = dict(_by_task(rows, read(tight))).get(task, {})
            found = paired(losses, best, _WITHIN_NATS, "linear")
            about = f"{task}: loss at {setting} {loose:g} less that at {tight:g}"
            made = part(about, found, _WITHIN_NATS, "below", " nats", suite="")
            scale = f"; the loss itself is {significant(median(best.values()), 2)}" if best else ""
            parts.append(_of(replace(made, note=f"{made.note}{scale}")))
        return parts

    return judge


def tied_need_not_converge(evidence: Evidence) -> list[Part]:
    """The share of sequences on which a trained weight-tied network's map comes to rest, on the task where that is clearest."""
    rows = [row for row in _rows(evidence, "layers") if row["model"].startswith("tied")]
    shares = dict(_by_task(rows, lambda values: next(iter(values["lengths"].values()))["still"]))
    if not shares:
        return []
    found = {task: tested(list(mine.values()), 0.99, "fraction") for task, mine in shares.items()}
    made = {task: part(f"{task}: share at rest after 200 layers", one, 0.99, "below", "", suite="") for task, one in found.items()}
    known = [one for one in made.values() if one.p_for is not None and one.p_against is not None]
    if not known:
        return [_of(one) for one in made.values()]
    least = min(known, key=lambda one: one.p_for or 0.0)
    # Some task is enough, so that the clearest is taken, its p-value for all of them (Bonferroni); against it, all must be.
    p_for = min(1.0, len(known) * (least.p_for or 0.0))
    p_against = max(one.p_against or 0.0 for one in known)
    note = f"{least.note}; the clearest of {len(known)} tasks, its p-value for that many"
    return [_of(replace(least, p_for=p_for, p_against=p_against, note=note))]


def one_root(evidence: Evidence) -> list[Part]:
    """The share of sequences on which two solvers find the same equilibrium, for the pair where that is least."""

    def read(values: Values) -> float | None:
        known = [pair["same"] for pair in values["pairs"].values() if pair["same"] is not None]
        return min(known) if known else None

    parts = []
    for task, shares in _by_task(_rows(evidence, "independence"), read):
        found = tested(list(shares.values()), 0.99, "fraction")
        parts.append(
            _of(part(f"{task}: share with the same logits to 1e-3, of the pair least alike", found, 0.99, "above", "", suite=""))
        )
    return parts


def gradient_is_exact(evidence: Evidence) -> list[Part]:
    """The implicit gradient beside a dense float64 solve: at a tight tolerance, and as trained."""
    rows, parts = _rows(evidence, "gradient"), []
    for moment in ("start", "end"):
        for task, distances in _by_task(rows, lambda values, moment=moment: _tightest(values[moment])):  # type: ignore[misc]
            about = f"{task}, {moment} of training: relative error, backward solve at 1e-8 in float64"
            parts.append(_worst(about, distances, 1e-6, ""))
    for task, cosines in _by_task(rows, lambda values: values["end"].get("as trained", {}).get("one_less_cosine")):
        parts.append(_worst(f"{task}, end of training: 1 - cosine, as trained (1e-3, float32)", cosines, 0.01, ""))
    return parts


def _worst(about: str, found: Mapping[int, float], most: float, unit: str) -> Part:
    """Whether every seed is below a limit: a count of these seeds, with what it says of others."""
    fail = sum(value >= most for value in found.values())
    value = f"{significant(max(found.values()), 2)}{unit} at most"
    return _counted(about, value, f"below {most:g}", fail == 0, bound(fail, len(found)))


def _tightest(gradients: Values) -> float | None:
    points = [point for point in gradients.get("backward", []) if point["distance"] is not None]
    distance: float | None = min(points, key=lambda point: point["rtol"])["distance"] if points else None
    return distance


def batch_does_not_matter(evidence: Evidence) -> list[Part]:
    """A sequence's logits alone and in batches, the largest difference over seeds and sizes."""
    rows, parts = _rows(evidence, "batch"), []
    for dtype, most in (("float64", 1e-6), ("float32", 1e-2)):
        for task, found in _by_task(rows, lambda values, dtype=dtype: max(one["logits"] for one in values[dtype])):  # type: ignore[misc]
            parts.append(_worst(f"{task}, {dtype}", found, most, " nats"))
    return parts


def one_more_forward(evidence: Evidence) -> list[Part]:
    """FLOPs of a step with gradient checkpointing over those without: a forward is a third of a step."""
    parts = []
    for row in _rows(evidence, "recompute"):
        for kind in ("sqrt", "every"):
            ratio = row["values"]["core"][kind]["ratio"]
            if ratio is not None:
                met = abs(ratio - 4 / 3) <= 0.07
                parts.append(_counted(f"{row['depth']} layers, checkpoint {kind}", f"{ratio:.3f}", "4/3, within 0.07", met))
    return parts


def nothing_passes_silently(evidence: Evidence) -> list[Part]:
    """Solves of maps without a fixed point: samples called converged that are not; and what the record of a training says."""
    parts = []
    rows = _rows(evidence, "hostile")
    for name in dict.fromkeys(row["map"] for row in rows):
        said = [one for row in rows if row["map"] == name for one in row["values"].values() if isinstance(one, Mapping)]
        silent, grown = (sum(one[key] for one in said) for key in ("silent", "grown"))
        samples = sum(one[status] for one in said for status in ("CONVERGED", "MAX_STEPS", "DIVERGED", "NONFINITE"))
        note = f"{grown} called converged as their iterates grew" if grown else ""
        parts.append(_counted(f"map: {name}", f"{silent} of {samples} called converged wrongly", "none", silent == 0, note))
    rows = _rows(evidence, "hostile training")
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row["values"] for row in rows if row["model"] == model]
        flagged = sum(one["status"] != "ok" or (one["train_converged_fraction"] or 0.0) < 0.99 for one in mine)
        parts.append(
            _counted(
                f"training: {model}",
                f"{flagged} of {len(mine)} records flagged",
                "all",
                flagged == len(mine),
                bound(len(mine) - flagged, len(mine)),
            )
        )
    return parts
