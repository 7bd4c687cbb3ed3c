"""The tables of a comparison that are no means over seeds: learning-rate trials, memory against depth, gradient by beta."""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import fsum

from bench.analysis.aggregate import DepthPoint, Group, beta_probe, depth_probe, metrics, readable
from bench.analysis.grid import ARROWS, Cell, Line, Notes, Table, failures, line
from bench.analysis.statistics import GROWTH_RULE, growth, interval, significant, written
from bench.records.record import Record


def trials_table(group: Group) -> Table | None:
    """Which learning rates each row was tried at, and whether the one chosen lies at an end of the sweep."""
    headline, known = metrics(group.records)
    better = known[headline].better if headline in known else "lower"
    by_key = {record.spec.key: record for record in group.trials}
    sources: list[tuple[str, str, float | None, list[Record], int]] = []  # row, its label, rate, trials, missing ones
    for row in group.rows:
        spec = row.finals[0].spec
        tried = [by_key[key] for key in spec.trials if key in by_key]
        sources.append((row.label, spec.label, spec.train.learning_rate, tried, len(spec.trials) - len(tried)))
    used = {record.run_id for *_, tried, _ in sources for record in tried}
    for label in sorted({record.spec.label for record in group.trials if record.run_id not in used}):
        left = [record for record in group.trials if record.spec.label == label and record.run_id not in used]
        sources.append((label, label, None, left, 0))
    if not group.trials:
        return None
    notes = Notes()
    rows, data = [], []
    for row_label, label, chosen, tried, missing in sources:
        tried = sorted(tried, key=lambda record: (record.spec.train.learning_rate, record.run_id))
        remark = _audit(label, chosen, tried, missing, headline, better)
        by_rate = groupby(tried, key=lambda record: record.spec.train.learning_rate)
        texts = [f"{rate:g}: {', '.join(_score(record, headline) for record in same)}" for rate, same in by_rate]
        marks = tuple(notes.mark(note) for note in failures([record for record in tried if record.status != "ok"]))
        scores = Cell("; ".join(texts) or "none", notes=marks, sources=tuple(record.run_id for record in tried))
        rows.append(line(row_label, scores, Cell("—" if chosen is None else f"{chosen:g}", value=chosen), remark))
        data += [_trial_line(group, row_label, chosen, record, headline, better, remark) for record in tried]
    head = f"rate: valid {headline.replace('_', ' ')} {ARROWS[better]}"
    return Table(
        ending="trials",
        title=f"{group.name}: learning-rate trials",
        caption="Trials at seeds that no final run uses, judged on the validation split; of several at a rate the mean decides.",
        heads=(("model", ""), (head, known[headline].unit if headline in known else ""), ("chosen", ""), ("audit", "")),
        words=(0, 1, 3),
        rows=tuple(rows),
        notes=tuple(notes.texts),
        remarks=tuple(f"Trials, {label}: {', '.join(r.run_id for r in tried)}." for label, _, _, tried, _ in sources if tried),
        data=tuple(data),
    )


def _score(record: Record, headline: str) -> str:
    value = record.value(f"valid_{headline}")
    return record.status if record.status != "ok" else "n/a" if value is None else significant(value, 4)


def _audit(label: str, chosen: float | None, tried: Sequence[Record], missing: int, headline: str, better: str) -> str:
    """What a reader should know of a choice: unfinished, at an end of the sweep, not the best, shared, records missing."""
    if chosen is None:
        return "no final run uses these trials"
    if not tried:
        return f"{missing} trial records are missing" if missing else "not tuned: the rate was given"
    said = []
    rates = [record.spec.train.learning_rate for record in tried]
    if len(set(rates)) > 1 and chosen in (min(rates), max(rates)):
        said.append("AT AN END of the sweep: a better rate may lie outside")
    scored: dict[float, list[float | None]] = {}
    for record in tried:
        value = record.value(f"valid_{headline}") if record.status == "ok" else None
        scored.setdefault(record.spec.train.learning_rate, []).append(value)
    means = {rate: fsum(values) / len(values) for rate, values in scored.items() if None not in values}  # type: ignore[arg-type]
    if means and means.get(chosen) != (min if better == "lower" else max)(means.values()):
        said.append("NOT THE BEST of its trials")
    shared = sorted({record.spec.label for record in tried} - {label})
    if shared:
        said.append(f"shares the trials of {', '.join(shared)}")
    if missing:
        said.append(f"{missing} trial records are missing")
    return "; ".join(said) or "inside the sweep"


def _trial_line(
    group: Group, label: str, chosen: float | None, record: Record, headline: str, better: str, audit: str
) -> dict[str, object]:
    rate = record.spec.train.learning_rate
    measure = record.measures.get(f"valid_{headline}")
    value = record.value(f"valid_{headline}") if record.status == "ok" else None
    return {
        **{"suite": group.suite, "group": group.name, "label": label, "column": f"valid_{headline}", "learning_rate": rate},
        **{"value": value, "unit": measure.unit if measure else "", "better": better},
        **{"chosen": "" if chosen is None else "yes" if rate == chosen else "no", "audit": audit},
        **{"status": record.status, "reason": record.reason or "", "run_ids": record.run_id},
    }


_BYTES: dict[str, tuple[str, Callable[[DepthPoint], int | None]]] = {
    "saved_bytes": ("saved for backward", lambda point: point.saved_bytes),
    "peak_live_bytes": ("peak live", lambda point: point.peak_live_bytes),
    "solver_bytes": ("solver storage", lambda point: point.solver_bytes),
}


def depth_table(group: Group) -> Table | None:
    """Bytes against depth for each method: the first and the last depth, the slope and the law."""
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    runs: list[str] = []
    for row in group.rows:
        methods, run = depth_probe(row)
        if run is not None:
            runs.append(f"Run, {row.label}: {run}.")
        for method, points in methods.items():
            for name, (head, read) in _BYTES.items():
                known = [(point.depth, amount) for point in points if (amount := read(point)) is not None]
                if len({depth for depth, _ in known}) < 2:
                    continue
                law = growth([depth for depth, _ in known], [amount for _, amount in known])
                slope = "0" if law.verdict == "constant" and abs(law.slope) < 1 else significant(law.slope, 4)
                source = () if run is None else (run,)
                cells = [
                    Cell(f"{_size(amount)} at {depth}", value=amount, unit="B", sources=source)
                    for depth, amount in (known[0], known[-1])
                ]
                cells.append(Cell(slope, value=law.slope, unit="B/step", sources=source))
                rows.append(line(row.label, method, head, *cells, law.verdict, family=row.family, method=method))
                data += [
                    {"suite": group.suite, "group": group.name, "label": row.label, "column": name, "method": method}
                    | {"depth": depth, "value": amount, "unit": "B", "better": "lower"}
                    | {"slope": law.slope, "verdict": law.verdict, "run_ids": run}
                    for depth, amount in known
                ]
    if not rows:
        return None
    return Table(
        ending="depth",
        title=f"{group.name}: memory against depth",
        caption="One training step at each depth (solver steps for a DEQ), exact counts of one run a row.",
        rule=GROWTH_RULE,
        words=(0, 1, 2, 6),
        heads=(("model", ""), ("method", ""), ("bytes ↓", ""), ("least depth", ""), ("greatest depth", "")) + _LAW,
        rows=tuple(rows),
        remarks=tuple(runs),
        data=tuple(data),
    )


_LAW = (("slope ↓", "B/step"), ("verdict", ""))


def _size(amount: int) -> str:
    estimate = interval([float(amount)], "linear")
    factor, name = readable("B", [float(amount)])
    return f"{written(estimate, factor, counted=True)} {name}"


def beta_table(group: Group) -> Table | None:
    """Equilibrium propagation's gradient beside the implicit one."""
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    runs: list[str] = []
    for row in group.rows:
        points, run = beta_probe(row)
        if run is not None:
            runs.append(f"Run, {row.label}: {run}.")
        for point in points:
            nudge = "to both sides" if point.symmetric else "to one side"
            values = ((point.beta, 2), (point.one_less_cosine, 3), (point.distance, 3))
            cells = (Cell(significant(value, digits), value=value, sources=(run or "",)) for value, digits in values)
            rows.append(line(row.label, nudge, *cells, family=row.family, method=nudge))
            data += [
                {"suite": group.suite, "group": group.name, "label": row.label, "column": name, "method": nudge}
                | {"beta": point.beta, "value": value, "unit": "1", "better": "lower", "run_ids": run}
                for name, value in (("one_less_cosine", point.one_less_cosine), ("distance", point.distance))
            ]
    if not rows:
        return None
    return Table(
        ending="gradient",
        title=f"{group.name}: gradient by equilibrium propagation",
        caption="Beside the implicit gradient of the trained model on the first training batch, solves in float64 to 1e-10.",
        words=(0, 1),
        heads=(("model", ""), ("nudge", ""), ("beta", ""), ("1 - cosine ↓", ""), ("distance / norm ↓", "")),
        rows=tuple(rows),
        remarks=tuple(runs),
        data=tuple(data),
    )
