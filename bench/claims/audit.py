"""Fairness of comparisons: the same seeds, data, steps and number of trials for every row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analysis.aggregate import Group
from bench.analysis.grid import Table, line
from bench.claims.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One comparison: its seeds, trials a row (least, most), and complaints in words.

    `tuned`: rows with trials; `at_an_end`: those whose rate is the lowest or the highest that was tried.
    """

    suite: str
    group: str
    rows: int
    seeds: tuple[int, ...]
    trials: tuple[int, int]
    at_an_end: int
    tuned: int
    complaints: tuple[str, ...]


def audits(evidence: Evidence, suites: Sequence[str]) -> Iterator[Audit]:
    """Audit every comparison of the suites with two rows or more."""
    for suite in suites:
        yield from (_audit(suite, group) for group in evidence.groups(suite) if len(group.rows) > 1)


def _audit(suite: str, group: Group) -> Audit:
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
    if len(set(trials)) > 1:
        complaints.append("some rows had more trials than others")
    return Audit(
        suite=suite,
        group=group.name,
        rows=len(group.rows),
        seeds=tuple(seeds),
        trials=(min(trials, default=0), max(trials, default=0)),
        at_an_end=at_an_end,
        tuned=len(trials),
        complaints=tuple(complaints),
    )


def audit_table(found: Sequence[Audit]) -> Table:
    """One line per comparison."""
    lines, data = [], []
    for one in found:
        low, high = one.trials
        trials = "none" if high == 0 else f"{high}" if low == high else f"{low} to {high}"
        seeds = ", ".join(map(str, one.seeds))
        complaints = "; ".join(one.complaints) or "none"
        at_an_end = f"{one.at_an_end} of {one.tuned}" if one.tuned else "—"
        lines.append(line(one.suite, one.group, f"{one.rows}", seeds, trials, at_an_end, complaints))
        data.append(
            {
                **{"suite": one.suite, "group": one.group, "rows": one.rows, "seeds": seeds, "trials": trials},
                **{"at_an_end": one.at_an_end, "tuned": one.tuned, "complaints": complaints},
            }
        )
    return Table(
        ending="audit",
        title="Were the comparisons fair?",
        caption="Every row of a comparison sees the same batches in the same order at a seed. Rates are chosen on the validation "
        "split, at seeds that no final run uses; at an end: rows whose rate is the lowest or the highest that was tried, so that a "
        "better one may lie outside.",
        heads=tuple((head, "") for head in ("suite", "comparison", "rows", "seeds", "trials a row", "at an end", "complaints")),
        rows=tuple(lines),
        data=tuple(data),
        words=(0, 1, 3, 6),
    )
