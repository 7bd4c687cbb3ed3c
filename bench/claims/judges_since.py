"""Judges of the claims made since 2019: losses of ways to train, length generalisation, starts of a solve."""

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_parts, metrics
from bench.analysis.selection import by_seed
from bench.claims.claim import Judge, Part
from bench.claims.evidence import STUDIES_SOURCE, Evidence, runs
from bench.claims.judges_runs import Labels, Suites, of_scores, pairs
from bench.claims.judges_studies import by_task
from bench.claims.parts import cannot_tell, differences, excess, mean_within, ratios

_LEARNED = 0.9  # accuracy at the last token of the training's length
_UNLEARNED = "no seed learned {} tokens, the training's length"
_STARTS = {"normal": "noise", "warm": "another sequence's state"}  # of the study of path independence


def loss_excess(evidence: Evidence, suites: Suites, labels: Labels, most: float, of_gradient: bool = False) -> Iterator[Part]:
    """The test loss of one row less that of another, in nats; their ratio where the other's is small.

    A part does not hold by a score that is inadmissible. `of_gradient`: the claim is about the gradient alone, so that rows which
    differ in more cannot tell.
    """
    for suite, group, ours, theirs in pairs(evidence, suites, labels):
        loss, other = (by_seed(row, "test_loss") for row in (ours, theirs))
        part = excess(group.name, (ours.label, theirs.label), loss, other, most, runs(suite, ours, theirs))
        part = of_scores(part, ours, theirs)
        if of_gradient and (more := _other_differences(ours, theirs)):
            note = f"the rows differ in {', '.join(more)} too; {part.note}"
            part = replace(part, verdict="cannot tell", p_for=None, p_against=None, note=note)
        yield part


def _other_differences(ours: ResultRow, theirs: ResultRow) -> list[str]:
    """What two rows differ in besides the gradient and the learning rate, which each has tuned: settings, and the recipe."""
    one, other = (row.finals[0].spec for row in (ours, theirs))
    settings, others = one.model.settings, other.model.settings
    names = {name.partition(".")[0] for name in {*settings, *others} if settings.get(name) != others.get(name)}
    found = sorted(name for name in names if name != "adjoint" and not name.startswith("backward_"))
    return found + (["recipe"] if one.recipe != other.recipe else [])


def more_solves_converge(evidence: Evidence, suites: Suites, labels: Labels) -> Iterator[Part]:
    """The share of test solves of one row that converge less that of another."""
    for suite, group, ours, theirs in pairs(evidence, suites, labels):
        share, other = (by_seed(row, "eval_converged_fraction") for row in (ours, theirs))
        about = f"{group.name}: share of test solves that converge, {ours.label} less {theirs.label}"
        yield mean_within(about, differences(share, other), "linear", runs(suite, ours, theirs), low=0.0)


def both(*judges: Judge) -> Judge:
    """Judge by the parts of several judges."""
    return lambda evidence: [part for judge in judges for part in judge(evidence)]


def right_at_longest(evidence: Evidence, labels: tuple[str, ...], least: float, only: str = "*") -> Iterator[Part]:
    """The accuracy at the last token of the longest test sequences of suite `track`, in the comparisons named `only`."""
    for group, lengths in _lengths(evidence):
        for row in group.rows:
            if fnmatchcase(group.name, only) and any(fnmatchcase(row.label, label) for label in labels):
                about = f"{group.name}, {lengths[-1].tokens} tokens: {row.label}"
                part = mean_within(about, by_seed(row, lengths[-1].measure), "fraction", runs("track", row), low=least)
                yield of_scores(part, row)


def wrong_at_longest(evidence: Evidence, labels: tuple[str, ...], most: float) -> Iterator[Part]:
    """The same accuracy of the runs that learned the training's length: what was never learned says nothing of length."""
    for group, lengths in _lengths(evidence):
        for row in (row for row in group.rows if row.label in labels):
            about, sources = f"{group.name}, {lengths[-1].tokens} tokens: {row.label}", runs("track", row)
            right, learned = by_seed(row, lengths[-1].measure), _learned(row, lengths)
            if learned:
                yield mean_within(about, {seed: right[seed] for seed in learned}, "fraction", sources, high=most)
            else:
                yield cannot_tell(about, "—", f"below {most:g}", sources, _UNLEARNED.format(lengths[0].tokens))


def right_by_solver(evidence: Evidence, least: float, solvers: Labels) -> Iterator[Part]:
    """The accuracy at the longest test length of a row less that of the same network by another solver.

    Of the seeds that learned the training's length by both.
    """
    tested = {group.name: lengths for group, lengths in _lengths(evidence)}
    for suite, group, ours, theirs in pairs(evidence, ("track",), solvers):
        lengths = tested[group.name]
        right, other = (by_seed(row, lengths[-1].measure) for row in (ours, theirs))
        lost = {seed: right[seed] - other[seed] for seed in sorted(_learned(ours, lengths) & _learned(theirs, lengths))}
        about = f"{group.name}, {lengths[-1].tokens} tokens: {ours.label} less {theirs.label}"
        sources = runs(suite, ours, theirs)
        if lost:
            yield of_scores(mean_within(about, lost, "linear", sources, low=-least), ours, theirs)
        else:
            yield cannot_tell(about, "—", f"above {-least:g}", sources, _UNLEARNED.format(lengths[0].tokens))


class _Length(NamedTuple):
    """A test length, and the measure of the accuracy at the last token there."""

    tokens: str
    measure: str


def _lengths(evidence: Evidence) -> Iterator[tuple[Group, list[_Length]]]:
    """Each comparison of state tracking and its test lengths, the first that of the training."""
    for group in evidence.groups("track"):
        found = metric_parts(metrics(group.records)[1], "accuracy_last")
        if found:
            yield group, [_Length(str(tokens), f"test_{name}") for tokens, name in found]


def _learned(row: ResultRow, lengths: list[_Length]) -> set[int]:
    """The seeds that are right at the last token of sequences of the training's length."""
    return {seed for seed, right in by_seed(row, lengths[0].measure).items() if right >= _LEARNED}


def more_steps_help(evidence: Evidence, suites: Suites, labels: tuple[str, ...], factor: float) -> Iterator[Part]:
    """The test loss with the evaluation's stops over that with the stops of the training, of the same models."""
    for suite in suites:
        for group in evidence.groups(suite):
            for row in (row for row in group.rows if row.label in labels):
                loss, as_trained = (by_seed(row, measure) for measure in ("test_loss", "test_loss_as_trained"))
                about = f"{group.name}: {row.label}"
                yield of_scores(mean_within(about, ratios(loss, as_trained), "log", runs(suite, row), high=factor), row)


def more_steps_solve_longer(evidence: Evidence, cap: int, least: float) -> Iterator[Part]:
    """The accuracy at the longest test length at the largest cap of the study of test-time steps less that at `cap`."""
    found: dict[str, dict[int, float]] = {}
    for row in evidence.studies.get("test-time steps", {}).get("rows", []):
        if row["values"] is not None:
            scores = {point["cap"]: point["scores"] for point in row["values"]["points"]}
            length, name = metric_parts(scores[cap], "accuracy_last")[-1]
            about = f"{row['task']}, {length} tokens: {row['model']}, {max(scores)} evaluations less {cap}"
            found.setdefault(about, {})[row["seed"]] = scores[max(scores)][name] - scores[cap][name]
    return (mean_within(about, gained, "linear", STUDIES_SOURCE, low=least) for about, gained in found.items())


def same_state(evidence: Evidence, least: float) -> Iterator[Part]:
    """The share of converged pairs of solves that end in the same state, from zero and from another start."""
    for start, words in _STARTS.items():
        found = by_task(evidence, "path independence", lambda one, start=start: one[start]["same"], "DEQ")  # type: ignore[misc]
        for task, shares in found.items():
            yield mean_within(f"{task}: from {words} as from zero", shares, "fraction", STUDIES_SOURCE, low=least)


def warm_start_saves(evidence: Evidence, rtol: float, least: float) -> Iterator[Part]:
    """The share of evaluations that a warm start saves as a window moves on by a token, by cell."""
    found: dict[str, dict[int, float]] = {}
    for row in evidence.studies.get("warm start", {}).get("rows", []):
        for point in (row["values"] or {}).get("windows", []):
            if point["rtol"] == rtol and point["start"] == "shifted":
                found.setdefault(f"{row['task']}: {row['cell']}", {})[row["seed"]] = point["saved"]
    return (mean_within(about, saved, "linear", STUDIES_SOURCE, low=least) for about, saved in found.items())
