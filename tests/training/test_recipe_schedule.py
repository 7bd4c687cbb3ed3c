"""A recipe is applied at every step and leaves the model unchanged."""

from typing import Any, Literal

import pytest
import torch

from baselines import Unrolled
from bench.execution.plan import Plan
from bench.records.errors import UserError
from bench.records.record import Record
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Recipe, RunSpec, Settings, TrainConfig
from bench.suites.recipes import CAPPED_6_4
from bench.training.language_model import LanguageModel, build_model
from bench.training.recipe_schedule import RecipeSchedule, check_recipe
from bench.training.run import run
from deq import DEQ, Implicit, Stop

DEQ_MODEL = ComponentConfig(name="deq", settings={"cell": "mlp", "width": 8, "steps": 10, "rtol": 1e-4})
TASK = ComponentConfig(name="copy", settings={"T": 4, "test_samples": 16})


def model(**more: Any) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(ComponentConfig(name="deq", settings={**DEQ_MODEL.settings, **more}), 10)


def deqs(built: LanguageModel) -> list[DEQ]:
    return [module for module in built.core.modules() if isinstance(module, DEQ)]


def train(**more: Any) -> TrainConfig:
    return TrainConfig(**({"steps": 10, "batch": 4, "learning_rate": 1e-2, "evaluation_batch": 8} | more))


def go(recipe: Recipe | None, named: ComponentConfig = DEQ_MODEL, role: Literal["final", "trial"] = "final") -> Record:
    spec = RunSpec(group="g", label="l", role=role, model=named, task=TASK, train=train(), recipe=recipe, seed=0)
    return run(spec, suite="test")


def test_pretraining_unrolls_the_same_cell_and_ends_on_time() -> None:
    built = model()
    own = built.core
    schedule = RecipeSchedule(built, Recipe(pretrain_steps=3, pretrain_depth=2), 10)
    for step in range(10):
        schedule.set_step(step)
        if step < 3:
            assert isinstance(built.core, Unrolled)
            assert built.core.depth == 2
            assert built.core.cell is own.cell  # type: ignore[union-attr]
        else:
            assert built.core is own


def test_pretraining_reaches_every_layer_of_a_stack() -> None:
    built = model(layers=2)
    cells = [layer.cell for layer in deqs(built)]
    RecipeSchedule(built, Recipe(pretrain_steps=1), 10).set_step(0)
    assert not deqs(built)
    assert [module.cell for module in built.core.modules() if isinstance(module, Unrolled)] == cells
    assert built.core(built.embedding(torch.zeros(2, 5, dtype=torch.long))).y.shape == (2, 5, 8)


def test_pretraining_only_equals_training_the_unrolled_network() -> None:
    shallow = go(Recipe(pretrain_steps=10, pretrain_depth=3))
    tied = go(None, ComponentConfig(name="tied", settings={"cell": "mlp", "width": 8, "depth": 3}), "trial")
    assert shallow.status == tied.status == "ok"
    assert [point.train_loss for point in shallow.curve] == [point.train_loss for point in tied.curve]
    assert all(point.forward_nfe is None for point in shallow.curve)
    assert shallow.value("eval_forward_nfe_mean") is not None  # what is tested is the DEQ


def test_a_tied_network_may_be_shallow_at_first() -> None:
    deep, shallow = (ComponentConfig(name="tied", settings={"cell": "mlp", "width": 8, "depth": depth}) for depth in (6, 3))
    grown, known = go(Recipe(pretrain_steps=10, pretrain_depth=3), deep), go(None, shallow)
    assert grown.status == known.status == "ok"
    assert [point.train_loss for point in grown.curve] == [point.train_loss for point in known.curve]
    assert grown.value("test_loss") != known.value("test_loss")  # what is tested is the deep one
    assert grown.value("train_step_flops") > 1.5 * known.value("train_step_flops")  # type: ignore[operator]


def test_tolerance_and_cap_change_from_the_recipes_to_the_models() -> None:
    built = model()
    schedule = RecipeSchedule(built, Recipe(rtol=1e-2, steps=4), 11)
    (layer,) = deqs(built)
    seen = []
    for step in range(11):
        schedule.set_step(step)
        seen.append((layer.stop.rtol, layer.stop.max_steps))
    assert seen[0] == (pytest.approx(1e-2), 4)
    assert seen[5] == (pytest.approx(1e-3), 7)
    assert seen[10] == (pytest.approx(1e-4), 10)
    assert layer.evaluation_stop.max_steps == 10


def test_held_caps_apply_for_their_share_and_then_the_models() -> None:
    built = model(backward_steps=9)
    schedule = RecipeSchedule(built, CAPPED_6_4, 11)
    (layer,) = deqs(built)
    seen = []
    for step in range(11):
        schedule.set_step(step)
        assert isinstance(layer.adjoint, Implicit)
        seen.append((layer.stop.max_steps, layer.adjoint.stop.max_steps, layer.stop.rtol, layer.adjoint.stop.rtol))
    assert seen == 8 * [(6, 4, 1e-4, 1e-3)] + 3 * [(10, 9, 1e-4, 1e-3)]


@pytest.mark.parametrize(
    ("settings", "recipe", "phase", "last"),
    [
        ({"backward_rtol": 1e-9, "backward_steps": 8}, Recipe(backward_steps=2), "backward_nfe", 8),
        ({"rtol": 1e-9}, Recipe(steps=2), "forward_nfe", 10),
    ],
)
def test_a_cap_without_hold_changes_linearly_in_the_solves(settings: Settings, recipe: Recipe, phase: str, last: int) -> None:
    named = ComponentConfig(name="deq", settings={**DEQ_MODEL.settings, **settings})
    counts = [getattr(point, phase) for point in go(recipe, named, "trial").curve]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (2, last)


GRU = ComponentConfig(name="gru", settings={"width": 8})
PHANTOM = ComponentConfig(name="deq", settings={"cell": "mlp", "width": 8, "adjoint": "phantom"})
TIED = ComponentConfig(name="tied", settings={"cell": "mlp", "width": 8, "depth": 4})
TRELLIS: Settings = {"width": 8, "depth": 4}


@pytest.mark.parametrize(
    ("named", "recipe", "message"),
    [
        (PHANTOM, Recipe(hold=0.5), "none is given"),
        (PHANTOM, Recipe(backward_steps=2), "solves for its"),
        (DEQ_MODEL, Recipe(auxiliary=0.1), "no effect on this DEQ; it is for trellisnet with auxiliary_every from 1 to depth - 1"),
        (DEQ_MODEL, Recipe(jacobian_probability=0.5), "for a jacobian, which is 0"),
        (GRU, Recipe(auxiliary=0.1), "no effect on this Recurrent"),
        (GRU, Recipe(pretrain_steps=1), "the model has none"),
        (TIED, Recipe(pretrain_steps=1, steps=3), "steps is for a DEQ"),
        (ComponentConfig(name="trellisnet", settings=TRELLIS), Recipe(pretrain_steps=1), "the model has none"),
        (GRU, Recipe(jacobian=1.0), "the model has none"),
        (GRU, Recipe(steps=3), "the model has none"),
        (GRU, Recipe(rtol=1e-2), "the model has none"),
        (ComponentConfig(name="trellisnet", settings=TRELLIS), Recipe(auxiliary=0.1), "no effect on this TrellisNet"),
        (ComponentConfig(name="trellisnet", settings={**TRELLIS, "auxiliary_every": 4}), Recipe(auxiliary=0.1), "this TrellisNet"),
        (ComponentConfig(name="user_models:Averages", settings={"width": 8}), Recipe(auxiliary=0.1), "no effect on this Averages"),
    ],
)
def test_a_part_of_a_recipe_without_effect_is_refused(named: ComponentConfig, recipe: Recipe, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_recipe(named, recipe, 10)


def test_a_plan_and_a_run_refuse_it_too() -> None:
    recipe = Recipe(steps=3)
    spec = RunSpec(group="g", label="l", model=GRU, task=TASK, train=train(), recipe=recipe, seed=0)
    with pytest.raises(UserError, match="the model has none"):
        Plan([spec])
    with pytest.raises(UserError, match="the model has none"):
        Plan([comparison(GRU, recipe)])
    with pytest.raises(UserError, match="the model has none"):
        run(spec, suite="test")


def comparison(named: ComponentConfig, recipe: Recipe) -> Comparison:
    return Comparison(
        group="g",
        task=TASK,
        train=train(),
        rows={"row": ModelEntry(model=named, recipe=recipe)},
        reference="row",
        learning_rates=(1e-2, 2e-2),
        trial_steps=5,
        seeds=(0,),
    )


def test_a_users_core_with_auxiliary_features_may_be_supervised() -> None:
    spec = RunSpec(
        group="g",
        label="l",
        model=ComponentConfig(name="user_models:Supervised", settings={"width": 8}),
        task=TASK,
        train=train(),
        recipe=Recipe(auxiliary=0.1),
        seed=0,
    )
    assert Plan([spec]).wanted() == 1


def test_the_jacobian_weight_changes_linearly() -> None:
    built = model()
    schedule = RecipeSchedule(built, Recipe(jacobian=1.0, jacobian_final=3.0, jacobian_probability=0.5), 5)
    (layer,) = deqs(built)
    for step, weight in enumerate((1.0, 1.5, 2.0, 2.5, 3.0)):
        schedule.set_step(step)
        assert layer.jacobian is not None
        assert layer.jacobian.weight == pytest.approx(weight)
        assert layer.jacobian.probability == 0.5


SUPERVISED = ComponentConfig(name="trellisnet", settings={**TRELLIS, "auxiliary_every": 2})


@pytest.mark.parametrize(("named", "recipe"), [(DEQ_MODEL, Recipe(jacobian=100.0)), (SUPERVISED, Recipe(auxiliary=1.0))])
def test_a_penalty_changes_the_training_and_not_the_reported_loss_at_the_first_step(named: ComponentConfig, recipe: Recipe) -> None:
    plain, empty, penalised = ([p.train_loss for p in go(each, named, "trial").curve] for each in (None, Recipe(), recipe))
    assert plain == empty
    assert plain[0] == penalised[0]
    assert plain[-1] != penalised[-1]


def test_restore_sets_core_stops_and_adjoints() -> None:
    built = model()
    own, stops = built.core, [(layer.stop, layer.adjoint) for layer in deqs(built)]
    schedule = RecipeSchedule(built, Recipe(pretrain_steps=9, rtol=1e-1, steps=2, backward_steps=2), 10)
    schedule.set_step(0)
    schedule.restore()
    assert built.core is own
    assert [(layer.stop, layer.adjoint) for layer in deqs(built)] == stops


def test_stops_that_the_recipe_does_not_schedule_are_unchanged() -> None:
    built = model()
    schedule = RecipeSchedule(built, Recipe(jacobian=0.1), 10)
    (layer,) = deqs(built)
    layer.stop = Stop(max_steps=3)
    schedule.set_step(0)
    schedule.restore()
    assert layer.stop == Stop(max_steps=3)


def test_trials_shrink_the_pretraining_with_the_training() -> None:
    trials = Plan([comparison(DEQ_MODEL, Recipe(pretrain_steps=4, jacobian=0.5))]).trials()
    assert [trial.recipe for trial in trials] == [Recipe(pretrain_steps=2, jacobian=0.5)] * 2


def test_force_penalty_sets_the_probability_to_one() -> None:
    built = model()
    schedule = RecipeSchedule(built, Recipe(jacobian=1.0, jacobian_probability=0.2), 10)
    schedule.set_step(9)
    assert [layer.jacobian.probability for layer in deqs(built) if layer.jacobian] == [0.2]
    schedule.force_penalty()
    assert [(layer.jacobian.probability, layer.jacobian.weight) for layer in deqs(built) if layer.jacobian] == [(1.0, 1.0)]


def test_the_gradient_of_equilibrium_propagation_converges_to_the_implicit_one_with_beta() -> None:
    settings = {"cell": "energy", "width": 8, "adjoint": "propagation", "solver": "picard", "steps": 40}
    probe = go(None, ComponentConfig(name="deq", settings=settings)).probes["gradient_by_beta"]
    for symmetric, order in ((True, 2), (False, 1)):
        found = {p["beta"]: p["distance"] for p in probe if p["symmetric"] is symmetric}
        assert 0.5 * 10**order < found[0.1] / found[0.01] < 2 * 10**order
    assert "gradient_by_beta" not in go(None).probes
