"""The record of the studies: measure missing rows, write the record after each, read it back."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.instruments.contention import CONTENDED
from bench.records.errors import UserError, unknown
from bench.records.record import write_text
from bench.records.side_file import EXPERIMENTS
from bench.report import figures
from bench.report.machines import code_revision
from bench.report.report import write_table
from bench.studies import (
    adjoints,
    batches,
    gradient_error,
    inference,
    path_independence,
    pathological,
    quality,
    recompute,
    residual,
    solver_agreement,
    solver_window,
    tables,
    training_curves,
    warm_start,
)
from bench.studies.config import FULL, Config
from bench.studies.drawing import Rows
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values

NAME = "experiments.json"
FOLDER = Path("results") / "claims"
Row = dict[str, Any]
Missing = tuple[Study, PlannedRow, str]  # with its made_by


def all_studies(config: Config = FULL) -> tuple[Study, ...]:
    """Every study, in the record's order."""
    return (
        training_curves.study(config),
        *quality.studies(config),
        *residual.studies(config),
        solver_agreement.study(config),
        gradient_error.study(config),
        adjoints.study(config),
        batches.study(config),
        *pathological.studies(config),
        recompute.study(config),
        inference.study(config),
        solver_window.study(config),
        path_independence.study(config),
        warm_start.study(config),
        quality.steps_at_test(config),
    )


def measure_studies(
    jobs: int = 1,
    data: Mapping[str, Path] | None = None,
    out: Path = FOLDER,
    config: Config = FULL,
    report: Callable[[str], None] = lambda text: None,
    only: Collection[str] = (),
) -> dict[str, Any]:
    """Measure the rows that the record in `out` lacks, or has from other settings, numerics or data; return the whole record.

    Rows without their corpus get a reason and no values. With `only`, names of studies, the others stay as they are recorded.
    All rows take about twenty minutes on two cores.
    """
    models = Models(out / ".cache", data or {})
    studies = all_studies(config)
    names = [study.name for study in studies]
    if wrong := [name for name in only if name not in names]:
        raise unknown("study", wrong[0], names)
    others = _recorded(out, [name for name in names if only and name not in only])
    rows, missing = _current([study for study in studies if not only or study.name in only], models, out)
    revision = code_revision(models.here)
    for count, ((study, row, made_by), values, reason) in enumerate(_measured(missing, models, jobs), start=1):
        found = {"made_by": made_by, "revision": revision, "values": values, "reason": reason}
        rows[_key(study, row)] = row.subject | found
        _write(_record(studies, rows, models.here, others), out)
        report(f"{count}/{len(missing)} {study.name}: {', '.join(str(value) for value in row.subject.values())}")
    shutil.rmtree(models.folder, ignore_errors=True)
    return _record(studies, rows, models.here, others)


def _key(study: Study, row: PlannedRow) -> str:
    return json.dumps([study.name, row.subject])


def _current(studies: Sequence[Study], models: Models, out: Path) -> tuple[dict[str, Row], list[Missing]]:
    """The rows that are up to date or lack their data, and those to measure."""
    old, missing = _old_rows(out), []
    rows: dict[str, Row] = {}
    for study in studies:
        for row in study.rows:
            try:
                made_by = study.made_by(row, models)
            except UserError as error:
                rows[_key(study, row)] = row.subject | {"made_by": None, "revision": None, "values": None, "reason": str(error)}
                continue
            if made_by in old:
                rows[_key(study, row)] = old[made_by]
            else:
                missing.append((study, row, made_by))
    return rows, missing


def _old_rows(out: Path) -> dict[str, Row]:
    """The record's rows by made_by, without contended ones; none where the record is missing or damaged."""
    try:
        studies = read_studies(out)["experiments"].values()
    except UserError:
        return {}
    rows = (row for study in studies for row in study["rows"])
    return {row["made_by"]: row for row in rows if not (row["reason"] or "").startswith(CONTENDED)}


def _recorded(out: Path, names: Collection[str]) -> dict[str, Row]:
    """The studies of these names as they are recorded, each with the environment that it was measured in."""
    record = (EXPERIMENTS.read(out / NAME) if names else None) or {"experiments": {}}
    found = {name: record["experiments"][name] for name in names if name in record["experiments"]}
    return {name: {"environment": record.get("environment"), **study} for name, study in found.items()}


def _record(
    studies: Sequence[Study], rows: Mapping[str, Row], here: Mapping[str, Any], others: Mapping[str, Row]
) -> dict[str, Any]:
    """The whole record; `others` are studies that are kept, with their environment where it is not this one."""
    found: dict[str, Row] = {
        study.name: {
            "measured": study.measured,
            "units": study.units,
            "settings": study.settings,
            "seeds": sorted({row.subject["seed"] for row in study.rows}),
            "rows": [rows[key] for row in study.rows if (key := _key(study, row)) in rows],
        }
        for study in studies
    }
    environment = {name: value for name, value in here.items() if name != "git"}  # each row has its revision
    for name, study in others.items():
        same = study["environment"] == environment
        found[name] = {key: value for key, value in study.items() if not (same and key == "environment")}
    return {"environment": environment, "experiments": found}


def _measured(missing: Sequence[Missing], models: Models, jobs: int) -> Iterator[tuple[Missing, Values | None, str | None]]:
    """Measure rows; several jobs train each model once first. Timed rows come last, alone."""
    serial = sorted(missing, key=lambda one: one[0].timed)
    if jobs > 1:
        serial, untimed = ([one for one in missing if one[0].timed is timed] for timed in (True, False))
        trainings = {spec.key: spec for _, row, _ in missing for spec in row.specs}
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))
        try:
            for training in as_completed([pool.submit(models.record, spec) for spec in trainings.values()]):
                training.result()
            futures = {pool.submit(one[0].values, one[1], models): one for one in untimed}
            for future in as_completed(futures):
                yield futures[future], *future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    for one in serial:
        yield one, *one[0].values(one[1], models)


def read_studies(folder: Path) -> dict[str, Any]:
    """Read the record in a folder; UserError where it is missing or damaged."""
    found = EXPERIMENTS.read(folder / NAME)
    if found is None:
        raise UserError(f"claims: no record of studies in {folder}; `python -m bench claims --measure` makes it")
    return found


def write_studies(record: Mapping[str, Any], out: Path = FOLDER) -> None:
    """Write the record, its tables and its figures."""
    _write(record, out)
    for table in tables.tables(Rows(record)):
        write_table(out / table.kind, table, f"tab:{table.kind}")
    figures.write(out, figures.render("experiments", Rows(record)))


def _write(record: Mapping[str, Any], out: Path) -> None:
    write_text(out / NAME, f"{_text(EXPERIMENTS.sealed(record), 4)}\n")


def _text(value: Any, depth: int, indent: str = "") -> str:
    """JSON with one row of a study per line, so that a diff shows which changed."""
    if not depth or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, allow_nan=False)
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, dict) else [""] * len(value)
    inner = value.values() if isinstance(value, dict) else value
    lines = [f"{indent} {name}{_text(one, depth - 1, f'{indent} ')}" for name, one in zip(names, inner, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return "\n".join((opening, ",\n".join(lines), indent + closing))
