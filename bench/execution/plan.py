"""Turn a suite into specs: learning-rate trials first, then, with their records, the final runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bench.execution.parameter_matching import match_rows
from bench.execution.suite_loading import Entry, readable
from bench.records.errors import UserError, unknown
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.record import Record
from bench.records.spec import Comparison, ComponentConfig, RunSpec, TrainConfig
from bench.tasks.task import Task
from bench.training.language_model import count_parameters
from bench.training.recipe_schedule import check_recipe
from bench.training.registry import build_task
from bench.training.run_identity import compute_identity


@dataclass(frozen=True, kw_only=True)
class _SizedComparison:
    """A comparison whose models have their matched sizes."""

    comparison: Comparison
    models: Mapping[str, tuple[ComponentConfig, int | None]]  # by label, with the parameter budget
    labels: Sequence[str]  # of the rows that are wanted
    probed_seed: int  # whose runs probe memory by depth
    place: Callable[[RunSpec], RunSpec]

    def _spec(self, label: str, **fields: Any) -> RunSpec:
        model, budget = self.models[label]
        spec = RunSpec(
            group=self.comparison.group, label=label, model=model, task=self.comparison.task, parameters=budget, **fields
        )
        return self.place(spec)

    @property
    def group(self) -> str:
        """The group of its runs, which names where they are placed."""
        return self.trial(self.labels[0], self.comparison.learning_rates[0], self.comparison.trial_seed).group

    def trial(self, label: str, rate: float, seed: int) -> RunSpec:
        """A short run at one learning rate."""
        train, steps, recipe = self.comparison.train, self.comparison.trial_steps, self.comparison.rows[label].recipe
        changes = {"steps": steps, "warmup": min(train.warmup, steps // 2), "learning_rate": rate, "evaluate_every": 0}
        recipe = recipe and recipe.shortened(steps / train.steps)
        return self._spec(label, role="trial", train=train.model_copy(update=changes), recipe=recipe, seed=seed)

    def sweep(self, label: str, records: Mapping[str, Record]) -> list[RunSpec]:
        """The trials of a row, every rate at every trial seed.

        While the best of `records` lies at an end, the next rate beyond it is added, up to `widen` times.
        """
        rates, seeds = [*self.comparison.learning_rates], self.comparison.all_trial_seeds()
        for added in range(self.comparison.widen + 1):
            trials = [self.trial(label, rate, seed) for rate in rates for seed in seeds]
            if added == self.comparison.widen or not all(trial.key in records for trial in trials):
                break
            ordered, best = sorted(rates), choose_learning_rate([records[trial.key] for trial in trials])
            if best not in (ordered[0], ordered[-1]):
                break
            inner = ordered[1] if best == ordered[0] else ordered[-2]
            rates.append(float(f"{best * best / inner:.6g}"))
        return trials

    def trials(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """The trials that the wanted rows need; none where there is one rate only."""
        if len(self.comparison.learning_rates) == 1:
            return []
        tuned = {self.comparison.rows[label].like or label for label in self.labels}
        return [spec for label in self.comparison.rows if label in tuned for spec in self.sweep(label, records)]

    def finals(self, records: Mapping[str, Record]) -> Iterator[RunSpec]:
        """The final runs of the wanted rows whose trials are recorded, at the learning rates that these chose."""
        for label in self.labels:
            keys = self._tuned_by(label, records)
            if records.keys() >= set(keys):
                rate = choose_learning_rate([records[key] for key in keys]) if keys else self.comparison.learning_rates[0]
                yield from self._finals(label, rate, keys)

    def untuned(self, records: Mapping[str, Record]) -> Iterator[RunSpec]:
        """The final runs of wanted rows whose trials are not all recorded; the first rate stands for the one to be chosen."""
        for label in self.labels:
            if not records.keys() >= set(self._tuned_by(label, records)):
                yield from self._finals(label, self.comparison.learning_rates[0], ())

    def _tuned_by(self, label: str, records: Mapping[str, Record]) -> tuple[str, ...]:
        """The keys of the trials that choose a row's rate; none where there is one rate only."""
        if len(self.comparison.learning_rates) == 1:
            return ()
        return tuple(trial.key for trial in self.sweep(self.comparison.rows[label].like or label, records))

    def _finals(self, label: str, rate: float, keys: tuple[str, ...]) -> Iterator[RunSpec]:
        comparison = self.comparison
        train = comparison.train.model_copy(update={"learning_rate": rate})
        for seed in comparison.seeds:
            depths = comparison.depths if seed == self.probed_seed else ()
            recipe = comparison.rows[label].recipe
            yield self._spec(label, train=train, recipe=recipe, seed=seed, depths=depths, trials=keys)


class Plan:
    """The runs of a suite: `trials(records)` until there are no new ones; then `finals(records)`.

    The constructor builds every task, matches every size and checks every setting, so that a wrong one costs no run.
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
        self._specs: list[RunSpec] = []
        self._comparisons: list[_SizedComparison] = []
        self.expected: dict[tuple[str, str], str] = {}  # by group and label: the status of a run that is no failure
        place = partial(_place, device=device, processes=processes)
        for entry in entries:
            labels = [label for label in _labels(entry) if _matches(only, entry.group, label)]
            if not labels:
                continue
            task = self.task(entry.task)
            self._check_training(entry.task, entry.train)
            if isinstance(entry, RunSpec):
                count_parameters(entry.model, task.vocabulary)
                check_recipe(entry.model, entry.recipe, task.vocabulary)
                placed = [place(entry.model_copy(update={"seed": seed})) for seed in ([entry.seed] if seeds is None else seeds)]
                self._specs += placed
                self.expected |= {(spec.group, spec.label): entry.expected for spec in placed}
                continue
            sized = _SizedComparison(
                comparison=_with_seeds(entry, seeds),
                models=match_rows(entry, task.vocabulary),
                labels=labels,
                probed_seed=entry.seeds[0],  # whichever seeds are asked for
                place=place,
            )
            self._comparisons.append(sized)
            self.expected |= {(sized.group, label): entry.rows[label].expected for label in labels}
        if not self._specs and not self._comparisons:
            names = {name for entry in entries for name in (entry.group, *_labels(entry))}
            raise unknown("row or group of --only", only or "*", names)
        self._check_groups()

    def task(self, config: ComponentConfig) -> Task:
        """Build a task, or return the one that was built before."""
        key = config.model_dump_json()
        if key not in self._tasks:
            self._tasks[key] = build_task(config, self._data)
        return self._tasks[key]

    def _check_training(self, config: ComponentConfig, train: TrainConfig) -> None:
        task = self.task(config)
        if train.carry and not task.streams:
            raise UserError(f"carry: the batches of task {config.name!r} do not continue one another")
        task.batches("train", train.batch, seed=0)

    def _check_groups(self) -> None:
        """Raise UserError where two tasks of a group differ in the headline or in a metric: no report could hold both."""
        headlines: dict[str, str] = {}
        metrics: dict[tuple[str, str], Metric] = {}
        for spec in self.specs():
            task, problem = self.task(spec.task), None
            if (headline := headlines.setdefault(spec.group, task.headline)) != task.headline:
                problem = f"headline metrics, {headline!r} and {task.headline!r}"
            for name, metric in task.metrics.items():
                if (known := metrics.setdefault((spec.group, name), metric)) != metric:
                    problem = problem or f"metrics {name!r}, {_difference(known, metric)}"
            if problem:
                raise UserError(f"group {spec.group!r} has two {problem} (of {spec.label!r}): give each task a group of its own")

    def models(self) -> list[tuple[str, str, ComponentConfig, int]]:
        """The group, label, model (at its width) and vocabulary of every wanted row."""
        found = ((spec.group, spec.label, spec.model, self.task(spec.task).vocabulary) for spec in self.specs())
        return list({row[:2]: row for row in found}.values())

    def trials(self, records: Mapping[str, Record] | None = None) -> list[RunSpec]:
        """Every learning-rate trial that a wanted row needs, once, as far as the `records` of trials (by key) say."""
        found = (spec for sized in self._comparisons for spec in sized.trials(records or {}))
        return list({spec.key: spec for spec in found}.values())

    def finals(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """Every final run whose trials are recorded, at the rate that these chose; seed by seed, so that early results compare.

        `records`: the trials', by the keys of their specs.
        """
        specs = [*self._specs, *(spec for sized in self._comparisons for spec in sized.finals(records))]
        return list({spec.key: spec for spec in sorted(specs, key=lambda spec: spec.seed)}.values())

    def untuned(self, records: Mapping[str, Record]) -> list[RunSpec]:
        """The final runs of rows whose trials are not all recorded; the first rate stands for the one to be chosen."""
        return [spec for sized in self._comparisons for spec in sized.untuned(records)]

    def specs(self) -> list[RunSpec]:
        """A spec for each row, with its device, threads and processes, before any trial."""
        rows = [(sized, label, sized.comparison) for sized in self._comparisons for label in sized.labels]
        return [*self._specs, *(sized.trial(label, c.learning_rates[0], c.trial_seed) for sized, label, c in rows)]

    def wanted(self) -> int:
        """How many final runs there will be, whatever rates the trials choose; one that two comparisons share counts twice."""
        return len(self._specs) + sum(len(sized.labels) * len(sized.comparison.seeds) for sized in self._comparisons)

    def identity(self, spec: RunSpec, environment: Mapping[str, Any]) -> Identity:
        """The spec's Identity in that environment."""
        return compute_identity(spec, self.task(spec.task), environment)


def _place(spec: RunSpec, device: Literal["cpu", "cuda"], processes: int) -> RunSpec:
    """The spec on the device and processes of the command line, in a group that names them: no table mixes placements."""
    fields: dict[str, Any] = spec.model_dump()
    if device != "cpu" and spec.device != device:
        fields |= {"device": device, "group": f"{fields['group']} on GPU"}
    if processes > 1 and spec.processes == 1:
        fields |= {"processes": processes, "group": f"{fields['group']}, {processes} processes"}
    try:
        return RunSpec.model_validate(fields)
    except ValidationError as error:
        raise UserError(readable(error)) from error


def _labels(entry: Entry) -> list[str]:
    return list(entry.rows) if isinstance(entry, Comparison) else [entry.label]


def _matches(only: str | None, group: str, label: str) -> bool:
    return only is None or any(fnmatchcase(name.lower(), only.lower()) for name in (label, group, f"{group}/{label}"))


def _with_seeds(comparison: Comparison, seeds: Sequence[int] | None) -> Comparison:
    if seeds is None:
        return comparison
    try:
        return type(comparison).model_validate(comparison.model_dump() | {"seeds": tuple(seeds)})
    except ValidationError as error:
        raise UserError(readable(error)) from error


def _difference(one: Metric, other: Metric) -> str:
    a, b = asdict(one), asdict(other)
    return ", ".join(f"{name} {a[name]} and {b[name]}" for name in a if a[name] != b[name])


def choose_learning_rate(trials: Sequence[Record]) -> float:
    """The learning rate whose trials have the best mean validation headline.

    One failed trial rules its rate out; the smallest if all are.
    """

    def cost(record: Record) -> float:
        value = record.value(f"valid_{record.headline}")
        if record.status != "ok" or value is None:
            return math.inf
        return value if record.metrics[record.headline].better == "lower" else -value

    by_rate: dict[float, list[float]] = {}
    for record in trials:
        by_rate.setdefault(record.spec.train.learning_rate, []).append(cost(record))
    return min(sorted(by_rate), key=lambda rate: math.fsum(by_rate[rate]) / len(by_rate[rate]))
