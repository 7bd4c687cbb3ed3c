"""Judges of the studies: trained models, per task and seed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from bench.analysis.statistics import significant
from bench.claims.claim import Judge, Part
from bench.claims.evidence import STUDIES_SOURCE, Evidence
from bench.claims.hypothesis_tests import bound, paired_test, seed_test
from bench.claims.parts import fact, one_sided, within

Values = Mapping[str, Any]
_one_sided = partial(one_sided, sources=STUDIES_SOURCE)
_fact = partial(fact, sources=STUDIES_SOURCE)


def _rows(evidence: Evidence, study: str, model: str = "") -> list[Values]:
    """The rows with values whose model's name starts so."""
    rows = evidence.studies.get(study, {}).get("rows", [])
    return [row for row in rows if row["values"] is not None and row.get("model", "").startswith(model)]


def _by_task(rows: list[Values], read: Callable[[Values], float | None]) -> dict[str, dict[int, float]]:
    """One number per row, by task and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if (value := read(row["values"])) is not None:
            found.setdefault(row["task"], {})[row["seed"]] = value
    return found


def steps_grow(evidence: Evidence) -> list[Part]:
    """Evaluations of a forward solve in the last tenth of training over those in the first."""

    def growth(values: Values) -> float | None:
        first, last = (values["course"][at]["forward_nfe"] for at in (0, -1))
        return last / first if first and last is not None else None

    ratios = _by_task(_rows(evidence, "training", "DEQ"), growth)
    return [
        _one_sided(f"{task}: last tenth over first", seed_test(list(one.values()), 1.0, "log"), "above", 1.0)
        for task, one in ratios.items()
    ]


def backward_is_shorter(evidence: Evidence) -> list[Part]:
    """Evaluations of a backward solve over those of a forward one, over all of training."""
    rows = _rows(evidence, "training", "DEQ")
    forward = _by_task(rows, lambda values: values["train_forward_nfe_mean"])
    return [
        _one_sided(f"{task}: backward over forward", paired_test(backward, forward[task], 0.8, "log"), "below", 0.8)
        for task, backward in _by_task(rows, lambda values: values["train_backward_nfe_mean"]).items()
    ]


def inference_time_within(low: float, high: float) -> Judge:
    """Judge by the time of a trained DEQ's batch over the weight-tied network's, between two limits."""

    def judge(evidence: Evidence) -> list[Part]:
        rows, parts = _rows(evidence, "inference"), []
        ours, theirs, nfe = (_by_task(rows, lambda values, name=name: values[name]) for name in ("deq_ms", "tied_ms", "nfe"))  # type: ignore[misc]
        for task in ours:
            part = within(f"{task}: DEQ over tied", ours[task], theirs[task], low, high, STUDIES_SOURCE)
            counts = ", ".join(f"{count:g}" for count in sorted(nfe[task].values()))
            parts.append(replace(part, note=f"{part.note}; evaluations of the solves: {counts}"))
        return parts

    return judge


def loss_is_flat(study: str, setting: str, loose: float, tight: float) -> Judge:
    """Judge by the validation loss at a loose setting of the evaluation's solves less that at a tight one."""

    def judge(evidence: Evidence) -> list[Part]:
        rows, parts = _rows(evidence, study), []
        losses, best = (
            _by_task(rows, lambda values, at=at: next((p["loss"] for p in values["points"] if p[setting] == at), None))  # type: ignore[misc]
            for at in (loose, tight)
        )
        for task, loss in losses.items():
            test = paired_test(loss, best.get(task, {}), 0.02, "linear")
            part = _one_sided(f"{task}: loss at {setting} {loose:g} less that at {tight:g}", test, "below", 0.02, unit=" nats")
            scale = f"; the loss itself is {significant(median(best[task].values()), 2)}" if task in best else ""
            parts.append(replace(part, note=f"{part.note}{scale}"))
        return parts

    return judge


def tied_need_not_converge(evidence: Evidence) -> list[Part]:
    """Share of sequences on which a weight-tied network's map converges, on the task with the clearest result."""
    shares = _by_task(_rows(evidence, "layers", "tied"), lambda values: next(iter(values["lengths"].values()))["still"])
    tests = {task: seed_test(list(one.values()), 0.99, "fraction") for task, one in shares.items()}
    parts = {task: _one_sided(f"{task}: share converged after 200 layers", test, "below", 0.99) for task, test in tests.items()}
    p_values = {task: test.p for task, test in tests.items() if test.p is not None}
    if not p_values:
        return list(parts.values())
    # One task is enough: its p-value is corrected for the choice (Bonferroni). Against the claim, all tasks must fail.
    clearest = min(p_values, key=lambda task: p_values[task][0])
    p_for = min(1.0, len(p_values) * p_values[clearest][0])
    p_against = max(above for _, above in p_values.values())
    note = f"{parts[clearest].note}; the clearest of {len(p_values)} tasks, its p-value for that many"
    return [replace(parts[clearest], p_for=p_for, p_against=p_against, note=note)]


def one_root(evidence: Evidence) -> list[Part]:
    """Share of sequences on which two solvers find the same equilibrium, for the pair where it is smallest."""

    def read(values: Values) -> float | None:
        return min((pair["same"] for pair in values["pairs"].values() if pair["same"] is not None), default=None)

    about = "share with the same logits to 1e-3, of the least similar pair"
    return [
        _one_sided(f"{task}: {about}", seed_test(list(shares.values()), 0.99, "fraction"), "above", 0.99)
        for task, shares in _by_task(_rows(evidence, "independence"), read).items()
    ]


def gradient_is_exact(evidence: Evidence) -> list[Part]:
    """Error of the implicit gradient against a dense float64 solve, at a tight tolerance and as trained."""

    def tightest(gradients: Values) -> float | None:
        points = [point for point in gradients.get("backward", []) if point["distance"] is not None]
        return min(points, key=lambda point: point["rtol"])["distance"] if points else None

    rows, parts = _rows(evidence, "gradient"), []
    for moment in ("start", "end"):
        for task, distances in _by_task(rows, lambda values, moment=moment: tightest(values[moment])).items():  # type: ignore[misc]
            about = f"{task}, {moment} of training: relative error, backward solve at 1e-8 in float64"
            parts.append(_all_below(about, distances, 1e-6))
    cosines = _by_task(rows, lambda values: values["end"].get("as trained", {}).get("one_less_cosine"))
    about = "end of training: 1 - cosine, as trained (1e-3, float32)"
    return parts + [_all_below(f"{task}, {about}", found, 0.01) for task, found in cosines.items()]


def batch_does_not_matter(evidence: Evidence) -> list[Part]:
    """Largest difference of a sequence's logits when solved alone and in batches, over seeds and sizes."""
    rows, parts = _rows(evidence, "batch"), []
    for dtype, limit in (("float64", 1e-6), ("float32", 1e-2)):
        found = _by_task(rows, lambda values, dtype=dtype: max(one["logits"] for one in values[dtype]))  # type: ignore[misc]
        parts += [_all_below(f"{task}, {dtype}", differences, limit, " nats") for task, differences in found.items()]
    return parts


def _all_below(about: str, values: Mapping[int, float], limit: float, unit: str = "") -> Part:
    """Require that every seed is below a limit, and bound the share of seeds that are not."""
    failures = sum(value >= limit for value in values.values())
    value = f"{significant(max(values.values()), 2)}{unit} at most"
    return _fact(about, value, f"below {limit:g}", failures == 0, note=bound(failures, len(values)))


def one_more_forward(evidence: Evidence) -> list[Part]:
    """FLOPs of a step with gradient checkpointing over those without: a forward is a third of a step."""
    ratios = {
        f"{row['depth']} layers, checkpoint {kind}": row["values"]["core"][kind]["ratio"]
        for row in _rows(evidence, "recompute")
        for kind in ("sqrt", "every")
    }
    return [
        _fact(about, f"{ratio:.3f}", "4/3, within 0.07", abs(ratio - 4 / 3) <= 0.07)
        for about, ratio in ratios.items()
        if ratio is not None
    ]


def failures_are_reported(evidence: Evidence) -> list[Part]:
    """Statuses of solves of maps without a fixed point, and of trainings of such cells."""
    parts = []
    rows = _rows(evidence, "hostile")
    for name in dict.fromkeys(row["map"] for row in rows):
        counts = [one for row in rows if row["map"] == name for one in row["values"].values() if isinstance(one, Mapping)]
        silent, grown = (sum(one[key] for one in counts) for key in ("silent", "grown"))
        samples = sum(one[status] for one in counts for status in ("CONVERGED", "MAX_STEPS", "DIVERGED", "NONFINITE"))
        note = f"{grown} called converged as their iterates grew" if grown else ""
        parts.append(_fact(f"map: {name}", f"{silent} of {samples} called converged wrongly", "none", silent == 0, note=note))
    rows = _rows(evidence, "hostile training")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row["values"] for row in rows if row["model"] == model]
        flagged = sum(one["status"] != "ok" or (one["train_converged_fraction"] or 0.0) < 0.99 for one in own)
        missed = len(own) - flagged
        value, note = f"{flagged} of {len(own)} records flagged", bound(missed, len(own))
        parts.append(_fact(f"training: {model}", value, "all", missed == 0, note=note))
    return parts
