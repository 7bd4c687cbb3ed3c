"""Judges of the suites' runs: rows of one comparison, paired by seed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf

from scipy.stats import binomtest, fisher_exact

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.selection import SOLVES, by_seed, inadmissible, on_same_data, on_same_terms
from bench.analysis.statistics import LEVEL, Interval, written
from bench.analysis.time_to_quality import quality
from bench.claims.claim import Part, Source, Verdict
from bench.claims.evidence import Evidence, runs
from bench.claims.parts import cannot_tell, mean_within, ratios

Suites = tuple[str, ...]
Labels = Sequence[tuple[str, str]]  # patterns of the labels of two rows, as of a shell
Pair = tuple[str, Group, ResultRow, ResultRow]  # suite, comparison, two of its rows
# The paper's table 4 is about networks that are not weight-tied; 12 unrolled layers are slow by construction.
_ORDINARY: Labels = (
    ("DEQ-Transformer", "Transformer-XL 4"),
    *(("DEQ-TrellisNet", trellis) for trellis in ("TrellisNet 32", "TrellisNet 12")),
)
_PAPER_CELLS = ("transformer-xl", "trellis")
_CONVERGES, _MODELS = 0.99, 0.95  # shares of a model's solves, and of the models, that are "almost always"
# Each DEQ with the explicit networks of its cell.
EXPLICIT: Labels = (
    ("DEQ (Anderson)", "tied 12"),
    *(("DEQ-Transformer", explicit) for explicit in ("tied Transformer 12", "tied Transformer 4")),
    ("DEQ-Transformer", "Transformer-XL 12, tied"),
    *_ORDINARY,
)


def pairs(evidence: Evidence, suites: Suites, labels: Labels) -> Iterator[Pair]:
    """Pairs of rows by their labels; the second may be of another comparison on the same terms, if the first is not in that too."""
    for suite in suites:
        groups = evidence.groups(suite)
        for group in groups:
            for left, right in labels:
                ours, theirs = _labelled(group, left), _labelled(group, right)
                if ours and not theirs:
                    others = [one for one in on_same_data(group, groups) if not _labelled(one, left)]
                    theirs = [row for one in others for row in _labelled(one, right) if on_same_terms(row, ours[0])]
                yield from ((suite, group, row, other) for row in ours for other in theirs)


def _labelled(group: Group, pattern: str) -> list[ResultRow]:
    return [row for row in group.rows if fnmatchcase(row.label, pattern)]


def _explicit_pairs(evidence: Evidence, *suites: str) -> Iterator[Pair]:
    """Each DEQ with the explicit networks of its cell; in a user's suites with every weight-tied network."""
    yield from pairs(evidence, suites, EXPLICIT)
    for suite in evidence.own:
        for group in evidence.groups(suite):
            tied = [row for row in group.rows if row.family == "tied"]
            yield from ((suite, group, row, other) for row in group.rows if row.family == "deq" for other in tied)


def of_scores(part: Part, ours: ResultRow, *others: ResultRow) -> Part:
    """Make a part that would hold inconclusive where the row's score is inadmissible; the note names every such row."""
    faulty = [row.label for row in (ours, *others) if inadmissible(row) is not None]
    if not faulty:
        return part
    note = f"{part.note}; inadmissible: {', '.join(faulty)}"
    if ours.label in faulty and part.p_for is not None and part.p_for < 1 - LEVEL:
        return replace(part, verdict="inconclusive", p_for=None, note=f"{note}; else it would hold")
    return replace(part, note=note)


def _ratio(pair: Pair, measure: str, low: float = -inf, high: float = inf) -> Part:
    """The ratio of a measure of two rows against limits."""
    suite, group, ours, theirs = pair
    about, values = f"{group.name}: {ours.label} over {theirs.label}", ratios(by_seed(ours, measure), by_seed(theirs, measure))
    part = mean_within(about, values, "log", runs(suite, ours, theirs), low, high)
    return of_scores(part, ours, theirs) if measure.startswith("test_") else part


def loss_ratio(evidence: Evidence, suites: Suites, labels: Labels, low: float = -inf, high: float = inf) -> list[Part]:
    """The ratio of test losses against limits."""
    return [_ratio(pair, "test_loss", low, high) for pair in pairs(evidence, suites, labels)]


def step_time_within(evidence: Evidence, low: float, high: float) -> list[Part]:
    """The time of a DEQ's training step over the ordinary explicit network's, between two limits."""
    return [_ratio(pair, "step_ms_median", low, high) for pair in pairs(evidence, ("small", "ptb"), _ORDINARY)]


def similar_computation(evidence: Evidence) -> Iterator[Part]:
    """Seconds of training until a DEQ's own final loss over those of the fastest explicit network, by the paper's recipe."""
    for group in evidence.groups("speed"):
        found = quality(group)
        if found is None or "DEQ" not in found.ratios:
            continue
        one = found.ratios["DEQ"]
        sources = runs("speed", *(row for row in group.rows if row.label in ("DEQ", one.rival)))
        value = written(Interval(mean=one.ratio, low=one.low, high=one.high, n=0, scale="linear"))
        note = "95 % of resampled seeds" if one.rival else "0: no explicit network gets to the DEQ's loss in half of its seeds"
        about = f"{group.name}: DEQ over {one.rival or 'all explicit networks'}"
        verdict: Verdict = "inconclusive"
        if one.low is not None and one.high is not None:
            verdict = "holds" if one.high <= 2 else "does not hold" if one.low > 2 else verdict
        yield Part(about=about, value=value, asked="at most 2", verdict=verdict, sources=sources, note=note)


def copies_more(evidence: Evidence, rival: str) -> Iterator[Part]:
    """The seeds that copy 99.9 % of the ten symbols, a DEQ's against a rival's (Fisher's exact test)."""
    for suite, group, ours, theirs in pairs(evidence, ("copy",), [("DEQ*", f"{rival}*")]):
        solved = [[value >= SOLVES for value in by_seed(row, "test_accuracy_last10").values()] for row in (ours, theirs)]
        counts = [(sum(one), len(one) - sum(one)) for one in solved]
        value = " against ".join(f"{right} of {right + wrong} seeds" for right, wrong in counts)
        about, asked, sources = f"{group.name}: {ours.label}, {theirs.label}", "more seeds copy", runs(suite, ours, theirs)
        if counts[0][1] == counts[1][1] == 0:
            yield cannot_tell(about, value, asked, sources, "both copy in every seed: no difference to find")
            continue
        p_for, p_against = (float(fisher_exact(counts, alternative=side).pvalue) for side in ("greater", "less"))
        part = Part(about=about, value=value, asked=asked, p_for=p_for, p_against=p_against, sources=sources)
        yield of_scores(replace(part, note="Fisher's exact test"), ours, theirs)


def perplexity_on_par(evidence: Evidence) -> Iterator[Part]:
    """Perplexity of a DEQ over the explicit network's; the loss in a user's suite without perplexity."""
    for pair in _explicit_pairs(evidence, "text", "small", "ptb"):
        if by_seed(pair[2], "test_perplexity"):
            yield _ratio(pair, "test_perplexity", high=1.05)
        elif pair[0] in evidence.own:
            yield _ratio(pair, "test_loss", high=1.05)


def recurrent_at_chance(evidence: Evidence) -> Iterator[Part]:
    """Loss of the recurrent networks over that of a predictor without memory."""
    for group in evidence.groups("copy"):
        for row in group.rows:
            if row.label.startswith(("LSTM", "GRU")):
                chance = {run.spec.seed: value for run in row.ok if (value := run.metrics["loss"].chance) is not None}
                about, values = f"{group.name}: {row.label} over chance", ratios(by_seed(row, "test_loss"), chance)
                yield mean_within(about, values, "log", runs("copy", row), 1 / 1.1, 1.1)


def converges(evidence: Evidence) -> list[Part]:
    """Share of a trained DEQ's test solves that meet their tolerance; first, the share of models in which nearly all do."""
    parts: list[Part] = []
    shares: list[float] = []
    draws: set[tuple[str, int]] = set()
    sources: tuple[Source, ...] = ()
    for suite, group, row in evidence.deqs("smoke", "text", "small", "copy", "ptb"):
        found, model = by_seed(row, "eval_converged_fraction"), row.finals[0].spec.model.settings
        implicit = model.get("adjoint", "implicit") == "implicit" and model.get("cell", "transformer-xl") in _PAPER_CELLS
        if not found or not (implicit or suite in evidence.own):
            continue
        parts.append(mean_within(f"{group.name}: {row.label}", found, "fraction", runs(suite, row), low=_CONVERGES))
        if suite not in evidence.own:
            shares, sources = [*shares, *found.values()], sources + runs(suite, row)
            draws |= {(group.name, seed) for seed in found}
    if not shares:
        return parts
    passed = sum(share >= _CONVERGES for share in shares)
    # Runs of one seed share their data: each comparison and seed counts as one draw, of the share that all runs have.
    drawn = round(len(draws) * passed / len(shares))
    sides = {side: float(binomtest(drawn, len(draws), _MODELS, alternative=side).pvalue) for side in ("greater", "less")}
    counted = Part(
        about=f"models in which {100 * _CONVERGES:g} % of the test solves converge",
        value=f"{passed} of {len(shares)}",
        asked=f"above {_MODELS:g}",
        p_for=sides["greater"],
        p_against=sides["less"],
        note=f"exact binomial test at {drawn} of {len(draws)}: rows below that share a comparison and a seed count as one",
        sources=sources,
    )
    return [counted, *parts]
