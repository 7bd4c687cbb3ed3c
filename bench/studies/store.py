"""The record of the studies: rows are measured where they are missing, kept one by one, written with their figures, read back."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.instruments.contention import CONTENDED
from bench.instruments.environment import environment
from bench.records.errors import UserError
from bench.records.record import write_text
from bench.records.side_file import EXPERIMENTS
from bench.report import figures
from bench.report.report import code_revision
from bench.studies import (
    batches,
    dependency,
    gradient_error,
    inference,
    pathological,
    quality,
    recompute,
    residual,
    solver_agreement,
    training_curves,
)
from bench.studies.config import FULL, Config
from bench.studies.figures import Rows
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values

NAME = "experiments.json"
FOLDER = Path("results") / "claims"
_CHECKPOINTS = ".cache"  # trained models, while there are rows to measure
Key = tuple[str, str]  # study, subject
Row = dict[str, Any]
Missing = tuple[Study, PlannedRow, str]  # with its made_by
Measured = tuple[Missing, Values | None, str | None]


def all_studies(config: Config = FULL) -> tuple[Study, ...]:
    """Every study, in the record's order."""
    return (
        training_curves.study(config),
        *quality.studies(config),
        *residual.studies(config),
        solver_agreement.study(config),
        gradient_error.study(config),
        batches.study(config),
        *pathological.studies(config),
        recompute.study(config),
        dependency.study(config),
        inference.study(config),
    )


def measure_studies(
    jobs: int = 1,
    data: Mapping[str, Path] | None = None,
    out: Path = FOLDER,
    config: Config = FULL,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the rows that the record in `out` lacks, or has from other settings, numerics or data; returns the whole record.

    The record is written after each row, so that an interrupted call loses one row. Rows of a task whose corpus is missing have
    that as their reason and no values. About twelve minutes on two cores; timed rows come last, alone.
    """
    models = Models(out / _CHECKPOINTS, dict(data or {}))
    studies = all_studies(config)
    rows, missing = _current(studies, models, out)
    here = environment("cpu", 1)
    revision = code_revision(here)
    for count, ((study, row, made_by), values, reason) in enumerate(_measured(missing, models, jobs), start=1):
        rows[_key(study.name, row.subject)] = {
            **row.subject,
            "made_by": made_by,
            "revision": revision,
            "values": values,
            "reason": reason,
        }
        _write(_assembled(studies, rows, here), out)
        report(f"{count}/{len(missing)} {study.name}: {', '.join(str(value) for value in row.subject.values())}")
    shutil.rmtree(models.folder, ignore_errors=True)
    return _assembled(studies, rows, here)


def _current(studies: Sequence[Study], models: Models, out: Path) -> tuple[dict[Key, Row], list[Missing]]:
    """The rows that need no measurement (up to date, or without data), and those that do: missing, outdated or contended."""
    old, rows, missing = _old_rows(out), {}, []
    for study in studies:
        for row in study.rows:
            key = _key(study.name, row.subject)
            try:
                made_by = study.made_by(row, models)
            except UserError as error:
                rows[key] = {**row.subject, "made_by": None, "revision": None, "values": None, "reason": str(error)}
                continue
            known = old.get(key)
            if known and known["made_by"] == made_by and not (known["reason"] or "").startswith(CONTENDED):
                rows[key] = known
            else:
                missing.append((study, row, made_by))
    return rows, missing


def _key(study: str, subject: Mapping[str, Any]) -> Key:
    return study, json.dumps(subject, sort_keys=True)


def _old_rows(out: Path) -> dict[Key, Row]:
    """The rows of the record in the folder; none where there is no record, or a damaged one."""
    try:
        found = read_studies(out)["experiments"]
    except UserError:
        return {}
    own = ("made_by", "revision", "values", "reason")
    return {
        _key(name, {column: value for column, value in row.items() if column not in own}): row
        for name, study in found.items()
        for row in study["rows"]
    }


def _assembled(studies: Sequence[Study], rows: Mapping[Key, Row], here: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        study.name: {
            "measured": study.measured,
            "units": study.units,
            "settings": study.settings,
            "seeds": sorted({row.subject["seed"] for row in study.rows}),
            "rows": [rows[key] for row in study.rows if (key := _key(study.name, row.subject)) in rows],
        }
        for study in studies
    }
    kept = {name: value for name, value in here.items() if name != "git"}  # rows may be of several revisions
    return {"environment": kept, "experiments": found}


def _measured(missing: Sequence[Missing], models: Models, jobs: int) -> Iterator[Measured]:
    """Each row as it is measured; with several jobs all models are trained first, each once. Timed rows come last and alone."""
    untimed = [one for one in missing if not one[0].timed]
    if jobs > 1:
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
    for one in [*(untimed if jobs == 1 else ()), *(one for one in missing if one[0].timed)]:
        yield one, *one[0].values(one[1], models)


def read_studies(folder: Path) -> dict[str, Any]:
    """The record in a folder; UserError where there is none, or a damaged one."""
    found = EXPERIMENTS.read(folder / NAME)
    if found is None:
        raise UserError(f"claims: no record of experiments in {folder}: `python -m bench claims --measure` makes it")
    return found


def write_studies(record: Mapping[str, Any], out: Path = FOLDER) -> None:
    """Write the record and its figures."""
    _write(record, out)
    figures.write(out, figures.render("experiments", Rows(record)))


def _write(record: Mapping[str, Any], out: Path) -> None:
    write_text(out / NAME, f"{_text(EXPERIMENTS.sealed(record), 4)}\n")


def _text(value: Any, depth: int, indent: str = "") -> str:
    """JSON with one row of a study a line, so that a diff shows which changed."""
    if not depth or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, allow_nan=False)
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, dict) else [""] * len(value)
    inner = value.values() if isinstance(value, dict) else value
    lines = [f"{indent} {name}{_text(one, depth - 1, f'{indent} ')}" for name, one in zip(names, inner, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return "\n".join((opening, ",\n".join(lines), indent + closing))
