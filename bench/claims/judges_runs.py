"""Judges of the suites' runs: rows of one comparison, paired by seed."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from math import inf

from bench.analysis.aggregate import Group, ResultRow
from bench.claims.claim import Judge, Part
from bench.claims.evidence import Evidence, by_seed, runs
from bench.claims.parts import mean_within, ratios

Suites = tuple[str, ...]
Labels = Sequence[tuple[str, str]]  # patterns of the labels of two rows, as of a shell
Pair = tuple[str, Group, ResultRow, ResultRow]  # suite, comparison, two of its rows
# Each DEQ with the explicit networks of its cell.
EXPLICIT: Labels = (
    ("DEQ (Anderson)", "tied 12"),
    *(("DEQ-Transformer", explicit) for explicit in ("tied Transformer 12", "Transformer-XL 4", "Transformer-XL 12, tied")),
    ("DEQ-TrellisNet", "TrellisNet 32"),
)


def _pairs(evidence: Evidence, suites: Suites, labels: Labels) -> Iterator[Pair]:
    """Pairs of rows by their labels."""
    for suite in suites:
        for group in evidence.groups(suite):
            for left, right in labels:
                theirs = [row for row in group.rows if fnmatchcase(row.label, right)]
                yield from ((suite, group, row, other) for row in group.rows if fnmatchcase(row.label, left) for other in theirs)


def _explicit_pairs(evidence: Evidence, *suites: str) -> Iterator[Pair]:
    """Each DEQ with the explicit networks of its cell; in a user's suites with every weight-tied network."""
    yield from _pairs(evidence, suites, EXPLICIT)
    for suite in evidence.own:
        for group in evidence.groups(suite):
            tied = [row for row in group.rows if row.family == "tied"]
            yield from ((suite, group, row, other) for row in group.rows if row.family == "deq" for other in tied)


def _ratio(pair: Pair, measure: str, low: float = -inf, high: float = inf) -> Part:
    """The ratio of a measure of two rows against limits."""
    suite, group, ours, theirs = pair
    about, values = f"{group.name}: {ours.label} over {theirs.label}", ratios(by_seed(ours, measure), by_seed(theirs, measure))
    return mean_within(about, values, "log", runs(suite, ours, theirs), low, high)


def loss_ratio(suites: Suites, labels: Labels, low: float = -inf, high: float = inf) -> Judge:
    """Judge by the ratio of test losses against limits."""
    return lambda evidence: [_ratio(pair, "test_loss", low, high) for pair in _pairs(evidence, suites, labels)]


def step_time_within(low: float, high: float) -> Judge:
    """Judge by the time of a DEQ's training step over the explicit network's, between two limits."""
    suites = ("smoke", "text", "small", "copy")
    return lambda evidence: [_ratio(pair, "step_ms_median", low, high) for pair in _explicit_pairs(evidence, *suites)]


def perplexity_on_par(evidence: Evidence) -> list[Part]:
    """Perplexity of a DEQ over the explicit network's; the loss in a user's suite without perplexity."""
    parts = []
    for pair in _explicit_pairs(evidence, "text", "small"):
        if by_seed(pair[2], "test_perplexity"):
            parts.append(_ratio(pair, "test_perplexity", high=1.05))
        elif pair[0] in evidence.own:
            parts.append(_ratio(pair, "test_loss", high=1.05))
    return parts


def recurrent_at_chance(evidence: Evidence) -> list[Part]:
    """Loss of the recurrent networks over that of a predictor without memory."""
    parts = []
    for group in evidence.groups("copy"):
        for row in group.rows:
            if row.label.startswith(("LSTM", "GRU")):
                chance = {run.spec.seed: value for run in row.ok if (value := run.metrics["loss"].chance) is not None}
                about, values = f"{group.name}: {row.label} over chance", ratios(by_seed(row, "test_loss"), chance)
                parts.append(mean_within(about, values, "log", runs("copy", row), 1 / 1.1, 1.1))
    return parts


def converges(evidence: Evidence) -> list[Part]:
    """Share of a trained DEQ's test solves that meet their tolerance."""
    parts = []
    for suite, group, row in evidence.deqs("smoke", "text", "small", "copy"):
        shares = by_seed(row, "eval_converged_fraction")
        if shares and "phantom" not in row.label and "energy" not in row.label:
            parts.append(mean_within(f"{group.name}: {row.label}", shares, "fraction", runs(suite, row), low=0.99))
    return parts
