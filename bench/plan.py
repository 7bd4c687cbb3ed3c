"""From a suite to specs: what a comparison runs, its learning-rate trials first, then, with their records, its final runs."""

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import ValidationError

from bench.budget import match
from bench.catalog import build_task
from bench.errors import UserError, unknown
from bench.identity import Identity
from bench.metric import Metric
from bench.model import count_parameters
from bench.provenance import identify
from bench.recipe import check_recipe
from bench.record import Record
from bench.spec import Comparison, Named, Recipe, Row, Spec, Train
from bench.suites import SUITES
from bench.tasks.task import Task
from bench.tuning import seeds_of

Entry = Spec | Comparison


def load_suite(name: str, data: Mapping[str, Path]) -> tuple[str, list[Entry]]:
    """A suite's short name and its SPECS: one of the package's, or a Python file that defines SPECS.

    SPECS is a list of Spec and Comparison, or a function that makes one from the names given with `--data`.
    """
    if not name.endswith(".py") and name not in SUITES:
        raise unknown("suite", name, SUITES)
    short = Path(name).stem
    try:
        specs = getattr(_load_file(Path(name)) if name.endswith(".py") else importlib.import_module(SUITES[name]), "SPECS", None)
        if callable(specs):
            specs = specs(sorted(data))
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"suite {name}: {readable(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"suite {name} fails on import: {type(error).__name__}: {error}") from error
    if not isinstance(specs, list) or not specs or not all(isinstance(entry, (Spec, Comparison)) for entry in specs):
        raise UserError(f"suite {name}: SPECS must be a non-empty list of Spec and Comparison")
    return short, specs


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"suite file {path} does not exist")
    found = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # so that the suite may name models in files beside it
    found.loader.exec_module(module)
    return module


def readable(error: ValidationError) -> str:
    """The first complaint of a validation, with the field's name and the allowed ones where it is unknown."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt field also goes missing
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and error.title in _FIELDS:
        return str(unknown(f"{error.title} field", str(first["loc"][-1]), _FIELDS[error.title]))
    said = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "missing" or not where else f", got {first.get('input')!r}"
    return f"{error.title}{f' {where}' if where else ''}: {said}{got}"


_FIELDS = {kind.__name__: list(kind.model_fields) for kind in (Spec, Comparison, Train, Recipe, Named, Row)}


class Plan:
    """The runs of a suite: `trials()` first; `finals(records)` once the trials' records are there.

    Building it builds every task, finds every width and checks every setting, so that a wrong one costs no run.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        data: Mapping[str, Path] | None = None,
        only: str | None = None,
        seeds: Sequence[int] | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        processes: int = 1,
    ) -> None:
        self._data = data or {}
        self._tasks: dict[str, Task] = {}
        self._only, self._device, self._processes = only, device, processes
        everything = entries
        entries = [
            e
            for e in entries
            if any(self._wanted(e.group, label) for label in (e.rows if isinstance(e, Comparison) else [e.label]))
        ]
        self._probed = [entry.seeds[0] for entry in entries if isinstance(entry, Comparison)]  # whichever seeds are asked for
        try:
            self._comparisons = [
                entry if seeds is None else type(entry).model_validate(entry.model_dump() | {"seeds": tuple(seeds)})
                for entry in entries
                if isinstance(entry, Comparison)
            ]
        except ValidationError as error:
            raise UserError(readable(error)) from error
        self._specs = [
            self._placed(entry.model_copy(update={"seed": seed}))
            for entry in entries
            if isinstance(entry, Spec)
            for seed in ([entry.seed] if seeds is None else seeds)
        ]
        self._models = [self._matched(comparison) for comparison in self._comparisons]
        for spec in self._specs:
            count_parameters(spec.model, self.task(spec.task).vocabulary)
            check_recipe(spec.model, spec.recipe, self.task(spec.task).vocabulary)
            self._feasible(spec.task, spec.train)
        for comparison in self._comparisons:
            self._feasible(comparison.task, comparison.train)
        self._specs = [spec for spec in self._specs if self._wanted(spec.group, spec.label)]
        if not self._specs and not any(self._rows(comparison) for comparison in self._comparisons):
            labels = sorted(
                {f"{c.group}/{label}" for c in everything if isinstance(c, Comparison) for label in c.rows}
                | {f"{s.group}/{s.label}" for s in everything if isinstance(s, Spec)}
            )
            raise UserError(f"--only {only!r} matches no row. Rows: {', '.join(labels)}")
        self._headlines()

    def task(self, named: Named) -> Task:
        """The task, built once."""
        key = named.model_dump_json()
        if key not in self._tasks:
            self._tasks[key] = build_task(named, self._data)
        return self._tasks[key]

    def _feasible(self, named: Named, train: Train) -> None:
        """What a task and a training must agree on, at the cost of a batch."""
        task = self.task(named)
        if train.carry and not task.streams:
            raise UserError(f"carry: the batches of task {named.name!r} do not continue one another")
        task.batches("train", train.batch, seed=0)

    def _headlines(self) -> None:
        """UserError where the tasks of one group rank their models by different metrics: no table could."""
        first: dict[str, str] = {}
        for spec in self.specs():
            headline = self.task(spec.task).headline
            if first.setdefault(spec.group, headline) != headline:
                message = f"group {spec.group!r} has two headline metrics, {first[spec.group]!r} and {headline!r}"
                raise UserError(f"{message} (of {spec.label!r}): give each a group of its own")

    def check_metrics(self) -> None:
        """UserError where the tasks of one group mean different things by one metric: its runs could not be reported."""
        metrics: dict[tuple[str, str], Metric] = {}
        for spec in self.specs():
            for name, metric in self.task(spec.task).metrics.items():
                if (known := metrics.setdefault((spec.group, name), metric)) != metric:
                    message = f"group {spec.group!r} has two metrics {name!r}, {_difference(known, metric)}"
                    raise UserError(f"{message} (of {spec.label!r}): give each task a group of its own")

    def _wanted(self, group: str, label: str) -> bool:
        only = self._only
        return only is None or any(fnmatchcase(name.lower(), only.lower()) for name in (label, group, f"{group}/{label}"))

    def _rows(self, comparison: Comparison) -> list[str]:
        return [label for label in comparison.rows if self._wanted(comparison.group, label)]

    def _placed(self, spec: Spec) -> Spec:
        """The spec on the chosen device, by the chosen number of processes; its group then says so, so that no table mixes them."""
        told: dict[str, Any] = spec.model_dump()
        if self._device != "cpu" and spec.device != self._device:
            told |= {"device": self._device, "group": f"{told['group']} on GPU"}
        if self._processes > 1 and spec.processes == 1:
            told |= {"processes": self._processes, "group": f"{told['group']}, {self._processes} processes"}
        try:
            return Spec.model_validate(told)
        except ValidationError as error:
            raise UserError(readable(error)) from error

    def _matched(self, comparison: Comparison) -> dict[str, tuple[Named, int | None]]:
        """Each row's model, with its width, and the budget."""
        vocabulary = self.task(comparison.task).vocabulary
        budget = count_parameters(comparison.rows[comparison.reference].model, vocabulary)
        models = {}
        for label, row in comparison.rows.items():
            given = row.match in row.model.settings
            model = row.model if given else match(row.model, vocabulary, budget, row.match)
            count_parameters(model, vocabulary)
            check_recipe(model, row.recipe, vocabulary)
            models[label] = (model, budget if not given or label == comparison.reference else None)
        return models

    def models(self) -> list[tuple[str, str, Named, int]]:
        """Every wanted row: its group, label, model (with its width) and vocabulary."""
        found = [(spec.group, spec.label, spec.model, self.task(spec.task).vocabulary) for spec in self._specs]
        for comparison, models in self._paired():
            vocabulary = self.task(comparison.task).vocabulary
            found += [(comparison.group, label, models[label][0], vocabulary) for label in self._rows(comparison)]
        return list({(group, label): (group, label, model, size) for group, label, model, size in found}.values())

    def trials(self) -> list[Spec]:
        """Every learning-rate trial that a wanted row needs."""
        specs = []
        for comparison, models in self._paired():
            if len(comparison.learning_rates) == 1:
                continue
            tuned = {comparison.rows[label].like or label for label in self._rows(comparison)}
            for label in comparison.rows:
                if label in tuned:
                    specs += self._sweep(comparison, label, models[label])
        return specs

    def _sweep(self, comparison: Comparison, label: str, model: tuple[Named, int | None]) -> list[Spec]:
        rates, seeds = comparison.learning_rates, seeds_of(comparison)
        return [self._trial(comparison, label, model, rate, seed) for rate in rates for seed in seeds]

    def _trial(self, comparison: Comparison, label: str, model: tuple[Named, int | None], rate: float, seed: int) -> Spec:
        train = comparison.train.model_copy(
            update={
                "steps": comparison.trial_steps,
                "warmup": min(comparison.train.warmup, comparison.trial_steps // 2),
                "learning_rate": rate,
                "evaluate_every": 0,
            }
        )
        recipe = comparison.rows[label].recipe
        return self._placed(
            Spec(
                group=comparison.group,
                label=label,
                role="trial",
                model=model[0],
                task=comparison.task,
                train=train,
                recipe=recipe and recipe.shortened(comparison.trial_steps / comparison.train.steps),
                seed=seed,
                parameters=model[1],
            )
        )

    def finals(self, records: Mapping[str, Record]) -> list[Spec]:
        """Every final run, at the learning rate its trials chose, interleaved over seeds, so that early results compare.

        `records`: the trials', by the keys of their specs.
        """
        specs: list[tuple[int, Spec]] = [(spec.seed, spec) for spec in self._specs]
        for comparison, models, probed in zip(self._comparisons, self._models, self._probed, strict=True):
            for label in self._rows(comparison):
                rate, trials = self._chosen(comparison, label, models, records)
                for seed in comparison.seeds:
                    spec = Spec(
                        group=comparison.group,
                        label=label,
                        model=models[label][0],
                        task=comparison.task,
                        train=comparison.train.model_copy(update={"learning_rate": rate}),
                        recipe=comparison.rows[label].recipe,
                        seed=seed,
                        parameters=models[label][1],
                        depths=comparison.depths if seed == probed else (),
                        trials=trials,
                    )
                    specs.append((seed, self._placed(spec)))
        return list({spec.key: spec for _, spec in sorted(specs, key=lambda item: item[0])}.values())

    def _chosen(
        self, comparison: Comparison, label: str, models: Mapping[str, tuple[Named, int | None]], records: Mapping[str, Record]
    ) -> tuple[float, tuple[str, ...]]:
        if len(comparison.learning_rates) == 1:
            return comparison.learning_rates[0], ()
        source = comparison.rows[label].like or label
        trials = self._sweep(comparison, source, models[source])
        best = choose([records[trial.key] for trial in trials])
        return best, tuple(trial.key for trial in trials)

    def specs(self) -> list[Spec]:
        """What of its runs is known before any trial has chosen a rate: every row's device, threads and processes."""
        rows = [(c, label, models[label]) for c, models in self._paired() for label in self._rows(c)]
        return [*self._specs, *(self._trial(c, label, model, c.learning_rates[0], c.trial_seed) for c, label, model in rows)]

    def _paired(self) -> Iterator[tuple[Comparison, dict[str, tuple[Named, int | None]]]]:
        yield from zip(self._comparisons, self._models, strict=True)

    def wanted(self) -> int:
        """How many final runs there will be, whatever rates the trials choose."""
        return len(self._specs) + sum(len(self._rows(c)) * len(c.seeds) for c in self._comparisons)

    def identity(self, spec: Spec, environment: Mapping[str, Any]) -> Identity:
        """What the spec's numbers would come from, in that environment."""
        return identify(spec, self.task(spec.task), environment)


def _difference(one: Metric, other: Metric) -> str:
    a, b = asdict(one), asdict(other)
    return ", ".join(f"{name} {a[name]} and {b[name]}" for name in a if a[name] != b[name])


def choose(trials: Sequence[Record]) -> float:
    """The learning rate whose trials are best on the validation headline, in the mean; the smallest where none came through."""

    def badness(record: Record) -> float:
        value = record.value(f"valid_{record.headline}")
        if record.status != "ok" or value is None:
            return math.inf
        return value if record.metrics[record.headline].better == "lower" else -value

    by_rate: dict[float, list[float]] = {}
    for record in trials:
        by_rate.setdefault(record.spec.train.learning_rate, []).append(badness(record))
    return min(sorted(by_rate), key=lambda rate: math.fsum(by_rate[rate]) / len(by_rate[rate]))
