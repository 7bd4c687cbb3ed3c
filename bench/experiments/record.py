"""The record of the experiments: made part by part, each kept as soon as it is there; written with its figures, read back."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench import figures
from bench.contention import CONTENDED
from bench.environment import environment
from bench.errors import UserError
from bench.experiments import (
    batches,
    course,
    dependency,
    fidelity,
    hostile,
    independence,
    inference,
    quality,
    recompute,
    residual,
)
from bench.experiments.experiment import Experiment, Part
from bench.experiments.figures import Rows
from bench.experiments.models import Models
from bench.experiments.scale import FULL, Scale
from bench.record import write_text
from bench.report import revision_told
from bench.side_file import EXPERIMENTS
from bench.spec import Spec

NAME = "experiments.json"
FOLDER = Path("results") / "claims"
_WORK = ".cache"  # trained models, while there are rows to make
_OWN = ("made_by", "revision", "values", "why")  # what a row has besides its subject
Key = tuple[str, str]  # experiment, subject
Row = dict[str, Any]


def experiments(scale: Scale) -> tuple[Experiment, ...]:
    """All of them, in the record's order."""
    return (
        course.experiment(scale),
        *quality.experiments(scale),
        *residual.experiments(scale),
        independence.experiment(scale),
        fidelity.experiment(scale),
        batches.experiment(scale),
        *hostile.experiments(scale),
        recompute.experiment(scale),
        dependency.experiment(scale),
        inference.experiment(scale),
    )


def make(
    jobs: int = 1,
    data: Mapping[str, Path] | None = None,
    out: Path = FOLDER,
    scale: Scale = FULL,
    said: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make what the record in `out` lacks or has from other code, settings or data, in so many processes; the whole record.

    It is written after each row, so that an interrupted call loses what it was at. A task whose corpus cannot be had has rows
    without values, and that as the reason. `said` is told of each row. About twelve minutes on two cores; what is timed comes last,
    by itself.
    """
    models = Models(out / _WORK, dict(data or {}))
    planned = experiments(scale)
    rows, waiting = _kept(planned, models, out)
    revision = revision_told(environment("cpu", 1))
    for made, (key, part, values, why) in enumerate(_followed(waiting, models, jobs), start=1):
        rows[key] = {**part.subject, "made_by": part.made_by(models), "revision": revision, "values": values, "why": why}
        _write(_assembled(planned, rows), out)
        said(f"{made}/{len(waiting)} {key[0]}: {', '.join(str(value) for value in part.subject.values())}")
    shutil.rmtree(models.folder, ignore_errors=True)
    return _assembled(planned, rows)


def _kept(planned: Iterable[Experiment], models: Models, out: Path) -> tuple[dict[Key, Row], list[tuple[Key, Part]]]:
    """The rows that need not be made: there already, or impossible; and the parts that do."""
    old, rows, waiting = _rows(out), {}, []
    for experiment in planned:
        for part in experiment.parts:
            key = experiment.name, _subject(part.subject)
            try:
                made_by = part.made_by(models)
            except UserError as error:
                rows[key] = {**part.subject, "made_by": None, "revision": None, "values": None, "why": str(error)}
                continue
            if key in old and old[key]["made_by"] == made_by and not _contended(old[key]):
                rows[key] = old[key]
            else:
                waiting.append((key, part))
    return rows, waiting


def _contended(row: Row) -> bool:
    return row["values"] is None and str(row["why"]).startswith(CONTENDED)


def _subject(subject: Mapping[str, Any]) -> str:
    return json.dumps(dict(subject), sort_keys=True)


def _rows(out: Path) -> dict[Key, Row]:
    """The rows of a record that was written; none where there is no record, or one that cannot be understood."""
    try:
        found = read(out)["experiments"]
        return {
            (name, _subject({key: value for key, value in row.items() if key not in _OWN})): row
            for name, experiment in found.items()
            for row in experiment["rows"]
        }
    except UserError:
        return {}


def _assembled(planned: Iterable[Experiment], rows: Mapping[Key, Row]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for experiment in planned:
        mine = [row for part in experiment.parts if (row := rows.get((experiment.name, _subject(part.subject)))) is not None]
        found[experiment.name] = {
            "measured": experiment.measured,
            "units": dict(experiment.units),
            "settings": dict(experiment.settings),
            "seeds": sorted({part.subject["seed"] for part in experiment.parts}),
            "rows": mine,
        }
    here = {name: value for name, value in environment("cpu", 1).items() if name != "git"}  # rows may be of several revisions
    return {"environment": here, "experiments": found}


Followed = tuple[Key, Part, dict[str, Any] | None, str | None]


def _followed(waiting: Sequence[tuple[Key, Part]], models: Models, jobs: int) -> Iterator[Followed]:
    """Every part with its values, as they come, those that must be alone last; all models are trained first, each once."""
    beside = [(key, part) for key, part in waiting if not part.alone] if jobs > 1 else []
    trainings = {spec.key: spec for _, part in waiting if part.trains for spec in part.specs} if jobs > 1 else {}
    if trainings or beside:
        yield from _side_by_side(beside, list(trainings.values()), models, jobs)
    for key, part in sorted(waiting, key=lambda one: one[1].alone):
        if part.alone or jobs == 1:
            yield key, part, *part.values(models)


def _side_by_side(waiting: Sequence[tuple[Key, Part]], trainings: Sequence[Spec], models: Models, jobs: int) -> Iterator[Followed]:
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for training in as_completed([pool.submit(models.record, spec) for spec in trainings]):
                training.result()
            futures = {pool.submit(part.values, models): (key, part) for key, part in waiting}
            for future in as_completed(futures):
                yield *futures[future], *future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read(folder: Path) -> dict[str, Any]:
    """A record that was written; UserError where there is none, or a damaged one."""
    found = EXPERIMENTS.read(folder / NAME)
    if found is None:
        raise UserError(f"claims: no record of experiments in {folder}: `python -m bench claims --measure` makes it")
    return found


def _write(record: Mapping[str, Any], out: Path) -> None:
    write_text(out / NAME, _text(record))


def _text(record: Mapping[str, Any]) -> str:
    """JSON, a line a row: what changed is seen in a difference."""
    record = EXPERIMENTS.sealed(record)
    head = {key: value for key, value in record.items() if key != "experiments"}
    lines = [
        "{",
        *(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}," for key, value in head.items()),
        ' "experiments": {',
    ]
    for place, (name, experiment) in enumerate(record["experiments"].items()):
        about = {key: value for key, value in experiment.items() if key != "rows"}
        lines.append(f"  {json.dumps(name)}: {{")
        lines += [f"   {json.dumps(key)}: {json.dumps(value, allow_nan=False)}," for key, value in about.items()]
        rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in experiment["rows"])
        lines.append(f'   "rows": [\n{rows}\n   ]' if rows else '   "rows": []')
        lines.append("  }," if place < len(record["experiments"]) - 1 else "  }")
    return "\n".join([*lines, " }", "}"]) + "\n"


def write(record: dict[str, Any], out: Path = FOLDER) -> None:
    """The record and its figures."""
    _write(record, out)
    figures.write(out, figures.render("experiments", Rows(record)))
