"""RunSpec keys, and the validation of RunSpec and Comparison."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from running import IDENTITY

from bench.execution.suite_loading import readable
from bench.records.errors import UserError
from bench.records.record import Measure, Record, read_record, write_record
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, RunSpec, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "group": "copy T=20",
    "label": "DEQ (Anderson)",
    "role": "final",
    "model": {"name": "deq", "settings": {"width": 8, "rtol": 0.001, "cell": "mlp", "backward_solver": None, "flag": True}},
    "task": {"name": "copy", "settings": {"T": 3}},
    "train": {"steps": 4, "batch": 2, "learning_rate": 0.01},
    "seed": 3,
}


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate(SMALL | changes)


def comparison(**changes: Any) -> Comparison:
    fields: dict[str, Any] = {
        "group": "g",
        "task": ComponentConfig(name="copy"),
        "train": TrainConfig(steps=4, batch=2, learning_rate=0.01),
        "rows": {
            "a": ModelEntry(model=ComponentConfig(name="gru", settings={"width": 8})),
            "b": ModelEntry(model=ComponentConfig(name="gru"), like="a"),
        },
        "reference": "a",
        "learning_rates": (0.01, 0.1),
        "trial_steps": 2,
        "seeds": (0, 1),
    }
    return Comparison(**(fields | changes))


class TestRunId:
    def test_is_the_same_in_every_process_whatever_the_hash_seed(self) -> None:
        code = f"from bench.records.spec import RunSpec; print(RunSpec.model_validate({SMALL!r}).key)"
        environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
        assert found.stdout.strip() == spec().key

    def test_does_not_depend_on_the_order_of_keys(self) -> None:
        def turned(value: Any) -> Any:
            return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

        assert spec().key == RunSpec.model_validate(turned(SMALL)).key

    def test_survives_json(self) -> None:
        again = RunSpec.model_validate_json(spec().model_dump_json())
        assert again == spec()
        assert again.key == spec().key
        assert [type(value) for value in again.model.settings.values()] == [int, float, str, type(None), bool]

    @given(st.dictionaries(st.text(min_size=1, max_size=5), st.booleans() | st.integers() | st.floats(allow_nan=False), max_size=3))
    def test_survives_json_whatever_the_settings(self, chosen: dict[str, Any]) -> None:
        try:
            one = spec(model={"name": "deq", "settings": chosen})
        except ValidationError:
            assert any(value in (float("inf"), float("-inf")) for value in chosen.values())
            return
        assert RunSpec.model_validate_json(one.model_dump_json()).key == one.key
        assert RunSpec.model_validate(json.loads(json.dumps(one.model_dump(mode="json")))).key == one.key

    @pytest.mark.parametrize(
        "change",
        [
            {"group": "copy T=21"},
            {"label": "DEQ (Broyden)"},
            {"role": "trial"},
            {"model": {"name": "tied", "settings": SMALL["model"]["settings"]}},
            {"model": {"name": "deq", "settings": {**SMALL["model"]["settings"], "rtol": 0.0010000001}}},
            {"model": {"name": "deq", "settings": {**SMALL["model"]["settings"], "flag": False}}},
            {"task": {"name": "copy", "settings": {"T": 4}}},
            {"seed": 4},
            {"device": "cuda"},
            {"threads": 2},
            {"parameters": 100},
            {"depths": [2]},
            {"trials": ["x"]},
            {"recipe": {"auxiliary": 0.1}},
            {"processes": 2},
            {"limits": {"seconds": 5.0}},
            *(
                {"train": SMALL["train"] | one}
                for one in (
                    {"steps": 5},
                    {"batch": 3},
                    {"learning_rate": 0.02},
                    {"warmup": 1},
                    {"clip": None},
                    {"clip": 2.0},
                    {"weight_decay": 0.1},
                    {"evaluate_every": 2},
                    {"evaluation_batch": 64},
                    {"carry": True},
                    {"optimiser": "sgd"},
                    {"halve_from": 1},
                    {"halve_every": 1},
                )
            ),
        ],
        ids=str,
    )
    def test_changes_with_every_field(self, change: dict[str, Any]) -> None:
        assert spec(**change).key[-12:] != spec().key[-12:]

    def test_every_field_is_tried_above(self) -> None:
        assert set(RunSpec.model_fields) == {
            *SMALL,
            "device",
            "threads",
            "parameters",
            "depths",
            "trials",
            "recipe",
            "processes",
            "limits",
            "expected",  # is no part of it
        }

    def test_what_a_suite_expects_is_no_part_of_it(self) -> None:
        assert RunSpec(**SMALL, expected="oom").key == RunSpec(**SMALL).key
        tried = {"steps", "batch", "learning_rate", "warmup", "clip", "weight_decay", "evaluate_every", "evaluation_batch", "carry"}
        assert set(TrainConfig.model_fields) == tried | {"optimiser", "halve_from", "halve_every"}

    @given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ().,=_+-]{0,30}", fullmatch=True), st.integers(0, 10**6))
    def test_is_safe_as_a_file_name(self, text: str, seed: int) -> None:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*-s\d+-[0-9a-f]{12}", spec(group=text, label=text, seed=seed).key)

    def test_differs_where_only_the_case_of_a_label_does(self) -> None:
        assert spec(label="GRU").key.lower() != spec(label="gru").key.lower()

    def test_is_short_enough_for_a_file_name_or_the_spec_is_refused(self, tmp_path: Path) -> None:
        try:
            long = spec(group="g" * 250)
        except ValidationError:
            return
        record = Record(run_id=IDENTITY.run_id(long.key), suite="s", spec=long, identity=IDENTITY, status="ok", measures={})
        write_record(tmp_path / f"{record.run_id}.json", record)
        assert read_record(tmp_path / f"{record.run_id}.json") == record


class TestValidation:
    @pytest.mark.parametrize(
        "text", ["", " a", "../up", "a/b", "a\\b", "-x", ".x", "a\n", "a\0", "a|b", "<b>", "é", "a$", "`a`", "a:b"]
    )
    @pytest.mark.parametrize("field", ["group", "label"])
    def test_a_hostile_name_is_refused(self, field: str, text: str) -> None:
        with pytest.raises(ValidationError, match=field):
            spec(**{field: text})

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": -1},
            {"threads": 0},
            {"device": "tpu"},
            {"role": "other"},
            {"parameters": 0},
            {"train": SMALL["train"] | {"learning_rate": 0}},
            {"train": SMALL["train"] | {"learning_rate": float("nan")}},
            {"train": SMALL["train"] | {"learning_rate": float("inf")}},
            {"train": SMALL["train"] | {"steps": 0}},
            {"train": SMALL["train"] | {"batch": 0}},
            {"train": SMALL["train"] | {"clip": 0}},
            {"train": SMALL["train"] | {"warmup": -1}},
            {"model": {"name": "deq", "settings": {"a": [1]}}},
            {"model": {"name": "deq", "settings": {"a": float("nan")}}},
        ],
        ids=str,
    )
    def test_a_value_out_of_range_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            spec(**change)

    @pytest.mark.parametrize("depth", [0, -1])
    def test_a_depth_below_one_is_refused_before_it_costs_a_training(self, depth: int) -> None:
        with pytest.raises(ValidationError):
            spec(depths=[depth])

    def test_is_frozen(self) -> None:
        one = spec()
        for thing, field in ((one, "seed"), (one.train, "steps"), (one.model, "name")):
            with pytest.raises(ValidationError):
                setattr(thing, field, 9)

    def test_does_not_share_settings_with_whoever_made_it(self) -> None:
        settings: dict[str, Any] = {"width": 8}
        one = ComponentConfig(name="gru", settings=settings)
        settings["width"] = 9
        assert one.settings == {"width": 8}

    @pytest.mark.parametrize(
        ("make", "wrong", "right"),
        [
            (lambda: spec(sede=1), "sede", "seed"),
            (lambda: TrainConfig(steps=1, batch=1, learning_rate=0.1, warm_up=1), "warm_up", "warmup"),  # type: ignore[call-arg]
            (lambda: ComponentConfig(name="gru", setings={}), "setings", "settings"),  # type: ignore[call-arg]
            (lambda: ModelEntry(model=ComponentConfig(name="gru"), lik="a"), "lik", "like"),  # type: ignore[call-arg]
            (lambda: comparison(learning_rate=(0.1,)), "learning_rate", "learning_rates"),
        ],
    )
    def test_an_unknown_field_is_named_with_the_nearest_one(self, make: Any, wrong: str, right: str) -> None:
        with pytest.raises(ValidationError) as caught:
            make()
        text = readable(caught.value)
        assert f"{wrong!r}" in text
        assert f"did you mean {right!r}?" in text
        assert "\n" not in text


class TestComparison:
    def test_a_sound_one_stands(self) -> None:
        assert comparison().trial_seed not in comparison().seeds

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"reference": "c"}, "reference 'c' is not a row; rows: a, b"),
            ({"seeds": (0, 1000)}, "trial seed 1000 is also a final seed"),
            ({"seeds": ()}, "seeds"),
            ({"learning_rates": ()}, "learning_rates"),
            ({"trial_steps": 0}, "trial_steps"),
            ({"rows": {"a": ModelEntry(model=ComponentConfig(name="gru"), like="nobody")}}, "row 'a' is like 'nobody'"),
            ({"rows": {"a": ModelEntry(model=ComponentConfig(name="gru"), like="a")}}, "row 'a' is like 'a'"),
            (
                {
                    "rows": {
                        "a": ModelEntry(model=ComponentConfig(name="gru")),
                        "b": ModelEntry(model=ComponentConfig(name="gru"), like="a"),
                        "c": ModelEntry(model=ComponentConfig(name="gru"), like="b"),
                    }
                },
                "row 'c' is like 'b'",
            ),
        ],
    )
    def test_a_broken_one_is_refused(self, change: dict[str, Any], text: str) -> None:
        with pytest.raises(ValidationError, match=re.escape(text)):
            comparison(**change)

    @pytest.mark.parametrize(
        "change",
        [
            {"group": "../up"},
            {"rows": {"a/b": ModelEntry(model=ComponentConfig(name="gru", settings={"width": 8}))}, "reference": "a/b"},
            {"seeds": (-1,)},
            {"trial_seed": -1},
            {"learning_rates": (0.01, -0.1)},
            {"learning_rates": (0.01,), "widen": 1},
            {"learning_rates": (0.01, 0.0)},
            {"depths": (0,)},
        ],
        ids=str,
    )
    def test_what_no_spec_may_hold_is_refused_at_once_not_after_the_trials(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            comparison(**change)

    @pytest.mark.parametrize("change", [{"seeds": (0, 0)}, {"learning_rates": (0.01, 0.01)}], ids=str)
    def test_nothing_is_named_twice(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            comparison(**change)

    def test_a_complaint_about_the_whole_does_not_print_the_whole(self) -> None:
        with pytest.raises(ValidationError) as caught:
            comparison(seeds=(0, 1000))
        assert len(readable(caught.value)) < 200
        assert isinstance(UserError(readable(caught.value)), Exception)


def test_a_measure_and_a_record_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Measure(value=1, unit="1", method="m", scope="s").value = 2  # type: ignore[misc]
