"""Judges of the studies: trained models, per task and seed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter, methodcaller
from typing import Any

from scipy.stats import binomtest

from bench.analysis.statistics import over_seeds, significant, written
from bench.claims.claim import Part
from bench.claims.evidence import STUDIES_SOURCE, Evidence
from bench.claims.hypothesis_tests import bound
from bench.claims.parts import BySeed, excess, fact, mean_within, ratios

Values = Mapping[str, Any]
Read = Callable[[Values], float | None]
_fact = partial(fact, sources=STUDIES_SOURCE)
_mean_within = partial(mean_within, sources=STUDIES_SOURCE)
_SAME = 0.99  # share of sequences that end at one root, whichever solver finds it


def _rows(evidence: Evidence, study: str, model: str = "") -> list[Values]:
    """The rows with values whose model's name starts so."""
    rows = evidence.studies.get(study, {}).get("rows", [])
    return [row for row in rows if row["values"] is not None and row.get("model", "").startswith(model)]


def by_task(evidence: Evidence, study: str, read: Read, model: str = "") -> dict[str, dict[int, float]]:
    """One number per row with values, by task and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in _rows(evidence, study, model):
        if (value := read(row["values"])) is not None:
            found.setdefault(row["task"], {})[row["seed"]] = value
    return found


def steps_grow(evidence: Evidence) -> list[Part]:
    """Evaluations of a forward solve in the last tenth of training over those in the first."""

    def growth(values: Values) -> float | None:
        first, last = (values["course"][at]["forward_nfe"] for at in (0, -1))
        return last / first if first and last is not None else None

    found = by_task(evidence, "training", growth, "DEQ")
    return [_mean_within(f"{task}: last tenth over first", growths, "log", low=1.0) for task, growths in found.items()]


def backward_is_shorter(evidence: Evidence) -> list[Part]:
    """Evaluations of a backward solve over those of a forward one, over all of training."""
    forward, backward = (
        by_task(evidence, "training", itemgetter(f"train_{phase}_nfe_mean"), "DEQ") for phase in ("forward", "backward")
    )
    return [
        _mean_within(f"{task}: backward over forward", ratios(nfe, forward[task]), "log", high=0.8)
        for task, nfe in backward.items()
    ]


def inference_time_within(evidence: Evidence, low: float, high: float) -> Iterator[Part]:
    """The time of a trained DEQ's batch over the weight-tied network's, between two limits; the note says it of looser solves."""
    ours, loose, theirs = (by_task(evidence, "inference", methodcaller("get", name)) for name in ("deq_ms", "loose_ms", "tied_ms"))
    nfe, few = (by_task(evidence, "inference", methodcaller("get", name)) for name in ("nfe", "loose_nfe"))
    for task in ours:
        part = _mean_within(f"{task}: DEQ over tied", ratios(ours[task], theirs[task]), "log", low=low, high=high)
        note = f"{part.note}; evaluations of the solves: {_listed(nfe[task])}"
        if times := ratios(loose.get(task, {}), theirs[task]):
            tolerance = evidence.studies["inference"]["settings"]["loose rtol"]
            note += f"; to a tolerance of {tolerance:g} {written(over_seeds(list(times.values()), 'log'))} times"
            note += f" (evaluations: {_listed(few[task])})"
        yield replace(part, note=note)


def _listed(counts: BySeed) -> str:
    """Counts in ascending order."""
    return ", ".join(f"{count:g}" for count in sorted(counts.values()))


def loss_is_flat(evidence: Evidence, study: str, setting: str, loose: float, tight: float) -> Iterator[Part]:
    """The validation loss at a loose setting of the evaluation's solves less that at a tight one."""

    def loss_at(value: float) -> Read:
        return lambda values: next((point["loss"] for point in values["points"] if point[setting] == value), None)

    losses, best = (by_task(evidence, study, loss_at(value)) for value in (loose, tight))
    names = f"loss at {setting} {loose:g}", f"that at {tight:g}"
    for task, loss in losses.items():
        yield excess(task, names, loss, best.get(task, {}), 0.02, STUDIES_SOURCE)


def tied_need_not_converge(evidence: Evidence) -> list[Part]:
    """Share of sequences on which a weight-tied network's map converges, on the task with the clearest result."""
    shares = by_task(evidence, "layers", lambda values: next(iter(values["lengths"].values()))["still"], "tied")
    about = "share converged after 200 layers"
    parts = [_mean_within(f"{task}: {about}", one, "fraction", high=0.99) for task, one in shares.items()]
    tested = [(part.p_for, part.p_against, part) for part in parts if part.p_for is not None and part.p_against is not None]
    if not tested:
        return parts
    # One task is enough: its p-value is corrected for the choice (Bonferroni). Against the claim, all tasks must fail.
    p_for, _, clearest = min(tested, key=itemgetter(0))
    note = f"{clearest.note}; the clearest of {len(tested)} tasks, its p-value for that many"
    return [replace(clearest, p_for=min(1.0, len(tested) * p_for), p_against=max(p for _, p, _ in tested), note=note)]


def one_root(evidence: Evidence) -> Iterator[Part]:
    """Of the sequences that two solvers both solve, over tasks and seeds, those with the same equilibrium: a part a pair."""
    counts: dict[str, list[tuple[int, int]]] = {}
    for row in _rows(evidence, "independence"):
        for names, pair in row["values"]["pairs"].items():
            if pair["samples"]:
                counts.setdefault(names, []).append((round(pair["same"] * pair["samples"]), pair["samples"]))
    for names, found in counts.items():
        same, both = (sum(column) for column in zip(*found, strict=True))
        sides = {side: float(binomtest(same, both, _SAME, alternative=side).pvalue) for side in ("greater", "less")}
        yield Part(
            about=f"{names}: sequences that both solve, with the same logits",
            value=f"{same} of {both}",
            asked=f"above {_SAME:g}",
            p_for=sides["greater"],
            p_against=sides["less"],
            note=f"exact binomial test over sequences of {len(found)} models, taken as independent",
            sources=STUDIES_SOURCE,
        )


def gradient_is_exact(evidence: Evidence) -> Iterator[Part]:
    """Error of the implicit gradient against a dense float64 solve, at a tight tolerance and as trained."""

    def tightest(gradients: Values) -> float | None:
        points = [point for point in gradients.get("backward", []) if point["distance"] is not None]
        return min(points, key=lambda point: point["rtol"])["distance"] if points else None

    for moment in ("start", "end"):
        for task, distances in by_task(evidence, "gradient", lambda values, at=moment: tightest(values[at])).items():  # type: ignore[misc]
            about = f"{task}, {moment} of training: relative error, backward solve at 1e-8 in float64"
            yield _all_below(about, distances, 1e-6)
    cosines = by_task(evidence, "gradient", lambda values: values["end"].get("as trained", {}).get("one_less_cosine"))
    about = "end of training: 1 - cosine, as trained (1e-3, float32)"
    yield from (_all_below(f"{task}, {about}", found, 0.01) for task, found in cosines.items())


def batch_does_not_matter(evidence: Evidence) -> Iterator[Part]:
    """Largest difference of a sequence's logits when solved alone and in batches, over seeds and sizes."""
    for dtype, limit in (("float64", 1e-6), ("float32", 1e-2)):
        found = by_task(evidence, "batch", lambda values, dtype=dtype: max(one["logits"] for one in values[dtype]))  # type: ignore[misc]
        yield from (_all_below(f"{task}, {dtype}", differences, limit, " nats") for task, differences in found.items())


def _all_below(about: str, values: BySeed, limit: float, unit: str = "") -> Part:
    """Require that every seed is below a limit, and bound the share of seeds that are not."""
    failures = sum(value >= limit for value in values.values())
    value = f"{significant(max(values.values()), 2)}{unit} at most"
    part = _fact(about, value, f"below {limit:g}", failures == 0, note=bound(failures, len(values)))
    return replace(part, samples=tuple(values.values()))


def one_more_forward(evidence: Evidence) -> Iterator[Part]:
    """FLOPs of a step with gradient checkpointing over those without: a forward is a third of a step."""
    for row in _rows(evidence, "recompute"):
        for kind in ("sqrt", "every"):
            if (ratio := row["values"]["core"][kind]["ratio"]) is not None:
                about, met = f"{row['depth']} layers, checkpoint {kind}", abs(ratio - 4 / 3) <= 0.07
                yield _fact(about, f"{ratio:.3f}", "4/3, within 0.07", met)


def failures_are_reported(evidence: Evidence) -> Iterator[Part]:
    """Statuses of solves of maps without a fixed point, and of trainings of such cells."""
    rows = _rows(evidence, "hostile")
    for name in dict.fromkeys(row["map"] for row in rows):
        counts = [one for row in rows if row["map"] == name for one in row["values"].values() if isinstance(one, Mapping)]
        silent, grown = (sum(one[key] for one in counts) for key in ("silent", "grown"))
        samples = sum(one[status] for one in counts for status in ("CONVERGED", "MAX_STEPS", "DIVERGED", "NONFINITE"))
        note = f"{grown} called converged as their iterates grew" if grown else ""
        yield _fact(f"map: {name}", f"{silent} of {samples} called converged wrongly", "none", silent == 0, note=note)
    rows = _rows(evidence, "hostile training")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row["values"] for row in rows if row["model"] == model]
        flagged = sum(one["status"] != "ok" or (one["train_converged_fraction"] or 0.0) < 0.99 for one in own)
        missed = len(own) - flagged
        value, note = f"{flagged} of {len(own)} records flagged", bound(missed, len(own))
        yield _fact(f"training: {model}", value, "all", missed == 0, note=note)
