"""Commands that show and change nothing: status, show, params, explain, doctor."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from bench.cli.options import RESULTS, Data, Device, Jobs, Json, Only, Processes, Results, Seeds, parse_data
from bench.cli.run import make_plan
from bench.records.errors import UserError
from bench.records.escape import one_line
from bench.report.console import say, terminal_width, text_table

_WIDE = 120  # columns of a terminal
_RULE = (
    "Ratio: geometric mean over the seeds that both have. Undecided: where the interval holds 1 (0 of a difference), where both "
    "solve the task, and where the one ahead has failed runs. Solved runs are judged by an exact sign test of the seeds in which "
    "one alone solves it."
)


def status(
    suite: Annotated[str | None, typer.Argument(help="a suite's name or a Python file; without: what is recorded")] = None,
    only: Only = None,
    seeds: Seeds = None,
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = None,
    jobs: Jobs = None,
    processes: Processes = 1,
    as_json: Json = False,
) -> None:
    """How far a suite is: done, running, failed, left, and about how long that will take. Runs and fetches nothing."""
    from bench.cli.run_summary import PUBLISHED
    from bench.execution.coordinator import default_slots
    from bench.execution.status import overview, status
    from bench.records.store import Store

    store = Store(results)
    if suite is None:
        rows = overview(store)
        heads = ("suite", "recorded", "ok", "failed", "running", "state saved")
        print_lines(rows, as_json, table_of(heads, [list(map(_counts, row.values())) for row in rows]))
        return
    short, plan, _, absent = make_plan(suite, only, seeds, device, data, processes, fetch=False)
    note = (
        f"not counted: runs on {', '.join(absent)}, not fetched yet: `run` does, or give --data {absent[0]}=PATH" if absent else ""
    )
    if plan is None:
        counts = next((row for row in overview(store) if row["suite"] == short), {"suite": short, "recorded": 0})
        print_lines(counts, as_json, f"{counts['recorded']} runs are recorded", note)
        return
    published = Store(PUBLISHED)
    found = status(plan, suite=short, store=store, slots=default_slots(plan.specs(), jobs), published=published)
    print_lines(dataclasses.asdict(found), as_json, *found.lines(), *filter(None, [note]))


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="a run id, or the beginning of one")],
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """One run: its settings, how it ended, every measure with its unit, method and scope."""
    from bench.analysis.columns import LEAK, TEST_CONVERGED
    from bench.analysis.selection import faults_of, scored_from_prefixes
    from bench.records.store import Store

    store = Store(results)
    runs = [(suite, name) for suite in store.suites() for name in store.ids(suite)]
    found = [run for run in runs if run[1] == run_id] or [run for run in runs if run[1].startswith(run_id)]
    if not runs:
        raise UserError(f"no runs below {results}")
    if not found:
        near = " or ".join(get_close_matches(run_id, [name for _, name in runs], n=3, cutoff=0.0))
        raise UserError(f"unknown run {run_id!r}; did you mean {near}, of {len(runs)} runs?")
    if len(found) > 1:
        raise UserError(f"{run_id!r} is the beginning of {len(found)} runs: {', '.join(name for _, name in found[:5])} …")
    record = store.read(*found[0])
    spec = record.spec
    rows, missing = [], defaultdict[str, list[str]](list)
    for name, measure in sorted(record.measures.items(), key=lambda item: (not item[0].startswith("test_"), item[0])):
        if measure.value is None:
            missing[str(measure.reason)].append(name)
        else:
            value = f"{measure.value:,}" if isinstance(measure.value, int) else f"{measure.value:.6g}"
            rows.append((name, value if measure.unit == "1" else f"{value} {measure.unit}", measure.method, measure.scope))
    heads, narrow = ("measure", "value and unit", "how", "over"), (terminal_width() or _WIDE) < _WIDE
    shown = 2 if narrow else 4  # how a measure is made takes several lines of a narrow terminal
    tables = ["", table_of(heads[:shown], [one[:shown] for one in rows]), ""] if rows else []
    tables += [f"2 more columns in --json, or on {_WIDE} columns: how, over"] if rows and narrow else []
    tables += [f"not measured, {reason}: {', '.join(names)}" for reason, names in missing.items()]
    fault = faults_of(record.value(TEST_CONVERGED.name), record.value(LEAK.name))
    if fault and not scored_from_prefixes(record):
        tables.insert(0, f"the scores are {fault}")
    if ranks := record.probes.get("ranks"):
        rows = [(name, *("n/a" if rank[name] is None else f"{rank[name]:,.6g}" for rank in ranks)) for name in ranks[0]]
        tables.append(table_of(("of each process", *map(str, range(len(ranks)))), rows))
    print_lines(
        record.model_dump(mode="json"),
        as_json,
        f"{record.run_id}: {record.status}" + (f" ({record.reason})" if record.reason else ""),
        *([trace] if (trace := str(record.provenance.get("traceback", ""))) else []),
        f"model {spec.model.name} {json.dumps(spec.model.settings)}",
        f"task {spec.task.name} {json.dumps(spec.task.settings)}",
        f"train {json.dumps(spec.train.model_dump(mode='json'))} seed {spec.seed}",
        *tables,
    )


def compare(
    suite: Annotated[str, typer.Argument(help="a suite with records: its name, or its Python file")],
    row: Annotated[str, typer.Argument(metavar="ROW", help="a model's label, or the beginning of one")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="the label of the model next to which it is put")],
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """One model next to another, paired by seed: scores, time and memory, their ratios with 95 % intervals, and which is ahead."""
    from bench.analysis.aggregate import groups
    from bench.analysis.pairs import pairs
    from bench.analysis.selection import inadmissible
    from bench.records.store import Store
    from bench.report.html.lookup import match_name

    store = Store(results)
    if not store.suites():
        raise UserError(f"no records below {results}: run a suite first")
    suite = match_name("suite", suite.rpartition("/")[2].removesuffix(".py"), store.suites())
    found = groups(suite, store.read_all(suite))
    known = {one.label for group in found for one in group.rows}
    labels = match_name("row", row, known), match_name("row", other, known)
    data: list[dict[str, Any]] = []
    lines: list[str] = []
    for group in found:
        by_label = {one.label: one for one in group.rows}
        if any(label not in by_label for label in labels):
            continue
        ours, theirs = (by_label[label] for label in labels)
        made = pairs(group, ours, theirs)
        heads = ("measure", *labels, "ratio", "seeds", "outcome")
        lines += [group.name, "", table_of(heads, [_pair_cells(one) for one in made]), ""]
        lines += [f"{one.label}: {fault}" for one in (ours, theirs) if (fault := inadmissible(one))]
        lines += [f"{one.label}: {len(one.failed)} of {len(one.finals)} runs failed" for one in (ours, theirs) if one.failed]
        measures = [dataclasses.asdict(one) | {"column": one.column.name} for one in made]
        data.append({"suite": suite, "group": group.name, "row": labels[0], "other": labels[1], "measures": measures})
    if not data:
        raise UserError(f"compare: no comparison of suite {suite} has both {labels[0]!r} and {labels[1]!r}")
    print_lines(data, as_json, *lines, f"Outcome: that of {labels[0]}, each line by itself. {_RULE}")


def _pair_cells(one: Any) -> list[str]:
    """A line of `compare`."""
    from bench.analysis.columns import readable
    from bench.analysis.statistics import written

    means = [estimate.mean for estimate in (one.ours, one.theirs) if estimate is not None]
    factor, unit = readable(one.unit, means)
    shown = ["n/a" if estimate is None else written(estimate, factor, one.column.counted) for estimate in (one.ours, one.theirs)]
    ratio = written(one.difference) if one.difference else "by seed" if one.outcome else "n/a"
    if one.difference is not None and one.difference.scale != "log":
        ratio = f"difference {ratio}"
    head = f"{one.column.head} ({unit})" if unit else one.column.head
    return [head, *shown, ratio, str(one.difference.n if one.difference else "—"), one.outcome or "—"]


def params(
    suite: Annotated[str, typer.Argument(help="a suite's name or a Python file with SPECS")] = "paper",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Count the parameters of each model of a suite; for suite paper, compare with the paper's counts. Trains nothing."""
    from bench.execution.parameter_table import count_suite

    rows = count_suite(suite, parse_data(data))
    if printed := any(row.printed_total is not None for row in rows):
        heads = ["group", "model", "paper", "built", "off", "paper non-emb.", "built", "off", "paper's score", "remark"]
    else:
        heads = ["group", "model", "total", "core"]
    cells: list[Sequence[str]] = []
    for row in rows:
        total, rest = _millions(row.total), _millions(row.nonembedding)
        if printed:
            off = ["" if value is None else f"{100 * value:+.1f} %" for value in row.off]
            score = "n/a" if row.printed_score is None else f"{row.printed_score:g}"
            paper = _millions(row.printed_total), _millions(row.printed_nonembedding)
            cells.append((row.group, row.label, paper[0], total, off[0], paper[1], rest, off[1], score, row.remark))
        else:
            cells.append((row.group, row.label, total, rest))
    print_lines([dataclasses.asdict(row) | {"off": row.off, "agrees": row.agrees} for row in rows], as_json, table_of(heads, cells))


def explain(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="suite/group/row/column, beginnings will do; or a claim's id")],
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """Where a number comes from: its runs, their values, the statistic, method and scope, and the command that reproduces it."""
    from bench.report.html.lookup import find
    from bench.report.html.text import render

    found = find(results, cell)
    print(json.dumps(found.as_data(), indent=1) if as_json else render(found), end="\n" if as_json else "")


def doctor(as_json: Json = False) -> None:
    """Which instruments work on this machine, and why the others do not."""
    from bench.instruments.self_test import examine

    instruments = examine()
    heads = ("instrument", "works", "detail", "feeds")
    rows = [(one.name, "yes" if one.works else "no", one.detail, ", ".join(one.measures)) for one in instruments]
    print_lines([dataclasses.asdict(one) for one in instruments], as_json, table_of(heads, rows))


def print_lines(data: Any, as_json: bool, *lines: str) -> None:
    """Print the data as JSON, or else the lines and tables."""
    if as_json:
        print(json.dumps(data, indent=1))
        return
    for line in lines:
        say(line)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as wide as the terminal, all columns to the left."""
    return text_table(heads, [list(map(one_line, row)) for row in rows], range(len(heads)), terminal_width())


def _counts(value: Any) -> str:
    """A count, or counts by status."""
    return ", ".join(f"{count} {name}" for name, count in value.items()) or "0" if isinstance(value, dict) else str(value)


def _millions(number: float | None) -> str:
    if number is None:
        return "n/a"
    return f"{number / 1e6:.4g}M" if number >= 1e6 else f"{number / 1e3:.4g}K"
