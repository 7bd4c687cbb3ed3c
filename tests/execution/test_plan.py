"""A plan compares models on equal terms, chooses learning rates on validation data, and refuses wrong settings before any run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from running import record_of

from bench.execution.plan import Plan, choose_learning_rate
from bench.execution.status import status
from bench.instruments.environment import environment
from bench.records.errors import UserError
from bench.records.metric import Metric
from bench.records.record import Record, measured, write_record
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, RunSpec, TrainConfig
from bench.records.store import Store
from bench.training.language_model import count_parameters

ECHO = ComponentConfig(name="user_models:Echo")
ONE_ROW = {"reference": ModelEntry(model=ComponentConfig(name="gru", settings={"width": 16}))}


def comparison(**changes: Any) -> Comparison:
    fields: dict[str, Any] = {
        "group": "g",
        "task": ECHO,
        "train": TrainConfig(steps=8, batch=4, learning_rate=0.5, warmup=6, evaluate_every=2),
        "rows": {
            "reference": ModelEntry(model=ComponentConfig(name="gru", settings={"width": 16})),
            "shared": ModelEntry(model=ComponentConfig(name="gru", settings={"inputs": 16}), like="reference"),
            "other": ModelEntry(model=ComponentConfig(name="lstm", settings={"inputs": 16})),
        },
        "reference": "reference",
        "learning_rates": (0.1, 0.01, 0.2),
        "trial_steps": 4,
        "seeds": (0, 1),
        "depths": (2, 4),
    }
    return Comparison(**(fields | changes))


def trial(spec: RunSpec, value: float | None, status: Any = "ok", better: Any = "lower", headline: str = "loss") -> Record:
    measures = {f"valid_{headline}": measured(value, "1", "m", "s", "none")}
    metrics = {"loss": Metric(unit="1", better="lower"), headline: Metric(unit="1", better=better)}
    reason = None if status == "ok" else "because"
    return record_of(
        spec,
        status=status,
        reason=reason,
        headline=headline,
        metrics=metrics,
        measures=measures,
    )


def records(plan: Plan, best: dict[str, float]) -> dict[str, Record]:
    """Trial records in which each label's best rate is the given one."""
    return {spec.key: trial(spec, abs(spec.train.learning_rate - best[spec.label])) for spec in plan.trials()}


def record(store: Store, plan: Plan, one: Record) -> None:
    """Write a record under the id that the plan gives its run on this machine."""
    identity = plan.identity(one.spec, environment(one.spec.device, one.spec.threads))
    run_id = identity.run_id(one.spec.key)
    write_record(store.path("s", run_id), one.model_copy(update={"identity": identity, "run_id": run_id}))


class TestStages:
    def test_each_row_without_like_has_a_trial_for_each_rate(self) -> None:
        trials = Plan([comparison()]).trials()
        assert [(t.label, t.train.learning_rate) for t in trials] == [
            (label, rate) for label in ("reference", "other") for rate in (0.1, 0.01, 0.2)
        ]
        for one in trials:
            assert (one.role, one.seed, one.train.steps, one.train.evaluate_every, one.depths) == ("trial", 1000, 4, 0, ())
            assert one.train.warmup == 2
            assert (one.train.batch, one.train.clip) == (4, 0.25)
        assert len({t.key for t in trials}) == len(trials)

    def test_finals_take_the_best_rate_and_a_like_row_shares_it(self) -> None:
        plan = Plan([comparison()])
        finals = plan.finals(records(plan, {"reference": 0.2, "other": 0.01}))
        assert {(f.label, f.train.learning_rate) for f in finals} == {("reference", 0.2), ("shared", 0.2), ("other", 0.01)}
        ids = {label: tuple(t.key for t in plan.trials() if t.label == label) for label in ("reference", "other")}
        for one in finals:
            assert one.trials == ids["reference" if one.label == "shared" else one.label]
            assert (one.role, one.train.steps, one.train.warmup, one.train.evaluate_every) == ("final", 8, 6, 2)
        assert [f.seed for f in finals] == [0, 0, 0, 1, 1, 1]

    def test_one_rate_needs_no_trials(self) -> None:
        plan = Plan([comparison(learning_rates=(0.03,))])
        assert plan.trials() == []
        assert {(f.train.learning_rate, f.trials) for f in plan.finals({})} == {(0.03, ())}

    @pytest.mark.parametrize(
        ("rates", "best", "added"),
        [
            ((0.01, 0.02, 0.04), 0.02, []),
            ((0.01, 0.02, 0.04), 0.07, [0.08, 0.16]),
            ((0.01, 0.02, 0.04), 1.0, [0.08, 0.16, 0.32]),
            ((0.08, 0.04), 0.011, [0.02, 0.01, 0.005]),
        ],
        ids=str,
    )
    def test_a_sweep_grows_until_its_best_rate_lies_inside(self, rates: tuple[float, ...], best: float, added: list[float]) -> None:
        plan = Plan([comparison(learning_rates=rates, widen=3)])
        known: dict[str, Record] = {}
        while len(trials := plan.trials(known)) > len(known):
            known = {spec.key: trial(spec, abs(spec.train.learning_rate - best)) for spec in trials}
        tried = [spec for spec in trials if spec.label == "other"]
        assert [spec.train.learning_rate for spec in tried] == [*rates, *added]
        final = plan.finals(known)[-1]
        assert final.trials == tuple(spec.key for spec in tried)
        assert final.train.learning_rate == min([*rates, *added], key=lambda rate: abs(rate - best))

    def test_the_same_suite_gives_the_same_ids(self) -> None:
        first, second = Plan([comparison()]), Plan([comparison()])
        best = {"reference": 0.2, "other": 0.01}
        assert [f.key for f in first.finals(records(first, best))] == [f.key for f in second.finals(records(second, best))]

    def test_all_rows_are_on_equal_terms(self) -> None:
        plan = Plan([comparison()])
        finals = plan.finals(records(plan, {"reference": 0.2, "other": 0.01}))
        terms = {json.dumps([f.task.model_dump(), f.train.model_dump(exclude={"learning_rate"}), f.threads]) for f in finals}
        assert len(terms) == 1
        counts = [count_parameters(f.model, plan.task(f.task).vocabulary) for f in finals]
        assert {f.parameters for f in finals} == {counts[0]}
        assert max(counts) <= 1.02 * counts[0]
        assert min(counts) >= 0.98 * counts[0]

    def test_a_row_with_its_own_width_has_no_budget(self) -> None:
        wide = ModelEntry(model=ComponentConfig(name="lstm", settings={"width": 64, "inputs": 16}))
        plan = Plan([comparison(rows=comparison().rows | {"wide": wide}, learning_rates=(0.1,))])
        assert [final.parameters for final in plan.finals({}) if final.label == "wide"] == [None, None]

    def test_all_models_train_on_the_same_batches(self) -> None:
        plan = Plan([comparison(learning_rates=(0.1,))])
        seen = []
        for one in plan.finals({}):
            if one.seed == 0:
                stream = Plan([one]).task(one.task).batches("train", one.train.batch, one.seed)
                seen.append(torch.stack([torch.stack(next(stream)) for _ in range(3)]))
        assert len(seen) == 3
        assert all(torch.equal(seen[0], other) for other in seen)

    def test_depths_are_probed_for_one_seed(self) -> None:
        plan = Plan([comparison(learning_rates=(0.1,), seeds=(3, 1, 2))])
        assert {(f.seed, f.depths) for f in plan.finals({})} == {(3, (2, 4)), (1, ()), (2, ())}

    def test_a_runs_key_does_not_depend_on_the_seeds_asked_for(self) -> None:
        entry = comparison(learning_rates=(0.1,), seeds=(0, 1, 2))
        whole = {(f.label, f.seed): f.key for f in Plan([entry]).finals({})}
        for seeds in ([1], [2, 1], [1, 0]):
            part = {(f.label, f.seed): f.key for f in Plan([entry], seeds=seeds).finals({})}
            assert {key: whole[key] for key in part} == part

    def test_no_run_is_planned_twice(self) -> None:
        one = Plan([comparison(learning_rates=(0.1,))]).finals({})[0]
        assert len(Plan([one, one]).finals({})) == 1


class TestChooseLearningRate:
    def specs(self) -> list[RunSpec]:
        return [t for t in Plan([comparison()]).trials() if t.label == "other"]

    def test_lower_is_better(self) -> None:
        assert choose_learning_rate([trial(s, v) for s, v in zip(self.specs(), (3.0, 2.0, 1.0), strict=True)]) == 0.2

    def test_higher_is_better(self) -> None:
        made = [trial(s, v, better="higher", headline="hits") for s, v in zip(self.specs(), (0.9, 0.5, 0.1), strict=True)]
        assert choose_learning_rate(made) == 0.1

    @pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "crashed"])
    def test_a_failed_trial_is_never_chosen(self, status: str) -> None:
        first, second, third = self.specs()
        assert choose_learning_rate([trial(first, 1.0, status), trial(second, 9.0), trial(third, None, status)]) == 0.01

    def test_a_trial_without_a_number_is_never_chosen(self) -> None:
        first, second, third = self.specs()
        assert choose_learning_rate([trial(first, None), trial(second, None), trial(third, 5.0)]) == 0.2

    def test_the_smallest_rate_is_chosen_where_all_failed(self) -> None:
        assert choose_learning_rate([trial(spec, None, "diverged") for spec in self.specs()]) == 0.01

    def test_the_order_of_the_trials_does_not_matter_in_a_tie(self) -> None:
        made = [trial(spec, 1.0) for spec in self.specs()]
        assert choose_learning_rate(made) == choose_learning_rate(made[::-1]) == 0.01

    def test_zero_is_a_score(self) -> None:
        assert choose_learning_rate([trial(s, v) for s, v in zip(self.specs(), (0.0, 1.0, 2.0), strict=True)]) == 0.1


class TestTrialSeeds:
    def tuned(self, **changes: Any) -> Comparison:
        return Comparison(**(comparison().model_dump() | {"trial_seeds": 3} | changes))

    def test_every_rate_is_tried_with_each_seed(self) -> None:
        plan = Plan([self.tuned()])
        made = [spec for spec in plan.trials() if spec.label == "other"]
        pairs = [(spec.train.learning_rate, spec.seed) for spec in made]
        assert pairs == [(rate, seed) for rate in (0.1, 0.01, 0.2) for seed in (1000, 1001, 1002)]
        records = {spec.key: trial(spec, 1.0) for spec in plan.trials()}
        final = next(spec for spec in plan.finals(records) if spec.label == "other")
        assert set(final.trials) == {spec.key for spec in made}

    def test_the_mean_over_seeds_decides(self) -> None:
        made = [spec for spec in Plan([self.tuned(trial_seeds=2)]).trials() if spec.label == "other"]
        values = (0.1, 9.0, 3.0, 3.0, 2.0, 5.0)  # means 4.55, 3.0, 3.5
        assert choose_learning_rate([trial(spec, value) for spec, value in zip(made, values, strict=True)]) == 0.01
        assert (
            choose_learning_rate([trial(s, v, "diverged" if v == 3.0 else "ok") for s, v in zip(made, values, strict=True)]) == 0.2
        )

    def test_no_final_run_has_a_trial_seed(self) -> None:
        with pytest.raises(ValueError, match="trial seed 1002 is also a final seed"):
            self.tuned(seeds=(0, 1002))
        with pytest.raises(UserError, match="trial seed 1001"):
            Plan([self.tuned()], seeds=[1001])


class TestSelection:
    @pytest.mark.parametrize(
        ("only", "rows"),
        [
            ("other", {"other"}),
            ("OTHER", {"other"}),
            ("*e*", {"reference", "shared", "other"}),
            ("g", {"reference", "shared", "other"}),
            ("g/*r*d", {"shared"}),
            ("[os]*", {"other", "shared"}),
        ],
    )
    def test_only(self, only: str, rows: set[str]) -> None:
        plan = Plan([comparison(learning_rates=(0.1,))], only=only)
        assert {f.label for f in plan.finals({})} == rows

    def test_a_like_row_needs_the_trials_of_its_model(self) -> None:
        plan = Plan([comparison()], only="shared")
        assert {t.label for t in plan.trials()} == {"reference"}
        assert {f.label for f in plan.finals(records(plan, {"reference": 0.2}))} == {"shared"}

    def test_only_without_a_match_names_the_nearest_and_all(self) -> None:
        spec = Plan([comparison(learning_rates=(0.1,))]).finals({})[0]
        with pytest.raises(UserError, match=r"did you mean 'other'.* g, other, reference, shared$"):
            Plan([comparison()], only="otter")
        with pytest.raises(UserError, match=r"Allowed: g, reference$"):
            Plan([spec], only="nothing")

    def test_the_data_of_other_rows_are_not_needed(self) -> None:
        text = comparison(group="words", task=ComponentConfig(name="text", settings={"data": "absent"}))
        assert Plan([comparison(), text], only="g").trials()

    def test_seeds_replace_those_of_specs_and_comparisons(self) -> None:
        spec = Plan([comparison(learning_rates=(0.1,))]).finals({})[0]
        plan = Plan([comparison(learning_rates=(0.1,)), spec.model_copy(update={"group": "h"})], seeds=[7, 8])
        assert {(f.group, f.seed) for f in plan.finals({})} == {("g", 7), ("g", 8), ("h", 7), ("h", 8)}

    def test_a_trial_seed_is_refused_in_one_line(self) -> None:
        with pytest.raises(UserError, match="trial seed 1000") as caught:
            Plan([comparison()], seeds=[0, 1000])
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("placed", [{}, {"device": "cuda"}, {"processes": 2}])
    def test_what_is_expected_is_known_by_the_groups_of_the_records(self, placed: dict[str, Any]) -> None:
        single = Plan([comparison(learning_rates=(0.1,))]).finals({})[0].model_copy(update={"group": "h", "expected": "oom"})
        plan = Plan([comparison(), single], **placed)
        assert plan.expected.keys() == {(spec.group, spec.label) for spec in plan.specs()}
        assert set(plan.expected.values()) == {"ok", "oom"}

    def test_a_trial_that_two_comparisons_need_is_one(self, tmp_path: Path) -> None:
        rows = comparison().rows
        pair = [comparison(rows={label: rows[label] for label in ("reference", other)}) for other in ("shared", "other")]
        plan = Plan(pair)
        keys = [spec.key for spec in plan.trials()]
        assert len(keys) == len(set(keys)) == 6
        found = status(plan, suite="s", store=Store(tmp_path), slots=1)  # ends
        assert (found.wanted, found.left) == (6 + 8, 6 + 8)

    def test_final_runs_of_rows_whose_trials_are_recorded_count(self, tmp_path: Path) -> None:
        """After `run --only other` the runs of that row are done, whatever the other rows lack."""
        plan, store = Plan([comparison()]), Store(tmp_path)
        tried = {spec.key: trial(spec, 1.0) for spec in plan.trials() if spec.label == "other"}
        finals = plan.finals(tried)
        assert {(spec.label, spec.seed) for spec in finals} == {("other", 0), ("other", 1)}
        for one in (*tried.values(), *(trial(spec, 1.0) for spec in finals)):
            record(store, plan, one)
        found = status(plan, suite="s", store=store, slots=1)
        assert (found.wanted, found.ok, found.left) == (6 + 6, 3 + 2, 3 + 4)

    def test_the_time_left_goes_by_the_steps_of_similar_runs(self, tmp_path: Path) -> None:
        """Trials have 4 steps, final runs 8: their mean would be far off before any final run has ended."""
        plan, store = Plan([comparison()]), Store(tmp_path)
        tried = {spec.key: trial(spec, 1.0) for spec in plan.trials() if spec.label == "other"}
        for one in tried.values():
            record(store, plan, one.model_copy(update={"elapsed_s": 2.0}))
        # 0.5 s a step: three trials of the reference, six final runs
        assert status(plan, suite="s", store=store, slots=1).seconds == 3 * 4 * 0.5 + 6 * 8 * 0.5
        first = plan.finals(tried)[0]
        record(store, plan, trial(first, 1.0).model_copy(update={"elapsed_s": 16.0}))
        # the other final runs by that one's 2 s a step
        assert status(plan, suite="s", store=store, slots=2).seconds == (3 * 4 * 0.5 + 5 * 8 * 2.0) / 2

    def test_the_group_names_the_device(self) -> None:
        plan = Plan([comparison()], device="cuda")
        assert {(t.group, t.device) for t in plan.trials()} == {("g on GPU", "cuda")}
        finals = plan.finals(records(plan, {"reference": 0.2, "other": 0.01}))
        assert {(f.group, f.device) for f in finals} == {("g on GPU", "cuda")}


class TestRefusedBeforeARun:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rows": {"reference": ModelEntry(model=ComponentConfig(name="grru", settings={"width": 8}))}}, "did you mean 'gru'"),
            ({"rows": {"reference": ModelEntry(model=ComponentConfig(name="gru"))}}, "width"),
            (
                {"rows": {"reference": ModelEntry(model=ComponentConfig(name="gru", settings={"width": 8, "layer": 2}))}},
                "did you mean 'layers'",
            ),
            ({"task": ComponentConfig(name="copy", settings={"T": -1})}, "T"),
            ({"train": TrainConfig(steps=8, batch=4, learning_rate=0.5, carry=True)}, "carry"),
        ],
        ids=str,
    )
    def test_a_wrong_setting(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Plan([comparison(**changes)])

    def test_a_model_that_cannot_be_built(self) -> None:
        row = ModelEntry(model=ComponentConfig(name="user_models:FailingModel", settings={"width": 4, "how": "build"}))
        with pytest.raises(UserError, match="cannot be") as caught:
            Plan([comparison(rows={"reference": row})])
        assert "\n" not in str(caught.value)

    def test_a_batch_too_large_for_the_corpus(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("abcdefgh" * 100)
        text = ComponentConfig(name="text", settings={"data": "a", "length": 16})
        train = TrainConfig(steps=2, batch=100, learning_rate=0.1)
        with pytest.raises(UserError, match="batch size 100"):
            Plan([comparison(task=text, train=train, rows=ONE_ROW)], data={"a": tmp_path / "a.txt"})


class TestGroups:
    def test_two_headline_metrics_in_one_group_are_refused(self) -> None:
        other = ComponentConfig(name="user_models:Echo", settings={"headline": "loss"})
        with pytest.raises(UserError, match=r"group 'g' has two headline metrics, 'hits' and 'loss' \(of 'reference'\)"):
            Plan([comparison(rows=ONE_ROW), comparison(rows=ONE_ROW, task=other)])
        assert Plan([comparison(rows=ONE_ROW), comparison(rows=ONE_ROW, task=other, group="h")]).trials()

    def test_two_definitions_of_a_metric_in_one_group_are_refused(self) -> None:
        other = ComponentConfig(name="user_models:Echo", settings={"symbols": 7})
        with pytest.raises(UserError, match=r"group 'g' has two metrics 'hits', chance 0.2 and 0.14\d+ \(of 'reference'\)"):
            Plan([comparison(rows=ONE_ROW), comparison(rows=ONE_ROW, task=other)])
        assert Plan([comparison(rows=ONE_ROW), comparison(rows=ONE_ROW, task=other, group="h")]).trials()

    def test_rows_left_out_need_not_agree(self) -> None:
        other = RunSpec(
            group="g",
            label="other",
            model=ComponentConfig(name="gru", settings={"width": 16}),
            task=ComponentConfig(name="user_models:Echo", settings={"headline": "loss"}),
            train=TrainConfig(steps=1, batch=4, learning_rate=0.5),
            seed=0,
        )
        assert Plan([comparison(rows=ONE_ROW), other], only="other").finals({})
        with pytest.raises(UserError, match="two headline metrics"):
            Plan([comparison(rows=ONE_ROW), other])
