"""The study of adjoints: its counts against those of a map that counts, its errors against closed forms, its rows."""

import dataclasses
from typing import Any

import pytest
import torch
from test_studies import affine_model, tokens
from torch import Tensor
from toy import DEQ_SPEC, TOY, Made, rows_of

from bench.records.spec import ComponentConfig
from bench.studies import adjoints
from bench.studies.adjoints import Counting
from bench.studies.exact import Exact
from bench.studies.gradient_error import gradient, rooted
from bench.studies.models import Models
from deq import (
    GMRES,
    Anderson,
    Broyden,
    EnergyCell,
    EquilibriumPropagation,
    Implicit,
    Phantom,
    Picard,
    Reverse,
    Reversible,
    Shine,
    Solver,
    Stop,
    Unroll,
    solve,
)
from deq.adjoints import Adjoint

pytestmark = pytest.mark.end_to_end

STOP = Stop(rtol=1e-6, max_steps=40)
EXACT = Stop(rtol=None, max_steps=7)


class Calls:
    """f(z) = tanh(a roll(z) + b), with its calls and the calls of a hook on every attached result."""

    def __init__(self) -> None:
        self.calls = self.backwards = 0
        self.a = torch.full((), 0.6, dtype=torch.float64, requires_grad=True)
        self.b = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5).requires_grad_()

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        fz = torch.tanh(self.a * z.roll(1, 1) + self.b)
        if fz.requires_grad:
            fz.register_hook(self.count)
        return fz

    def count(self, gradient: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        *((Implicit(solver=solver, stop=STOP), Anderson()) for solver in (Picard(), Anderson(), Broyden())),
        (GMRES(stop=STOP), Anderson()),
        (Shine(), Broyden(window=40)),
        (Shine(refine=3, stop=STOP), Broyden(window=40)),
        (Phantom(steps=5), Anderson()),
        (Reverse(), Reversible()),
        (Unroll(), Picard()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_evaluations_and_products_are_those_that_f_sees(adjoint: Adjoint, solver: Solver) -> None:
    f, counting = Calls(), Counting(adjoint)
    y = counting(f, torch.zeros(2, 5, dtype=torch.float64), solver, STOP, lambda phase, solution: None)
    torch.autograd.grad(y.sum(), [f.a, f.b])
    assert (counting.evaluations, counting.products) == (f.calls, f.backwards)
    assert counting.products > 0


@pytest.mark.parametrize(
    ("adjoint", "solver", "evaluations", "products"),
    [
        (Implicit(solver=Picard(), stop=EXACT), Anderson(), 7, 8),
        (GMRES(stop=Stop(rtol=None, max_steps=3)), Anderson(), 7, 4),
        (Shine(), Broyden(), 7, 1),
        (Shine(refine=4, stop=Stop(rtol=1e-30)), Broyden(), 7, 6),
        (Phantom(), Anderson(), 7, 1),
        (Phantom(steps=5), Anderson(), 11, 5),
        (Unroll(), Picard(), 7, 7),
        (Reverse(), Reversible(), 14, 7),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_price_of_seven_evaluations_forward(adjoint: Adjoint, solver: Solver, evaluations: int, products: int) -> None:
    f, counting = Calls(), Counting(adjoint)
    y = counting(f, torch.zeros(2, 5, dtype=torch.float64), solver, EXACT, lambda phase, solution: None)
    torch.autograd.grad(y.sum(), [f.a, f.b])
    assert (counting.evaluations, counting.products) == (evaluations, products)


def test_propagation_solves_twice_backward_and_differentiates_two_potentials() -> None:
    torch.manual_seed(0)
    cell = EnergyCell(width=6).double()
    f = cell.bind(torch.randn(2, 3, 6, dtype=torch.float64))
    z0 = torch.zeros(2, 3, 6, dtype=torch.float64)
    counting = Counting(EquilibriumPropagation(solver=Picard(), stop=STOP))
    y = counting(f, z0, Picard(), STOP, lambda phase, solution: None)
    torch.autograd.grad(y.sum(), list(cell.parameters()))
    forward, *backward = (solution.nfe for _, solution in counting.solutions)
    assert len(backward) == 2
    assert counting.products == 2
    assert counting.evaluations == forward + sum(backward) + 2 + 2  # f at z* for each nudge, and two potentials
    work = counting.work("backward")
    assert work == {"nfe": sum(backward), "converged": 1.0}


def test_a_sample_counts_as_solved_where_all_of_its_solves_were() -> None:
    counting = Counting(Unroll())
    for slope in (0.5, 2.0):
        scale = torch.tensor([[0.5], [slope]])
        counting.solutions.append(("backward", solve(lambda z, scale=scale: scale * z + 1, torch.zeros(2, 3), Picard(), STOP)))
    assert counting.work("backward") == {"nfe": sum(one.nfe for _, one in counting.solutions), "converged": 0.5}
    assert counting.work("forward") is None


def points(scaled_identity: float, rtol: float) -> dict[str, dict[str, Any]]:
    """By adjoint, the points of f(z) = a z + x in float64, and the share of the gradient that comes through the solve."""
    model = affine_model(scaled_identity=scaled_identity)
    z, batch, _ = rooted(model, *tokens(), 3)
    exact, _ = gradient(model, *batch, Exact(), z)
    solved = exact[: -(model.head.weight.numel() + model.head.bias.numel())]  # type: ignore[operator,union-attr]
    found = adjoints.compare(model, batch, exact, Stop(rtol=rtol, max_steps=60))
    return {point["adjoint"]: point | {"part": (solved.norm() / exact.norm()).item()} for point in found}


def test_on_a_multiple_of_the_identity_errors_are_powers_of_it() -> None:
    """k phantom steps lack a^k. Broyden's estimate is the inverse along the solve's only direction; in the others it is I."""
    found = points(0.5, 1e-10)
    for name, power in (("phantom 1 (JFB)", 1), ("phantom 5", 5)):
        assert found[name]["distance"] == pytest.approx(0.5**power * found[name]["part"], rel=1e-6)
    for name in ("implicit, picard", "implicit, anderson", "implicit, broyden", "GMRES", "SHINE, refined", "unroll"):
        assert found[name]["distance"] < 1e-8
        assert found[name]["one_less_cosine"] < 1e-15
        assert found[name]["forward"]["converged"] == 1.0
    assert found["SHINE"]["distance"] > 0.01
    assert found["SHINE, refined"]["backward"]["converged"] == 1.0
    assert found["SHINE, refined"]["distance"] < found["SHINE"]["distance"]
    assert found["phantom 5"]["backward"] is None
    assert "propagation" not in found


def test_where_plain_iteration_diverges_those_that_need_it_are_not_solved_and_wrong() -> None:
    found = points(-1.5, 1e-6)
    for name in ("reverse", "unroll"):
        assert found[name]["forward"]["converged"] == 0.0
        assert found[name]["distance"] > 0.1
    assert found["implicit, picard"]["backward"]["converged"] == 0.0
    for name in ("implicit, anderson", "implicit, broyden", "GMRES"):
        assert found[name]["distance"] < 1e-4


def test_a_model_without_enough_roots_is_a_row_without_values(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "trained", lambda spec: affine_model(scaled_identity=1.0))
    monkeypatch.setattr(models, "sequences", lambda *_: tokens())
    study = adjoints.study(TOY)
    values, reason = study.values(dataclasses.replace(study.rows[0], specs=(DEQ_SPEC,)), models)
    assert values is None
    assert "0 of 3 sequences have a root" in (reason or "")


def test_the_energy_alone_has_propagation_and_every_row_all_else(made: Made) -> None:
    copy, energy = (row["values"]["points"] for row in rows_of(made, adjoints.NAME))
    names = [[point["adjoint"] for point in found if point["rtol"] == 1e-3] for found in (copy, energy)]
    assert names[1] == [*names[0], "propagation"]
    assert {point["rtol"] for point in copy} == {1e-3, 1e-6}
    assert TOY.energy_model == ComponentConfig(name="deq", settings={**TOY.energy_model.settings, "cell": "energy"})
