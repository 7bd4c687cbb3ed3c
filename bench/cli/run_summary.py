"""What `bench run` prints first and last: how much there is to run, what was found, and where it is."""

from collections.abc import Sequence
from pathlib import Path

from bench.analysis.aggregate import groups
from bench.analysis.selection import headline_column, inadmissible, value
from bench.claims.cases import score_of
from bench.execution.plan import Plan
from bench.execution.status import duration, status
from bench.records.identity import first_of
from bench.records.record import Record
from bench.records.store import Store

PUBLISHED = Path(__file__).parents[2] / "results"
_MOST = 3  # comparisons that are named


def opening(plan: Plan, suite: str, store: Store, slots: int) -> str:
    """The numbers of trials and final runs, how many are left, and about how long they take."""
    found = status(plan, suite=suite, store=store, slots=slots, published=Store(PUBLISHED))
    text = f"suite {suite}: {len(plan.trials())} learning-rate trials and {plan.wanted()} final runs"
    if not found.left:
        return f"{text}, all recorded" + (f" or running ({len(found.running)})" if found.running else "")
    time = "time unknown: no such run is recorded" if found.seconds is None else f"about {duration(found.seconds)} in all"
    return f"{text}; {found.left} to run, {time}"


def closing(records: Sequence[Record], failed: Sequence[Record], results: Path, suite: str) -> list[str]:
    """What the final runs found, how their scores compare with the published ones, and where tables, figures and the page are.

    `failed`: those that did not end as the suite expects.
    """
    ok = [record for record in records if record.status == "ok"]
    best, expected = _best(ok, suite), len(records) - len(ok) - len(failed)
    lines = [f"{len(ok)} of {len(records)} final runs ended ok" + (f", {expected} failed as expected" if expected else "")]
    if best:
        more = f"; and of {len(best) - _MOST} more" if len(best) > _MOST else ""
        lines.append(f"best means that count, intervals are in the tables: {'; '.join(best[:_MOST])}{more}")
    if (same := compare_published(ok, results, suite)) is not None:
        lines.append(same)
    lines.append(f"tables: {results / 'TABLES.md'}, {results / 'tables' / suite}")
    lines.append(f"figures: {results / 'figures' / suite}")
    where = f" --results {results}" if results != Path("results") else ""
    lines.append(f"page: `python -m bench page{where}` writes {results / 'report.html'}: open it in a browser")
    return lines


def _best(ok: Sequence[Record], suite: str) -> list[str]:
    """The best row of each comparison whose score counts, by the mean of its headline score on the test split."""
    lines = []
    for group in groups(suite, ok):
        column = headline_column(group)
        rows = [(mean, row) for row in group.rows if column and (mean := value(row, column)) is not None and not inadmissible(row)]
        if column and rows:
            best = (max if column.better == "higher" else min)(rows, key=lambda pair: pair[0])[1]
            lines.append(f"{group.name}: {best.label}, {column.head} {score_of(best, column)}")
    return lines


def compare_published(ok: Sequence[Record], results: Path, suite: str) -> str | None:
    """In how many runs the test score equals that of a published run of the same RunSpec, bit for bit, and what else differs.

    None where the results are the published ones, or no run has a published one.
    """
    published = Store(PUBLISHED)
    if results.resolve() == PUBLISHED.resolve() or suite not in published.suites():
        return None
    ids, same, other = published.by_key(suite), 0, 0
    reasons: dict[str, None] = {}
    for record in ok:
        name = f"test_{record.headline}"
        known = [one for one in published.read_valid(suite, ids.get(record.spec.key, [])) if one.value(name) is not None]
        if known:
            equal = any(one.value(name) == record.value(name) for one in known)
            same, other = same + equal, other + (not equal)
            if not equal:
                reasons |= dict.fromkeys(known[-1].identity.differs(record.identity))
    if not same + other:
        return None
    absent = f" ({len(ok) - same - other} have no published one)" if len(ok) > same + other else ""
    why = f"; the published ones: {first_of([*reasons])}" if reasons else ""
    return f"same test score as published in {same} of {same + other} runs{absent}{why}"
