"""Whether a comparison was fair: seeds that no run uses twice, the same data for every model, as many trials for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analysis.aggregate import Group
from bench.analysis.grid import Table, line
from bench.claims.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One comparison: its seeds, how it was tuned, and what is wrong with it, in words."""

    suite: str
    group: str
    rows: int
    seeds: tuple[int, ...]
    trials: tuple[int, int]
    at_an_end: int
    tuned: int
    complaints: tuple[str, ...]


def audits(evidence: Evidence, suites: Sequence[str]) -> Iterator[Audit]:
    """Every comparison of the suites with more rows than one."""
    for suite in suites:
        yield from (_audited(suite, group) for group in evidence.groups(suite) if len(group.rows) > 1)


def _audited(suite: str, group: Group) -> Audit:
    finals = [record for row in group.rows for record in row.finals]
    seeds = tuple(sorted({record.spec.seed for record in finals}))
    by_key = {record.spec.key: record for record in group.trials}
    complaints = []
    for row in group.rows:
        own = [record.spec.seed for record in row.finals]
        if len(set(own)) < len(own):
            complaints.append(f"{row.label} has a seed twice")
        if missing := sorted(set(seeds) - set(own)):
            complaints.append(f"{row.label} lacks seed {', '.join(map(str, missing))}")
    both = sorted({record.spec.seed for record in group.trials} & set(seeds))
    if both:
        complaints.append(f"seed {both[0]} is a trial's and a final run's")
    if len({record.identity.data for record in finals}) > 1:
        complaints.append("the rows' data differ")
    if len({(record.spec.train.batch, record.spec.train.steps) for record in finals}) > 1:
        complaints.append("rows train for different numbers of steps, which their labels say")
    tried = {row.label: [by_key[key] for key in row.finals[0].spec.trials if key in by_key] for row in group.rows}
    counts = [len(found) for found in tried.values() if found]
    if len(set(counts)) > 1:
        complaints.append("some rows had more trials than others")
    at_an_end = 0
    for row in group.rows:
        rates = [record.spec.train.learning_rate for record in tried[row.label]]
        at_an_end += bool(rates) and row.finals[0].spec.train.learning_rate in (min(rates), max(rates)) and len(set(rates)) > 1
    return Audit(
        suite=suite,
        group=group.name,
        rows=len(group.rows),
        seeds=seeds,
        trials=(min(counts), max(counts)) if counts else (0, 0),
        at_an_end=at_an_end,
        tuned=len(counts),
        complaints=tuple(complaints),
    )


def audit_table(found: Sequence[Audit]) -> Table:
    """The audits, a line a comparison."""
    lines, data = [], []
    for one in found:
        low, high = one.trials
        trials = "none" if high == 0 else f"{high}" if low == high else f"{low} to {high}"
        seeds = ", ".join(map(str, one.seeds))
        end = f"{one.at_an_end} of {one.tuned}" if one.tuned else "—"
        said = "; ".join(one.complaints) or "none"
        lines.append((one.suite, one.group, f"{one.rows}", seeds, trials, end, said))
        data.append(
            {
                **{"suite": one.suite, "group": one.group, "rows": one.rows, "seeds": seeds, "trials": trials},
                **{"at_an_end": one.at_an_end, "tuned": one.tuned, "complaints": said},
            }
        )
    return Table(
        ending="audit",
        title="Were the comparisons fair?",
        caption="Every row of a comparison sees the same batches in the same order at a seed. Rates are chosen on the validation "
        "split, at seeds that no final run uses; at an end: rows whose rate is the lowest or the highest that was tried, so that a "
        "better one may lie outside.",
        heads=(
            ("suite", ""),
            ("comparison", ""),
            ("rows", ""),
            ("seeds", ""),
            ("trials a row", ""),
            ("at an end", ""),
            ("complaints", ""),
        ),
        rows=tuple(line(*texts) for texts in lines),
        data=tuple(data),
        words=(0, 1, 3, 6),
    )
