"""The tables of a comparison that are no means over seeds: learning-rate trials, memory against depth, gradient by beta."""

import pandas as pd

from bench.analysis.aggregate import Group
from bench.analysis.columns import metrics, readable
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, failures, footnote, line
from bench.analysis.probe_data import beta_probe, depth_probe
from bench.analysis.statistics import GROWTH_RULE, growth, interval, significant, written
from bench.records.record import Record
from bench.records.spec import RunSpec


def _sweeps(group: Group, name: str) -> list[tuple[str, RunSpec | None, pd.DataFrame]]:
    """Each row with the spec of its final runs and its trials by rate; of trials that no final run uses the label, and no spec."""
    ordered = sorted(group.trials, key=lambda record: (record.spec.train.learning_rate, record.run_id))
    trials = pd.DataFrame(
        {
            **{"key": [one.spec.key for one in ordered], "label": [one.spec.label for one in ordered], "record": ordered},
            "rate": [one.spec.train.learning_rate for one in ordered],
            "score": pd.Series([one.value(name) if one.status == "ok" else None for one in ordered], dtype="float64"),
        }
    )
    finals = [(row.label, row.finals[0].spec) for row in group.rows]
    unused = trials[~trials["key"].isin({key for _, spec in finals for key in spec.trials})]
    return [
        *((label, spec, trials[trials["key"].isin(spec.trials)]) for label, spec in finals),
        *((str(label), None, left) for label, left in unused.groupby("label")),
    ]


def trials_table(group: Group) -> Table | None:
    """The learning rates that each row was tried at, and whether the one chosen lies at an end of the sweep."""
    if not group.trials:
        return None
    headline, known = metrics(group.records)
    name, better = f"valid_{headline}", known[headline].better if headline in known else "lower"
    notes: list[str] = []
    rows, data = [], []
    sweeps = _sweeps(group, name)
    for label, spec, tried in sweeps:
        chosen, audit = None if spec is None else spec.train.learning_rate, _audit(spec, tried, better)
        texts = [f"{rate:g}: {', '.join(_score(one, name) for one in same)}" for rate, same in tried.groupby("rate")["record"]]
        marks = tuple(footnote(notes, note) for note in failures(one for one in tried["record"] if one.status != "ok"))
        samples = []
        for one, rate in zip(tried["record"], tried["rate"], strict=True):
            value, reason = (one.value(name), "") if one.status == "ok" else (None, f"{one.status}: {one.reason}")
            samples.append(Sample(f"rate {rate:g}, seed {one.spec.seed}", value, one.run_id, reason))
            data.append(
                {
                    **{"suite": group.suite, "group": group.name, "label": label, "column": name, "learning_rate": rate},
                    **{"value": value, "unit": one.measures[name].unit if name in one.measures else "", "better": better},
                    **{"chosen": "" if chosen is None else "yes" if rate == chosen else "no", "audit": audit},
                    **{"status": one.status, "reason": one.reason or "", "run_ids": one.run_id},
                }
            )
        scores = Cell("; ".join(texts) or "none", notes=marks, samples=tuple(samples))
        rate_cell = Cell("—" if chosen is None else f"{chosen:g}", value=chosen, samples=tuple(samples))
        rows.append(line(label, scores, rate_cell, audit))
    head = f"rate: valid {headline.replace('_', ' ')} {ARROWS[better]}"
    runs = [(label, ", ".join(one.run_id for one in tried["record"])) for label, _, tried in sweeps]
    return Table(
        kind="trials",
        title=f"{group.name}: learning-rate trials",
        caption="Trials at seeds that no final run uses, judged on the validation split; of several at a rate the mean decides.",
        heads=(("model", ""), (head, known[headline].unit if headline in known else ""), ("chosen", ""), ("audit", "")),
        text_columns=(0, 1, 3),
        rows=tuple(rows),
        notes=tuple(notes),
        remarks=tuple(f"Trials, {label}: {ids}." for label, ids in runs if ids),
        data=tuple(data),
    )


def _score(record: Record, name: str) -> str:
    value = record.value(name)
    return record.status if record.status != "ok" else "n/a" if value is None else significant(value, 4)


def _audit(spec: RunSpec | None, tried: pd.DataFrame, better: str) -> str:
    """The warnings about a choice: unfinished, at an end of the sweep, not the best, shared, records missing."""
    if spec is None:
        return "no final run uses these trials"
    lost, chosen = len(spec.trials) - len(tried), spec.train.learning_rate
    missing = [f"{lost} trial records are missing"] if lost else []
    if tried.empty:
        return "".join(missing) or "not tuned: the rate was given"
    found = []
    rates = tried["rate"]
    if rates.nunique() > 1 and chosen in (rates.min(), rates.max()):
        found.append("AT AN END of the sweep: a better rate may lie outside")
    means = tried.groupby("rate")["score"].agg(lambda scores: scores.mean(skipna=False)).dropna()
    if not means.empty and means.get(chosen) != (means.min() if better == "lower" else means.max()):
        found.append("NOT THE BEST of its trials")
    shared = sorted(set(tried["label"]) - {spec.label})
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
        kind="depth",
        title=f"{group.name}: memory against depth",
        caption="Forward and backward pass of a training step at each depth (solver steps for a DEQ), without the optimiser's "
        "states: exact counts of one run a row.",
        legend=GROWTH_RULE,
        text_columns=(0, 1, 2, 6),
        label_columns=3,
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
        kind="gradient",
        title=f"{group.name}: gradient by equilibrium propagation",
        caption="Against the implicit gradient of the trained model on the first training batch, solves in float64 to 1e-10.",
        text_columns=(0, 1),
        label_columns=3,
        heads=(("model", ""), ("nudge", ""), ("beta", ""), ("1 - cosine ↓", ""), ("distance / norm ↓", "")),
        rows=tuple(rows),
        remarks=tuple(f"Run, {label}: {run}." for label, (*_, run) in probed.items() if run is not None),
        data=tuple(data),
    )
