"""The tables of a comparison that are no means over seeds: learning-rate trials, memory against depth, gradient by beta."""

from dataclasses import dataclass
from itertools import groupby
from math import fsum

from bench.analysis.aggregate import Group
from bench.analysis.columns import metrics, readable
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, failures, footnote, line
from bench.analysis.probe_data import beta_probe, depth_probe
from bench.analysis.statistics import GROWTH_RULE, growth, interval, significant, written
from bench.records.record import Record


@dataclass(frozen=True, kw_only=True)
class _Sweep:
    """The trials of one row, by rate: `row` is its label in the table, `label` its spec's; `missing` trials have no record."""

    row: str
    label: str
    chosen: float | None
    tried: tuple[Record, ...]
    missing: int = 0


def _rate(record: Record) -> float:
    return record.spec.train.learning_rate


def _sweeps(group: Group) -> list[_Sweep]:
    ordered = sorted(group.trials, key=lambda record: (_rate(record), record.run_id))
    sweeps = []
    for row in group.rows:
        spec = row.finals[0].spec
        tried = tuple(record for record in ordered if record.spec.key in spec.trials)
        missing = len(spec.trials) - len(tried)
        sweeps.append(_Sweep(row=row.label, label=spec.label, chosen=spec.train.learning_rate, tried=tried, missing=missing))
    used = {record.run_id for sweep in sweeps for record in sweep.tried}
    left = [record for record in ordered if record.run_id not in used]
    for label in sorted({record.spec.label for record in left}):
        unused = tuple(record for record in left if record.spec.label == label)
        sweeps.append(_Sweep(row=label, label=label, chosen=None, tried=unused))
    return sweeps


def trials_table(group: Group) -> Table | None:
    """The learning rates that each row was tried at, and whether the one chosen lies at an end of the sweep."""
    if not group.trials:
        return None
    headline, known = metrics(group.records)
    name, better = f"valid_{headline}", known[headline].better if headline in known else "lower"
    notes: list[str] = []
    rows, data = [], []
    for sweep in _sweeps(group):
        audit = _audit(sweep, name, better)
        texts = [f"{rate:g}: {', '.join(_score(one, name) for one in same)}" for rate, same in groupby(sweep.tried, key=_rate)]
        marks = tuple(footnote(notes, note) for note in failures(one for one in sweep.tried if one.status != "ok"))
        samples = tuple(
            Sample(
                f"rate {_rate(one):g}, seed {one.spec.seed}",
                one.value(name) if one.status == "ok" else None,
                one.run_id,
                "" if one.status == "ok" else f"{one.status}: {one.reason}",
            )
            for one in sweep.tried
        )
        scores = Cell("; ".join(texts) or "none", notes=marks, samples=samples)
        chosen = Cell("—" if sweep.chosen is None else f"{sweep.chosen:g}", value=sweep.chosen, samples=samples)
        rows.append(line(sweep.row, scores, chosen, audit))
        for one, sample in zip(sweep.tried, samples, strict=True):
            measure = one.measures.get(name)
            data.append(
                {
                    **{"suite": group.suite, "group": group.name, "label": sweep.row, "column": name, "learning_rate": _rate(one)},
                    **{"value": sample.value, "unit": measure.unit if measure else "", "better": better},
                    **{"chosen": "" if sweep.chosen is None else "yes" if _rate(one) == sweep.chosen else "no", "audit": audit},
                    **{"status": one.status, "reason": one.reason or "", "run_ids": one.run_id},
                }
            )
    head = f"rate: valid {headline.replace('_', ' ')} {ARROWS[better]}"
    return Table(
        ending="trials",
        title=f"{group.name}: learning-rate trials",
        caption="Trials at seeds that no final run uses, judged on the validation split; of several at a rate the mean decides.",
        heads=(("model", ""), (head, known[headline].unit if headline in known else ""), ("chosen", ""), ("audit", "")),
        words=(0, 1, 3),
        rows=tuple(rows),
        notes=tuple(notes),
        remarks=tuple(f"Trials, {one.row}: {', '.join(r.run_id for r in one.tried)}." for one in _sweeps(group) if one.tried),
        data=tuple(data),
    )


def _score(record: Record, name: str) -> str:
    value = record.value(name)
    return record.status if record.status != "ok" else "n/a" if value is None else significant(value, 4)


def _audit(sweep: _Sweep, name: str, better: str) -> str:
    """The warnings about a choice: unfinished, at an end of the sweep, not the best, shared, records missing."""
    if sweep.chosen is None:
        return "no final run uses these trials"
    missing = [f"{sweep.missing} trial records are missing"] if sweep.missing else []
    if not sweep.tried:
        return "".join(missing) or "not tuned: the rate was given"
    found = []
    rates = [_rate(record) for record in sweep.tried]
    if len(set(rates)) > 1 and sweep.chosen in (min(rates), max(rates)):
        found.append("AT AN END of the sweep: a better rate may lie outside")
    means: dict[float, float] = {}
    for rate, same in groupby(sweep.tried, key=_rate):
        values = [record.value(name) if record.status == "ok" else None for record in same]
        if None not in values:
            means[rate] = fsum(values) / len(values)  # type: ignore[arg-type]
    if means and means.get(sweep.chosen) != (min if better == "lower" else max)(means.values()):
        found.append("NOT THE BEST of its trials")
    shared = sorted({record.spec.label for record in sweep.tried} - {sweep.label})
    found += [f"shares the trials of {', '.join(shared)}"] if shared else []
    return "; ".join(found + missing) or "inside the sweep"


_BYTES = {"saved_bytes": "saved for backward", "peak_live_bytes": "peak live", "solver_bytes": "solver storage"}


def depth_table(group: Group) -> Table | None:
    """Bytes against depth for each method: the first and the last depth, the slope and the law."""
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    probed = {row.label: (row.family, *depth_probe(row)) for row in group.rows}
    for label, (family, methods, run) in probed.items():
        for method, points in methods.items():
            for name, head in _BYTES.items():
                known = [(point.depth, amount) for point in points if (amount := getattr(point, name)) is not None]
                if len({depth for depth, _ in known}) < 2:
                    continue
                law = growth([depth for depth, _ in known], [amount for _, amount in known])
                slope = "0" if law.verdict == "constant" and abs(law.slope) < 1 else significant(law.slope, 4)
                samples = tuple(Sample(f"depth {depth}", amount, run or "") for depth, amount in known)
                ends = [
                    Cell(f"{_size(known[i][1])} at {known[i][0]}", value=known[i][1], unit="B", samples=samples) for i in (0, -1)
                ]
                steepness = Cell(slope, value=law.slope, unit="B/step", samples=samples)
                rows.append(line(label, method, head, *ends, steepness, law.verdict, family=family, method=method))
                data += [
                    {"suite": group.suite, "group": group.name, "label": label, "column": name, "method": method}
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
        keys=3,
        heads=(
            *(("model", ""), ("method", ""), ("bytes ↓", ""), ("least depth", ""), ("greatest depth", "")),
            *(("slope ↓", "B/step"), ("verdict", "")),
        ),
        rows=tuple(rows),
        remarks=tuple(f"Run, {label}: {run}." for label, (*_, run) in probed.items() if run is not None),
        data=tuple(data),
    )


def _size(amount: int) -> str:
    factor, name = readable("B", [amount])
    return f"{written(interval([float(amount)], 'linear'), factor, counted=True)} {name}"


def beta_table(group: Group) -> Table | None:
    """Equilibrium propagation's gradient against the implicit one."""
    rows: list[Line] = []
    data: list[dict[str, object]] = []
    probed = {row.label: (row.family, *beta_probe(row)) for row in group.rows}
    for label, (family, points, run) in probed.items():
        for point in points:
            nudge = "to both sides" if point.symmetric else "to one side"
            errors = {"one_less_cosine": point.one_less_cosine, "distance": point.distance}
            cells = [
                Cell(significant(error, 3), value=error, samples=(Sample(nudge, error, run or ""),)) for error in errors.values()
            ]
            rows.append(line(label, nudge, Cell(significant(point.beta, 2), value=point.beta), *cells, family=family, method=nudge))
            data += [
                {"suite": group.suite, "group": group.name, "label": label, "column": name, "method": nudge}
                | {"beta": point.beta, "value": error, "unit": "1", "better": "lower", "run_ids": run}
                for name, error in errors.items()
            ]
    if not rows:
        return None
    return Table(
        ending="gradient",
        title=f"{group.name}: gradient by equilibrium propagation",
        caption="Against the implicit gradient of the trained model on the first training batch, solves in float64 to 1e-10.",
        words=(0, 1),
        keys=3,
        heads=(("model", ""), ("nudge", ""), ("beta", ""), ("1 - cosine ↓", ""), ("distance / norm ↓", "")),
        rows=tuple(rows),
        remarks=tuple(f"Run, {label}: {run}." for label, (*_, run) in probed.items() if run is not None),
        data=tuple(data),
    )
