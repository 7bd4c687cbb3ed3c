"""Fairness of comparisons: the same seeds, data, steps and number of trials for every row."""

from collections.abc import Sequence
from typing import Any

from bench.analysis.aggregate import Group
from bench.analysis.grid import Table, line
from bench.claims.evidence import Evidence

_HEADS = ("suite", "comparison", "rows", "seeds", "trials a row", "seeds of trials", "length", "at an end", "complaints")


def audit_table(evidence: Evidence, suites: Sequence[str]) -> Table:
    """One line per comparison of the suites with two rows or more."""
    found = [_audit(group) for suite in suites for group in evidence.groups(suite) if len(group.rows) > 1]
    words = ("suite", "group", "rows", "seeds", "trials", "trial_seeds", "trial_length", "at_an_end", "complaints")
    ends = [f"{one['at_an_end']} of {one['tuned']}" if one["tuned"] else "—" for one in found]
    texts = [one | {"at_an_end": end} for one, end in zip(found, ends, strict=True)]
    return Table(
        kind="audit",
        title="Were the comparisons fair?",
        caption="Every row of a comparison sees the same batches in the same order at a seed. Rates are chosen on the validation "
        "split, at seeds that no final run uses; a trial's length is its share of a run's steps; at an end: "
        "rows whose rate is the lowest or the highest that was tried, so that a better one may lie outside.",
        heads=tuple((head, "") for head in _HEADS),
        rows=tuple(line(*(str(one[word]) for word in words)) for one in texts),
        data=tuple(found),
        text_columns=(0, 1, 3, 8),
    )


def _audit(group: Group) -> dict[str, Any]:
    """The seeds of a comparison, trials a row (least to most), and complaints in words.

    `tuned`: rows with trials; `at_an_end`: those whose rate is the lowest or the highest that was tried.
    """
    finals = [record for row in group.rows for record in row.finals]
    seeds = sorted({record.spec.seed for record in finals})
    rates = {record.spec.key: record.spec.train.learning_rate for record in group.trials}
    complaints, trials, at_an_end = [], [], 0
    for row in group.rows:
        if missing := set(seeds) - {record.spec.seed for record in row.finals}:
            complaints.append(f"{row.label} lacks seed {', '.join(map(str, sorted(missing)))}")
        final = row.finals[0].spec
        if tried := [rates[key] for key in final.trials if key in rates]:
            trials.append(len(tried))
            at_an_end += min(tried) < max(tried) and final.train.learning_rate in (min(tried), max(tried))
    if both := {record.spec.seed for record in group.trials} & set(seeds):
        complaints.append(f"seed {min(both)} is a trial's and a final run's")
    if len({record.identity.data for record in finals}) > 1:
        complaints.append("the rows' data differ")
    if len({(record.spec.train.batch, record.spec.train.steps) for record in finals}) > 1:
        complaints.append("rows train for different numbers of steps, which their labels say")
    trial_seeds = len({record.spec.seed for record in group.trials})
    lengths = {record.spec.train.steps for record in group.trials}
    steps = max(record.spec.train.steps for record in finals)
    if trial_seeds == 1:
        complaints.append("rates are chosen by one seed")
    if len(set(trials)) > 1:
        complaints.append("some rows had more trials than others")
    return {
        **{"suite": group.suite, "group": group.name, "rows": len(group.rows), "seeds": ", ".join(map(str, seeds))},
        "trials": " to ".join(map(str, sorted({min(trials), max(trials)}))) if trials else "none",
        **{"trial_seeds": trial_seeds or "—", "trial_length": f"{max(lengths) / steps:.2g}" if lengths else "—"},
        **{"at_an_end": at_an_end, "tuned": len(trials), "complaints": "; ".join(complaints) or "none"},
    }
