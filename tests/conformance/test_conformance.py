"""Every solver, every cell and every core against its contract, from the registries: every registered class is tested."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from cases import few
from torch import Tensor

from baselines import NeuralODE, Unrolled
from bench.conformance.cells import CELL
from bench.conformance.common import future_leak
from bench.conformance.models import MODEL
from bench.conformance.result import Check, Result, run_checks
from bench.conformance.solvers import SOLVER
from bench.conformance.subject import Subject
from bench.records.spec import ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.training.language_model import LanguageModel, build_model, count_parameters
from bench.training.registry import ADJOINTS, MODELS, TASKS, build_core
from bench.training.run import run
from deq import (
    CELLS,
    DEQ,
    SOLVERS,
    Cell,
    Core,
    EnergyCell,
    EquilibriumPropagation,
    Implicit,
    MLPCell,
    Stop,
    TransformerCell,
    TransformerXLCell,
)

pytestmark = pytest.mark.end_to_end

D, T, B = 8, 6, 3


def transformer(memory_length: int = 4) -> TransformerCell:
    return TransformerCell(width=D, heads=2, memory_length=memory_length)


def transformer_xl(memory_length: int = 4) -> TransformerXLCell:
    return TransformerXLCell(width=D, heads=2, memory_length=memory_length)


def equilibrium(solver: str, cell: Callable[[], Cell]) -> Callable[[], Core]:
    return lambda: DEQ(cell(), solver=SOLVERS[solver](), stop=Stop(), adjoint=Implicit(solver=SOLVERS[solver]()))


CELL_MAKERS: dict[str, Callable[[], Cell]] = {
    name: {"transformer": transformer, "transformer-xl": transformer_xl}.get(name, lambda make=make: make(width=D))
    for name, make in CELLS.items()
}


def MLPCell8() -> MLPCell:
    return MLPCell(width=D)


# Small models of every kind in the registry: each goes through every test of a core.
SMALL: dict[str, tuple[str, Settings, Recipe | None]] = {
    **{f"deq-{cell}": ("deq", {"cell": cell}, None) for cell in CELLS},
    "deq-weight-norm": ("deq", {"cell": "transformer-xl", "cell.weight_norm": True, "cell.memory_length": 4}, None),
    "deq-local": ("deq", {"cell": "transformer-xl", "cell.local": 3, "cell.memory_length": 4}, None),
    "deq-pre": ("deq", {"cell": "transformer-xl", "cell.normalisation": "pre", "cell.memory_length": 4}, None),
    "deq-trellis-weight-norm": ("deq", {"cell": "trellis", "cell.weight_norm": True, "cell.hidden": 10}, None),
    "deq-state-space-strict": ("deq", {"cell": "state-space", "cell.strict": True, "solver": "picard"}, None),
    "deq-propagation": ("deq", {"cell": "energy", "adjoint": "propagation"}, None),
    "deq-phantom": ("deq", {"cell": "mlp", "adjoint": "phantom", "adjoint.steps": 2}, None),
    "deq-shine": ("deq", {"cell": "mlp", "adjoint": "shine", "solver": "broyden", "solver.window": 400}, None),
    "deq-unroll": ("deq", {"cell": "mlp", "adjoint": "unroll", "solver": "picard"}, None),
    "deq-reverse": ("deq", {"cell": "mlp", "adjoint": "reverse", "solver": "reversible"}, None),
    "deq-gmres": ("deq", {"cell": "mlp", "adjoint": "gmres"}, None),
    "deq-corrected": ("deq", {"cell": "mlp", "auxiliary_every": 2}, Recipe(auxiliary=0.1)),
    "deq-recipe": ("deq", {"cell": "transformer-xl"}, Recipe(pretrain_steps=1, jacobian=1.0, rtol=1e-1, steps=3)),
    "deq-stack": ("deq", {"cell": "mlp", "layers": 2}, None),
    **{f"tied-{cell}": ("tied", {"cell": cell, "depth": 3}, None) for cell in CELLS},
    "tied-pre": ("tied", {"cell": "transformer-xl", "cell.normalisation": "pre", "cell.memory_length": 4, "depth": 3}, None),
    "trellisnet": ("trellisnet", {"depth": 4, "auxiliary_every": 2}, Recipe(auxiliary=0.1)),
    "trellisnet-weight-norm": ("trellisnet", {"depth": 4, "cell.weight_norm": True, "cell.weight_dropout": 0.2}, None),
    "trellisnet-untied": ("trellisnet", {"depth": 4, "injection": "untied", "checkpointing": "sqrt"}, None),
    "transformer-xl": ("transformer-xl", {"layers": 2, "memory_length": 4}, None),
    "transformer-xl-tied": ("transformer-xl", {"layers": 3, "memory_length": 4, "tied": True}, None),
    "transformer-xl-pre": ("transformer-xl", {"layers": 2, "memory_length": 4, "normalisation": "pre", "dropout": 0.1}, None),
    "transformer-xl-local": ("transformer-xl", {"layers": 2, "memory_length": 4, "local": 3, "attention_dropout": 0.1}, None),
    "ode": ("ode", {"cell": "mlp", "time": 0.5}, None),
    "ode-dopri5": ("ode", {"cell": "trellis", "method": "dopri5", "time": 0.5}, None),
    "ode-rk4": ("ode", {"cell": "transformer-xl", "method": "rk4", "time": 1.0, "step_size": 0.1}, None),
    "tcn": ("tcn", {"levels": 2, "dropout": 0.1}, None),
    "tcn-plain": ("tcn", {"levels": 2, "weight_norm": False}, None),
    "lstm": ("lstm", {"layers": 2}, None),
    "lstm-regularised": ("lstm", {"layers": 2, "weight_dropout": 0.2, "hidden_dropout": 0.1, "outputs": 6}, None),
    "gru": ("gru", {}, None),
    "looped": ("looped", {"cell": "transformer-xl", "depth": 3, "random_depth": False}, None),
    "looped-supervised": ("looped", {"cell": "mlp", "depth": 2, "random_depth": False, "segments": 2}, Recipe(auxiliary=0.5)),
    "adaptive-loop": ("adaptive-loop", {"cell": "transformer-xl", "depth": 4, "initial_bias": -0.5}, None),
    "state-space": ("state-space", {}, None),
    "state-space-negative": ("state-space", {"layers": 1, "negative": True, "states": 5, "dropout": 0.1}, None),
    "gru-regularised": ("gru", {"layers": 2, "weight_dropout": 0.2, "hidden_dropout": 0.1}, None),
}


def small(form: str) -> Core:
    """A small model as the registry builds it."""
    name, settings, _ = SMALL[form]
    return build_core(ComponentConfig(name=name, settings=settings), D, D)


# Cores with an inexact gradient, and by how much its projection may differ from the difference quotient.
INEXACT = {
    "registry-deq-propagation": 1e-2,  # a contrast at a finite nudge
    "registry-looped-supervised": 0.2,  # each segment starts from a detached state
    "registry-ode": 1e-3,  # the quotient is rough: dopri5's steps jump at ReLU's kinks
}


CORES: dict[str, Callable[[], Core]] = {
    **{f"deq-{solver}-{cell}": equilibrium(solver, make) for solver in SOLVERS for cell, make in CELL_MAKERS.items()},
    **{
        f"unrolled-{way}-{cell}": lambda way=way, make=make: Unrolled(make(), depth=5, checkpointing=way)
        for way in ("none", "every", "sqrt")
        for cell, make in CELL_MAKERS.items()
    },
    **{f"registry-{form}": lambda form=form: small(form) for form in SMALL},
    "propagation": lambda: DEQ(
        EnergyCell(width=D),
        solver=SOLVERS["anderson"](),
        stop=Stop(),
        adjoint=EquilibriumPropagation(beta=1e-3, solver=SOLVERS["anderson"]()),
    ),
}


# By default every solver with one cell and unrolling in each way with another, the registry's model of every kind, with every cell
# and adjoint, and what differs most from these.
SAME = {
    *("deq-weight-norm", "deq-local", "deq-pre", "deq-recipe", "deq-trellis-weight-norm"),  # baselines have them
    *(f"tied-{cell}" for cell in CELLS if cell not in ("mlp", "transformer-xl", "state-space")),  # the DEQ has every cell
    *("tied-pre", "transformer-xl-tied", "transformer-xl-local", "gru-regularised", "tcn-plain", "state-space-negative"),
}
SLOW = {"ode", "ode-dopri5"}
COVER = {f"deq-{solver}-mlp" for solver in SOLVERS} | {"unrolled-every-energy", "unrolled-sqrt-mlp", "propagation"}
COVER |= {f"registry-{form}" for form in SMALL if form not in SAME | SLOW}


@pytest.fixture(params=few(CORES, COVER))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> Subject:
    return Subject(make=CORES[name], inputs=D, gradient_rtol=INEXACT.get(name))


@pytest.fixture
def core(model: Subject) -> Core:
    """Solved tightly, float64, nothing dropped."""
    return model.build()


@pytest.fixture(params=CELL_MAKERS)
def cell_subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(make=CELL_MAKERS[request.param], inputs=D)


@pytest.fixture
def cell(cell_subject: Subject) -> Cell:
    return cell_subject.build()


def broken(subject: Subject, checks: tuple[Check, ...]) -> list[Result]:
    """The checks of `bench check` that do not pass; tests/memory tests a step's memory."""
    return [result for result in run_checks(checks, subject) if result.verdict not in ("pass", "skip")]


def features(time: int = T) -> Tensor:
    return torch.randn(B, time, D, dtype=torch.float64)


def test_a_core_keeps_its_contract(model: Subject) -> None:
    assert broken(model, MODEL) == []


@pytest.mark.parametrize("t", [1, 4])
def test_a_change_of_the_input_changes_later_outputs(core: Core, t: int) -> None:
    x = features()
    later = x.clone()
    later[:, t:] = torch.randn(B, T - t, D)
    with torch.no_grad():
        assert not torch.allclose(core(x).y[:, t:], core(later).y[:, t:])


def test_the_memory_of_a_core_carries_no_gradient(core: Core) -> None:
    x = features().requires_grad_()
    memory = core(x).memory
    core(features(), memory).y.sum().backward()
    assert x.grad is None


def test_a_core_called_twice_gives_the_same_gradient(core: Core) -> None:
    x = features().requires_grad_()
    runs = [torch.autograd.grad((y := core(x).y).square().sum() + 0 * y.sum(), tuple(core.parameters())) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_core_gives_the_same_with_and_without_grad(core: Core) -> None:
    x = features()
    attached = core(x).y
    with torch.no_grad():
        plain = core(x).y
    assert attached.requires_grad
    assert not plain.requires_grad
    assert torch.equal(attached, plain)


def test_a_core_in_float32_is_close_to_itself_in_float64(name: str) -> None:
    core = CORES[name]().eval()
    for part in core.modules():
        if isinstance(part, DEQ):
            part.stop = part.evaluation_stop = Stop(rtol=1e-6, max_steps=300)
        elif isinstance(part, NeuralODE):
            part.rtol = part.atol = 1e-5
    x = torch.randn(B, T, D)
    with torch.no_grad():
        single = core(x).y
        double = core.double()(x.double()).y
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


def test_a_core_on_the_meta_device_has_its_parameters(name: str, core: Core) -> None:
    with torch.device("meta"), torch.no_grad():
        ghost = CORES[name]()
    assert sum(p.numel() for p in ghost.parameters()) == sum(p.numel() for p in core.parameters())


def test_a_cell_keeps_its_contract(cell_subject: Subject) -> None:
    assert broken(cell_subject, CELL) == []


def test_calling_a_cell_evaluates_its_map(cell: Cell) -> None:
    x = features()
    z = torch.randn_like(cell.initial_state(x))
    torch.testing.assert_close(cell(z, x), cell.bind(x)(z))


def test_a_cell_is_causal_exactly(cell_subject: Subject) -> None:
    assert future_leak(cell_subject) == 0


def test_a_cell_passes_gradcheck(cell: Cell) -> None:
    x = torch.randn(1, 3, D, dtype=torch.float64)
    z = torch.randn_like(cell.initial_state(x))
    assert torch.autograd.gradcheck(cell, (z.requires_grad_(), x.requires_grad_()))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_keeps_its_contract(name: str) -> None:
    assert broken(Subject(make=SOLVERS[name], max_evaluations=400), SOLVER) == []


def test_the_registries_name_their_classes() -> None:
    assert {name: make.__name__.lower() for name, make in SOLVERS.items()} == {name: name for name in SOLVERS}
    assert all(make.__name__.lower() == f"{name.replace('-', '')}cell" for name, make in CELLS.items())
    assert MLPCell in CELLS.values()


def test_every_model_of_the_registry_goes_through_every_test_of_a_core() -> None:
    assert {name for name, _, _ in SMALL.values()} == set(MODELS)
    assert {f"registry-{form}" for form in SMALL} <= set(CORES)
    assert set(INEXACT) <= set(CORES)
    assert {settings.get("adjoint", "implicit") for name, settings, _ in SMALL.values() if name == "deq"} == set(ADJOINTS)
    assert {settings.get("cell") for name, settings, _ in SMALL.values() if name == "deq"} >= set(CELLS)


@pytest.mark.parametrize("form", SMALL)
def test_the_count_of_every_model_is_that_of_the_numbers_it_trains(form: str) -> None:
    name, settings, _ = SMALL[form]
    chosen = ComponentConfig(name=name, settings={"width": D, **settings})
    model = build_model(chosen, 11)
    ends = 11 * D + model.core.width * 11 + 11
    assert count_parameters(chosen, 11) == ends + sum(p.numel() for p in small(form).parameters())
    assert count_parameters(chosen, 11) == sum(p.numel() for p in model.parameters())


# How many numbers a model trains, by hand: a change of the architecture shows here.
COUNTS = {
    "lstm": 2 * 4 * (D * D + D * D + 2 * D),
    "gru": 3 * (D * D + D * D + 2 * D),
    "tcn-plain": 2 * 2 * (3 * D * D + D),
    "tcn": 2 * 2 * (3 * D * D + 2 * D),
}


@pytest.mark.parametrize("form", COUNTS)
def test_the_count_is_the_published_formula(form: str) -> None:
    assert sum(p.numel() for p in small(form).parameters()) == COUNTS[form]


TRAINED = {("deq-energy", "agreement"), ("deq-recipe", "copy")}
TRAINED |= {(form, "copy") for form in SMALL if form not in SAME and form != "ode-rk4"}


@pytest.mark.parametrize(("form", "task"), few(itertools.product(SMALL, ["copy", "agreement"]), TRAINED))
def test_every_model_trains_a_few_steps_on_both_tasks(form: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task in TASKS
    name, settings, recipe = SMALL[form]
    train = TrainConfig(steps=4, batch=4, learning_rate=1e-3, evaluation_batch=8)
    size: Settings = {"T": 4, "test_samples": 8} if task == "copy" else {"test_samples": 8}
    spec = RunSpec(
        group="g",
        label=form,
        role="trial",
        model=ComponentConfig(name=name, settings={"width": 8, **settings}),
        task=ComponentConfig(name=task, settings=size),
        train=train,
        recipe=recipe,
        seed=0,
    )
    built: list[tuple[LanguageModel, dict[str, Tensor]]] = []

    def watched(model: ComponentConfig, vocabulary: int) -> LanguageModel:
        made = build_model(model, vocabulary)
        built.append((made, {name: parameter.detach().clone() for name, parameter in made.named_parameters()}))
        return made

    monkeypatch.setattr("bench.training.run.build_model", watched)
    record = run(spec, suite="test")
    assert (record.status, record.reason) == ("ok", None)
    assert record.curve
    assert all(math.isfinite(value) for point in record.curve for value in (point.train_loss, *point.valid.values()))
    (model, before), *_ = built
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert same == [], "parameters that training left as they were"
    counts = [value for key in ("train_forward_nfe_mean", "train_backward_nfe_mean") if (value := record.value(key)) is not None]
    idle = settings.get("adjoint") in ("phantom", "shine", "unroll")  # nothing is solved backward
    assert len(counts) == {"deq": 2, "ode": 2, "adaptive-loop": 1}.get(name, 0) - idle
