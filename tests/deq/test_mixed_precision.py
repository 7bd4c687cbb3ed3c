"""Half precision: f alone runs in it; state, solver history and adjoint are float32, so that solves converge and gradients hold."""

from typing import Any

import pytest
import torch
from cases import product
from torch import Tensor, nn

from baselines import NeuralODE, StateSpace
from deq import (
    CELLS,
    DEQ,
    GMRES,
    SOLVERS,
    Anderson,
    Broyden,
    EquilibriumPropagation,
    Implicit,
    Jacobian,
    Phantom,
    Picard,
    Reverse,
    Solution,
    Status,
    Stop,
    Unroll,
    jacobian_penalty,
    solve,
    spectral_radius,
)
from deq.adjoints import Shine
from deq.adjoints.adjoint import attainable_stop

HALF = [torch.bfloat16, torch.float16]
STOP = Stop(rtol=1e-3, max_steps=40)
ADJOINTS = {
    "implicit": lambda solver, stop: Implicit(solver=solver, stop=stop),
    "gmres": lambda solver, stop: GMRES(stop=stop),
    "reverse": lambda solver, stop: Reverse(),
    "phantom": lambda solver, stop: Phantom(steps=2, relaxation=0.7),
    "shine": lambda solver, stop: Shine(),
    "shine, refined": lambda solver, stop: Shine(refine=20, stop=stop),
    "unroll": lambda solver, stop: Unroll(),
    "propagation": lambda solver, stop: EquilibriumPropagation(solver=solver, stop=stop),
}


def possible(cell: str, solver: str, adjoint: str, *_: object) -> bool:
    own = {"shine": "broyden", "shine, refined": "broyden", "unroll": "picard", "reverse": "reversible"}
    return cell == "energy" if adjoint == "propagation" else solver == own.get(adjoint, solver)


def network(cell: str, solver: str, adjoint: str, stop: Stop = STOP) -> tuple[nn.Linear, DEQ]:
    """A Linear, whose output is in half precision under autocast, below a DEQ."""
    torch.manual_seed(0)
    made = Broyden(window=40) if solver == "broyden" else SOLVERS[solver]()
    settings = {"heads": 2} if cell.startswith("transformer") else {}
    return nn.Linear(8, 8), DEQ(CELLS[cell](width=8, **settings), solver=made, stop=stop, adjoint=ADJOINTS[adjoint](made, stop))


def run(below: nn.Linear, layer: DEQ, autocast: torch.dtype | None) -> tuple[Tensor, Tensor, list[tuple[str, Solution]]]:
    """Output, one flat gradient of all parameters, and the solves."""
    seen: list[tuple[str, Solution]] = []
    stop_watching = layer.watch(lambda phase, solution: seen.append((phase, solution)))
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        y = layer(below(x)).y
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(y, [*below.parameters(), *layer.parameters()], v.to(y.dtype), allow_unused=True)
    stop_watching()
    return y, torch.cat([g.flatten().float() for g in gradients if g is not None]), seen


@pytest.mark.parametrize(
    ("cell", "solver", "adjoint", "dtype"), product(sorted(CELLS), sorted(SOLVERS), list(ADJOINTS), HALF, possible=possible)
)
def test_under_autocast_every_solve_converges_and_the_gradient_is_that_of_float32(
    cell: str, solver: str, adjoint: str, dtype: torch.dtype
) -> None:
    below, layer = network(cell, solver, adjoint)
    y, gradient, solves = run(below, layer, autocast=dtype)
    exact_y, exact_gradient, exact_solves = run(below, layer, autocast=None)
    assert y.dtype == torch.float32
    assert [phase for phase, _ in solves] == [phase for phase, _ in exact_solves]
    for (_, solution), (_, exact) in zip(solves, exact_solves, strict=True):
        assert solution.converged.all(), solution.residual
        assert solution.residual.max() < max(1e-3, torch.finfo(dtype).eps / 2)
        assert solution.nfe <= exact.nfe + 4
    assert (y - exact_y).norm() < 0.03 * exact_y.norm()
    if adjoint == "shine":  # an estimate made of few steps, so that each matters
        assert torch.cosine_similarity(gradient, exact_gradient, dim=0) > 0.5
    else:
        assert (gradient - exact_gradient).norm() < 0.1 * exact_gradient.norm()


SOLVER_OF = {"gmres": "anderson", "reverse": "reversible", "shine": "broyden", "shine, refined": "broyden"}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("adjoint", SOLVER_OF)
def test_a_sample_that_is_not_finite_leaves_its_neighbours_alone(adjoint: str, half: bool) -> None:
    """Bit for bit, also in bfloat16; states and adjoints are float32 at least."""
    _, layer = network("transformer", SOLVER_OF[adjoint], adjoint)
    x, v = (torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    broken = x.clone()
    broken[1, 2, 3] = torch.nan
    seen: list[Solution] = []
    layer.watch(lambda phase, solution: seen.append(solution))

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = layer(x).y
        return y.detach(), torch.autograd.grad(y, x, v)[0]

    (exact_y, exact), (y, found) = gradient(x), gradient(broken)
    healthy, hurt = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert all(solution.converged.all() for solution in healthy)
    assert all(solution.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED] for solution in hurt)
    assert {solution.z.dtype for solution in seen} <= {torch.float32, torch.float64}
    assert (y.dtype, found.dtype) == (torch.float32, torch.float32)
    for b in (0, 2):
        assert found[b].isfinite().all()
        assert torch.equal(y[b], exact_y[b])
        assert torch.equal(found[b], exact[b])


@pytest.mark.parametrize("adjoint", SOLVER_OF)
def test_a_backward_pass_within_autocast_keeps_the_adjoint_in_float32(adjoint: str) -> None:
    """Elementwise operations alone, which autocast leaves in float32: any half-precision product is the adjoint's own."""
    stop = Stop(rtol=None, max_steps=9)
    solver = SOLVERS[SOLVER_OF[adjoint]]()
    z0, v, shift = (torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    found = []
    for half in (False, True):
        weight = torch.full((), 0.8, requires_grad=True)
        x = shift.clone().requires_grad_()

        def f(z: Tensor, weight: Tensor = weight, x: Tensor = x) -> Tensor:
            return torch.tanh(weight * z.roll(1, 1) + x)

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = ADJOINTS[adjoint](solver, stop)(f, z0, solver, stop, lambda phase, solution: None)
            found.append([y.detach(), *torch.autograd.grad(y, [weight, x], v)])
    for plain, cast in zip(*found, strict=True):
        torch.testing.assert_close(cast, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_wide_layer_in_bfloat16_stops_where_its_rounding_begins(cell: str) -> None:
    """At width 64 a transformer's residual stays at 1e-3 to 2e-3: solved for 1e-3 it would take all its steps."""
    torch.manual_seed(0)
    settings = {"heads": 4} if cell.startswith("transformer") else {}
    layer = DEQ(CELLS[cell](width=64, **settings), solver=Anderson(), stop=STOP, adjoint=Implicit(stop=STOP))
    solves: list[Solution] = []
    layer.watch(lambda phase, solution: solves.append(solution))
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = layer(torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(1))).y
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)))
    assert all(solution.converged.all() for solution in solves)
    assert [solution.nfe for solution in solves[2:]] <= [solution.nfe + 3 for solution in solves[:2]]


def test_a_tolerance_is_relaxed_for_half_precision_alone() -> None:
    z = torch.zeros(2, 3)
    for dtype, floor in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        assert attainable_stop(Stop(rtol=1e-4), z.to(dtype)).rtol == floor
        with torch.autocast("cpu", dtype=dtype):
            assert attainable_stop(Stop(rtol=1e-4), z).rtol == floor
            assert attainable_stop(Stop(rtol=0.1), z) == Stop(rtol=0.1)
            assert attainable_stop(Stop(rtol=None), z) == Stop(rtol=None)
            assert attainable_stop(Stop(rtol=0, atol=1e-9), z) == Stop(rtol=0, atol=1e-9)
            assert attainable_stop(Stop(rtol=1e-4), z.double()) == Stop(rtol=1e-4)
    assert attainable_stop(Stop(rtol=1e-4), z) == Stop(rtol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_a_network_in_half_precision_is_solved_in_a_float32_state(name: str, dtype: torch.dtype) -> None:
    below, layer = network("mlp", name, "implicit")
    exact_y, exact_gradient, _ = run(below, layer, autocast=None)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    below.to(dtype), layer.to(dtype)
    solves: list[tuple[str, Solution]] = []
    layer.watch(lambda phase, solution: solves.append((phase, solution)))
    y = layer(below(x)).y
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    gradients = torch.autograd.grad(y, [*below.parameters(), *layer.parameters()], v)
    assert y.dtype == dtype
    assert [solution.gap.dtype for _, solution in solves] == 2 * [torch.float32]
    assert all(solution.converged.all() for _, solution in solves)
    assert (y - exact_y).norm() < 0.03 * exact_y.norm()
    assert (torch.cat([g.flatten().float() for g in gradients]) - exact_gradient).norm() < 0.06 * exact_gradient.norm()


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_a_map_may_return_a_narrower_float_than_its_argument(name: str) -> None:
    weight = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    solution = solve(lambda z: torch.tanh(z.bfloat16() @ weight + 1), torch.zeros(2, 8), SOLVERS[name](), STOP)
    assert solution.converged.all()
    assert solution.z.dtype == torch.float32


class InPrecision:
    """A solver that notes how products would run in its step."""

    differentiable = False

    def __init__(self, solver: Any) -> None:
        self.solver, self.seen = solver, []

    def init(self, z: Tensor, steps: int) -> Any:
        return self.solver.init(z, steps)

    def step(self, f: Any, z: Tensor, fz: Tensor, memory: Any) -> Any:
        self.seen.append((torch.backends.mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        return self.solver.step(f, z, fz, memory)


@pytest.fixture
def reduced_products() -> Any:
    """Products of float32 in TF32 or bfloat16 where the processor has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_solver_s_products_are_float32_whatever_f_s_are(autocast: bool, reduced_products: None) -> None:
    """Anderson's Gram matrix in TF32 stalls at 1.8e-4, where float32 reaches 1e-5 in 38 evaluations."""
    inside: list[Any] = []

    def f(z: Tensor) -> Tensor:
        inside.append((torch.backends.mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        return torch.cos(z)

    solver, before = InPrecision(Anderson()), torch.backends.mkldnn.matmul.fp32_precision
    assert before == "bf16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        solve(f, torch.zeros(2, 3), solver, STOP)
    assert set(solver.seen) == {("ieee", False)}
    assert set(inside) == {(before, autocast)}
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_step_that_raises_leaves_the_precision_of_products_as_it_was(reduced_products: None) -> None:
    class Broken(InPrecision):
        def step(self, f: Any, z: Tensor, fz: Tensor, memory: Any) -> Any:
            raise ArithmeticError

    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ArithmeticError):
        solve(torch.cos, torch.zeros(2, 3), Broken(Picard()), STOP)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("dtype", HALF)
def test_the_jacobian_penalty_of_half_precision_neither_overflows_nor_loses_digits(dtype: torch.dtype) -> None:
    weight = 3 * torch.eye(400)
    z = torch.zeros(2, 400)
    torch.manual_seed(0)
    exact = jacobian_penalty(lambda z: z @ weight, z, probes=4)
    torch.manual_seed(0)
    half = jacobian_penalty(lambda z: z @ weight.to(dtype), z.to(dtype), probes=4)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.2, atol=0)
    assert spectral_radius(lambda z: z @ weight.to(dtype), z.to(dtype)).tolist() == pytest.approx([3, 3], rel=0.02)


def test_a_jacobian_penalty_under_autocast_trains() -> None:
    below, layer = network("transformer", "anderson", "implicit")
    layer.jacobian = Jacobian(weight=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = layer(below(torch.randn(3, 5, 8))).penalty
    assert penalty is not None
    penalty.backward()
    assert penalty.dtype == torch.float32
    assert penalty.isfinite()


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_neural_ode_under_autocast_keeps_a_float32_state(adjoint: bool) -> None:
    torch.manual_seed(0)
    below, ode = nn.Linear(8, 8), NeuralODE(CELLS["mlp"](width=8), time=1.0, adjoint=adjoint)
    x, gradients = torch.randn(2, 3, 8), []
    for autocast in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = ode(below(x)).y
        assert y.dtype == torch.float32
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(y.sum(), [*below.parameters(), *ode.parameters()])]))
    assert (gradients[0] - gradients[1]).norm() < 0.06 * gradients[1].norm()


@pytest.mark.parametrize("name", ["state-space", "contraction", "baseline"])
def test_a_slow_decay_is_not_rounded_to_one(name: str) -> None:
    """Below 1 bfloat16 has steps of 2^-8: a state with a decay of 0.999 would take no input and have no gradient."""
    core: nn.Module = StateSpace(inputs=8, width=8) if name == "baseline" else CELLS[name](width=8)
    decays = core.blocks[0].project if name == "baseline" else core.inject  # type: ignore[union-attr, index]
    states = decays.out_features // (2 if name == "contraction" else 3)
    with torch.no_grad():
        decays.weight[:states] = 0.0
        decays.bias[:states] = torch.logit(torch.full((states,), 0.999))
        if name == "state-space":
            core.read.weight[:states] = 0.0  # type: ignore[union-attr, index]
    x = torch.randn(2, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = core(x).y if name == "baseline" else core.bind(x)(torch.randn(2, 6, 8))  # type: ignore[operator]
    y.square().sum().backward()
    assert (decays.bias.grad[:states] != 0).all()
