"""Every registry entry builds and trains, wrong names and settings are refused in one helpful line, a user's classes work."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.execution.plan import Plan
from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.training.language_model import build_model, count_parameters
from bench.training.registry import ADJOINTS, MODELS, TASKS, build_core, build_task
from bench.training.run import run
from deq import CELLS, DEQ, SOLVERS, Core, Implicit, Phantom, Unroll

ECHO = ComponentConfig(name="user_models:Echo")


def model(name: str, **settings: Any) -> ComponentConfig:
    return ComponentConfig(name=name, settings={key.replace("__", "."): value for key, value in settings.items()})


def refused(make: Any, *messages: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    for part in messages:
        assert part in text


def small(core: str, settings: Settings | None = None) -> Core:
    return build_core(ComponentConfig(name=core, settings=settings or {}), 8, 8)


NEEDS: dict[str, Settings] = {
    "propagation": {"cell": "energy"},
    "shine": {"solver": "broyden"},
    "reverse": {"solver": "reversible"},
}
COMBINATIONS: list[tuple[str, Settings]] = [
    *(("deq", {"cell": cell, "solver": solver}) for cell in CELLS for solver in SOLVERS),
    *(("deq", {"cell": "mlp", "solver": "picard", "adjoint": adjoint, **NEEDS.get(adjoint, {})}) for adjoint in ADJOINTS),
    (
        "deq",
        {"cell": "mlp", "solver": "broyden", "adjoint": "shine", "adjoint.refine": 3, "backward_steps": 2, "backward_rtol": 1e-2},
    ),
    *(("tied", {"cell": cell, "checkpointing": how}) for cell in CELLS for how in ("none", "every", "sqrt")),
    *((name, {}) for name in MODELS if name not in ("deq", "tied")),
    ("lstm", {"layers": 2}),
]


class TestEntries:
    @pytest.mark.parametrize(("name", "settings"), COMBINATIONS, ids=str)
    def test_builds_runs_and_trains(self, name: str, settings: Settings) -> None:
        core = small(name, settings)
        x = torch.randn(2, 5, 8)
        output = core(x)
        assert output.y.shape == (2, 5, core.width)
        output.y.square().sum().backward()
        gradients = [parameter.grad for parameter in core.parameters()]
        assert gradients
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)

    @pytest.mark.parametrize("name", [name for name in TASKS if name != "text"])
    def test_a_task_serves_batches(self, name: str) -> None:
        task = build_task(ComponentConfig(name=name), {})
        inputs, targets = next(task.batches("train", 2, 0))
        assert inputs.shape == targets.shape == (2, task.length)
        assert task.headline in task.metrics

    def test_settings_are_passed_on(self) -> None:
        core = small(
            "deq",
            {
                "cell": "transformer",
                "cell.heads": 2,
                "solver": "anderson",
                "solver.window": 3,
                "rtol": 0.1,
                "steps": 7,
                "backward_solver": "picard",
                "backward_solver.relaxation": 0.25,
                "backward_rtol": 0.2,
                "backward_steps": 9,
                "evaluation_rtol": 0.01,
                "evaluation_steps": 11,
                "check_every": 4,
            },
        )
        assert isinstance(core, DEQ)
        assert (core.stop.rtol, core.stop.max_steps) == (0.1, 7)
        assert (core.evaluation_stop.rtol, core.evaluation_stop.max_steps) == (0.01, 11)
        assert core.cell.heads == 2
        assert core.solver == SOLVERS["anderson"](window=3)
        assert isinstance(core.adjoint, Implicit)
        assert core.adjoint.solver == SOLVERS["picard"](relaxation=0.25)
        assert (core.adjoint.stop.rtol, core.adjoint.stop.max_steps) == (0.2, 9)
        assert {stop.check_every for stop in (core.stop, core.evaluation_stop, core.adjoint.stop)} == {4}

    def test_defaults_are_what_the_signature_says(self) -> None:
        core = small("deq", {"cell": "mlp"})
        assert isinstance(core, DEQ)
        assert core.evaluation_stop == core.stop
        assert isinstance(core.adjoint, Implicit)
        assert core.adjoint.solver == core.solver

    def test_other_adjoints_take_their_settings(self) -> None:
        core = small("deq", {"cell": "mlp", "adjoint": "phantom", "adjoint.steps": 3, "adjoint.relaxation": 0.5})
        assert isinstance(core, DEQ)
        assert core.adjoint == Phantom(steps=3, relaxation=0.5)
        core = small("deq", {"cell": "mlp", "adjoint": "unroll", "solver": "picard"})
        assert isinstance(core, DEQ)
        assert isinstance(core.adjoint, Unroll)

    def test_the_count_is_that_of_the_real_model(self) -> None:
        for name, settings in COMBINATIONS:
            chosen = ComponentConfig(name=name, settings={**settings, "width": 8})
            real = sum(p.numel() for p in build_model(chosen, 11).parameters())
            assert count_parameters(chosen, 11) == real


class TestWrong:
    @pytest.mark.parametrize(
        ("name", "settings", "messages"),
        [
            ("deqq", {}, ["unknown model 'deqq'", "did you mean 'deq'?"]),
            ("deq", {"solver": "andersen"}, ["unknown solver 'andersen'", "did you mean 'anderson'?"]),
            ("deq", {"cell": "transfomer"}, ["unknown cell 'transfomer'", "did you mean 'transformer'?"]),
            ("deq", {"cell": "mlp", "adjoint": "implict"}, ["unknown adjoint 'implict'", "did you mean 'implicit'?"]),
            ("deq", {"backward_solver": "pickard"}, ["unknown backward solver 'pickard'", "did you mean 'picard'?"]),
            ("deq", {"step": 3}, ["'step'", "did you mean 'steps'?"]),
            ("deq", {"cell": "transformer", "cell.head": 2}, ["'head'", "did you mean 'heads'?"]),
            ("deq", {"cell": "mlp", "solver.windows": 2}, ["'windows'", "did you mean 'window'?"]),
            ("deq", {"cell": "mlp", "solvers.window": 2}, ["'solvers.window'"]),
            ("deq", {"cell": "mlp", "adjoint.steps": 2}, ["adjoint", "no settings", "'steps'"]),
            ("deq", {"cell": "mlp", "steps": "3"}, ["'steps'", "got '3'"]),
            ("deq", {"cell": "mlp", "steps": 3.5}, ["'steps'", "got 3.5"]),
            ("deq", {"cell": "mlp", "steps": True}, ["'steps'", "got True"]),
            ("deq", {"cell": "mlp", "steps": None}, ["'steps'", "got None"]),
            ("deq", {"cell": "mlp", "rtol": "tight"}, ["'rtol'", "got 'tight'"]),
            ("deq", {"cell": 3}, ["'cell'", "got 3"]),
            ("deq", {"cell": "mlp", "steps": 0}, ["max_steps", "0"]),
            ("deq", {"cell": "mlp", "rtol": -1.0}, ["rtol", "-1"]),
            ("deq", {"cell": "mlp", "evaluation_steps": 0}, ["0"]),
            ("deq", {"cell": "transformer", "cell.heads": 3}, ["heads 3"]),
            ("deq", {"cell": "mlp", "adjoint": "unroll", "solver": "anderson"}, ["Unroll", "Picard"]),
            ("deq", {"cell": "mlp", "adjoint": "phantom", "adjoint.steps": 0}, ["steps", "0"]),
            ("deq", {"cell": "mlp", "adjoint": "phantom", "backward_steps": 4}, ["backward_steps"]),
            (
                "deq",
                {"cell": "mlp", "adjoint": "shine", "solver": "broyden", "backward_steps": 4},
                ["backward_steps", "nothing back"],
            ),
            (
                "deq",
                {"cell": "mlp", "adjoint": "shine", "adjoint.refine": 4, "solver": "broyden", "backward_solver": "picard"},
                ["backward_solver", "has no backward solver"],
            ),
            ("deq", {"cell": "mlp", "adjoint": "shine"}, ["Shine", "Broyden's method", "Anderson"]),
            (
                "deq",
                {"cell": "mlp", "adjoint": "shine", "solver": "broyden", "steps": 40},
                ["Shine", "a window for all 39 steps", "got 30"],
            ),
            ("tied", {"checkpointing": "some"}, ["checkpointing", "'some'"]),
            ("tied", {"depth": 0}, ["depth", "0"]),
            ("lstm", {"depth": 2}, ["'depth'", "layers"]),
            ("lstm", {"cell.heads": 2}, ["'cell.heads'"]),
            ("gru", {"layers": 0}, ["layers", "0"]),
            ("deq", {"solver": "bench.examples.my_cell:Gate"}, ["solver 'bench.examples.my_cell:Gate' is a cell"]),
            ("deq", {"cell": "user_models:Averages"}, ["cell 'user_models:Averages' is a model"]),
            ("bench.examples.my_cell:Gate", {}, ["is a cell", "`cell` of model 'deq'"]),
        ],
        ids=str,
    )
    def test_a_model_is_refused_in_one_helpful_line(self, name: str, settings: Settings, messages: list[str]) -> None:
        refused(lambda: small(name, settings), *messages)

    @pytest.mark.parametrize(
        ("settings", "messages"),
        [
            ({}, ["width", "None"]),
            ({"width": 0}, ["width", "0"]),
            ({"width": 8.0}, ["width", "8.0"]),
            ({"width": True}, ["width", "True"]),
            ({"width": 8, "inputs": 4}, ["inputs (4)", "width (8)"]),
        ],
        ids=str,
    )
    def test_a_width_is_a_positive_integer(self, settings: Settings, messages: list[str]) -> None:
        refused(lambda: build_model(ComponentConfig(name="deq", settings=settings), 5), *messages)

    @pytest.mark.parametrize(
        ("task", "messages"),
        [
            (ComponentConfig(name="copi"), ["unknown task 'copi'", "did you mean 'copy'?"]),
            (ComponentConfig(name="copy", settings={"t": 3}), ["task 'copy' setting 't'", "Allowed", "T"]),
            (ComponentConfig(name="copy", settings={"T": 0}), ["T", "0"]),
            (ComponentConfig(name="copy", settings={"T": 3.0}), ["'T'", "got 3.0"]),
            (ComponentConfig(name="copy", settings={"delimiter": "none"}), ["delimiter", "none"]),
            (ComponentConfig(name="text"), ["needs the setting 'data'"]),
            (ComponentConfig(name="text", settings={"data": "wiki"}), ["'wiki'", "--data wiki=PATH"]),
        ],
        ids=str,
    )
    def test_a_task_is_refused_in_one_helpful_line(self, task: ComponentConfig, messages: list[str]) -> None:
        refused(lambda: build_task(task, {}), *messages)

    def test_an_integer_is_a_number(self) -> None:
        core = small("deq", {"cell": "mlp", "rtol": 1})
        assert isinstance(core, DEQ)
        assert core.stop.rtol == 1


class TestDottedPaths:
    @pytest.mark.parametrize(
        ("path", "messages"),
        [
            ("no_such_module_at_all:Thing", ["cannot be imported", "no_such_module_at_all"]),
            ("user_models:Nothing", ["cannot be imported", "Nothing"]),
            ("user_models:Averages.nothing", ["cannot be imported", "nothing"]),
            ("user_models:", ["user_models:"]),
            (":Averages", [":Averages"]),
            ("..user_models:Averages", ["user_models:Averages"]),
            ("user_models:NUMBER", ["not a class or a function"]),
            ("user_models:no_core", ["made a Linear", "Core"]),
            ("user_models:takes_nothing", ["takes_nothing"]),
            ("user_models:Echo", ["user_models:Echo"]),
            ("math:sqrt", ["math:sqrt"]),
            ("builtins:dict", ["builtins:dict"]),
            ("builtins:int", ["builtins:int"]),
        ],
        ids=lambda value: str(value) if isinstance(value, str) else "",
    )
    def test_an_object_that_is_not_a_model_is_refused(self, path: str, messages: list[str]) -> None:
        refused(lambda: small(path), *messages)

    @pytest.mark.parametrize("path", ["math:sqrt", "builtins:dict", "user_models:Averages", "user_models:no_core"])
    def test_an_object_that_is_not_a_task_is_refused(self, path: str) -> None:
        refused(lambda: build_task(ComponentConfig(name=path), {}), path)

    @pytest.mark.parametrize("kind", ["cell", "solver", "backward_solver"])
    @pytest.mark.parametrize("path", ["math:sqrt", "builtins:dict", "user_models:Averages", "user_models:Echo"])
    def test_an_object_that_is_not_a_cell_or_solver_is_refused(self, kind: str, path: str) -> None:
        refused(lambda: small("deq", {"cell": "mlp", kind: path}), path)

    @pytest.mark.parametrize("code", ["raise RuntimeError('first\\nsecond')", "def (", "import no_such_module_at_all", "1 / 0"])
    def test_a_module_that_fails_is_refused_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        name = f"broken_{abs(hash(code))}"
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        refused(lambda: small(f"{name}:Model"), f"{name}:Model")
        sys.modules.pop(name, None)

    def test_a_setting_that_is_not_keyword_only_is_refused(self) -> None:
        refused(lambda: small("user_models:positional", {"scale": 2.0}), "scale", "keyword")

    def test_annotations_may_be_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "annotated.py").write_text(
            "from __future__ import annotations\n"
            "from typing import Literal\n"
            "from user_models import Averages\n"
            "Size = Literal['small', 'large']\n"
            "class Annotated(Averages):\n"
            "    def __init__(self, *, inputs: int, width: int, size: Size = 'small', scale: float = 1.0) -> None:\n"
            "        super().__init__(inputs=inputs, width=width, scale=scale)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        core: Any = small("annotated:Annotated", {"size": "large", "scale": 2})
        assert core.scale == 2
        refused(lambda: small("annotated:Annotated", {"size": "huge"}), "size", "'huge'")
        refused(lambda: small("annotated:Annotated", {"scale": "2"}), "scale", "'2'")

    def test_a_model_that_reads_its_weights_can_be_counted(self) -> None:
        assert count_parameters(model("user_models:ReadsWeights", width=4), 5) == 5 * 4 + (8 * 4 + 4) + (4 * 5 + 5)

    def test_a_task_whose_headline_is_no_metric_is_refused(self) -> None:
        refused(lambda: build_task(model("user_models:Echo", headline="nothing"), {}), "headline", "nothing")


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "chosen",
    [
        model("user_models:Averages", width=4, scale=0.5),
        model("deq", cell="user_models:Shift", cell__gain=0.4, solver="user_models:Halfway", solver__share=0.9, width=4),
        model("tied", cell="user_models:Shift", depth=3, width=4),
    ],
    ids=lambda chosen: chosen.name,
)
def test_a_users_own_model_cell_solver_and_task_work_end_to_end(chosen: ComponentConfig) -> None:
    train = TrainConfig(steps=3, batch=4, learning_rate=0.05, evaluation_batch=8)
    plan = Plan([RunSpec(group="mine", label="own", model=chosen, task=ECHO, train=train, seed=0)])
    (spec,) = plan.finals({})
    record = run(spec, suite="mine")
    assert (record.status, record.reason) == ("ok", None)
    assert record.headline == "hits"
    assert record.value("test_hits") is not None
    assert record.identity == plan.identity(spec, record.environment)
    if chosen.name == "deq":
        assert record.value("train_forward_nfe_mean") is not None
