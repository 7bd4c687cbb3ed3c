"""Gradients of random layers against dense float64 algebra: any cell, solver, dtype and adjoint, in-place use, static results."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, jacrev, vjp

from deq import CELLS, DEQ, GMRES, SOLVERS, Broyden, Cell, EquilibriumPropagation, Implicit, Map, Phantom, Stop, Unroll
from deq.adjoints import Reverse, Shine

SIZES = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-5, 2e-3), torch.bfloat16: (2.0**-8, 0.6)}  # rtol of a solve, of a gradient

NEEDED = {"shine": "broyden", "shine, refined": "broyden", "unroll": "picard", "reverse": "reversible"}  # solvers


def adjoint_of(name: str, solver: Any, stop: Stop) -> Any:
    return {
        "implicit": Implicit(solver=solver, stop=stop),
        "gmres": GMRES(stop=stop),
        "reverse": Reverse(),
        "phantom": Phantom(),
        "shine": Shine(),
        "shine, refined": Shine(refine=stop.max_steps, stop=stop),
        "unroll": Unroll(),
        "propagation": EquilibriumPropagation(beta=0.02, solver=solver, stop=stop),
    }[name]


def dense(cell: Cell, x: Tensor, v: Tensor, *, one_step: bool) -> tuple[Tensor, list[Tensor]]:
    """z* by plain iteration and dL/d(x, parameters) from u = (I - J)^-T v by a dense solve (u = v with `one_step`), in float64."""
    cell, x, v = cell.double(), x.double(), v.double()
    f, z = cell.bind(x), cell.initial_state(x)
    with torch.no_grad():
        for _ in range(400):
            z = f(z)
    J = jacrev(f)(z).reshape(z.numel(), z.numel())
    w = torch.autograd.grad(cell.features(z.requires_grad_()), z, v)[0].flatten() if cell.features(z) is not z else v.flatten()
    u = w if one_step else torch.linalg.solve((torch.eye(z.numel()).double() - J).T, w)
    parameters = {name: parameter.detach() for name, parameter in cell.named_parameters()}
    z = z.detach()
    _, pull = vjp(lambda x, p: functional_call(cell, p, (z, x)), x, parameters)
    gx, gp = pull(u.view_as(z))
    return cell.features(z), [gx, *gp.values()]


class StaticResult(Cell):
    """Another cell, whose map returns one buffer without grad mode."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.width = cell, cell.width

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f, buffer = self.cell.bind(x), torch.empty(0)

        def g(z: Tensor) -> Tensor:
            nonlocal buffer
            fz = f(z)
            if fz.requires_grad:
                return fz
            if buffer.shape != fz.shape:
                buffer = torch.empty_like(fz)
            return buffer.copy_(fz)

        return g

    def initial_state(self, x: Tensor) -> Tensor:
        return self.cell.initial_state(x)

    def features(self, z: Tensor) -> Tensor:
        return self.cell.features(z)


@pytest.mark.parametrize("adjoint", ["implicit", "gmres", "phantom", "shine", "shine, refined", "unroll", "reverse", "propagation"])
@pytest.mark.parametrize("dtype", SIZES, ids=str)
@given(
    cell_name=st.sampled_from(sorted(CELLS)),
    solver_name=st.sampled_from(sorted(SOLVERS)),
    batch=st.integers(1, 3),
    time=st.integers(1, 4),
    in_place=st.booleans(),
    static=st.booleans(),
    exponent=st.integers(-40, 40),
    seed=st.integers(0, 10_000),
)
@settings(phases=[Phase.explicit, Phase.generate], max_examples=settings.default.max_examples // 8)  # of 24 cases
@example("energy", "broyden", 2, 2, True, False, 0, 0)  # an in-place operation drops a hook on a view
def test_a_gradient_is_that_of_dense_algebra(
    adjoint: str,
    dtype: torch.dtype,
    cell_name: str,
    solver_name: str,
    batch: int,
    time: int,
    in_place: bool,
    static: bool,
    exponent: int,
    seed: int,
) -> None:
    if adjoint == "propagation":
        cell_name = "energy"
    solver_name = NEEDED.get(adjoint, solver_name)
    static = static and adjoint not in ("unroll", "reverse", "propagation")
    torch.manual_seed(seed)
    cell = CELLS[cell_name](width=4, **({"heads": 2} if cell_name.startswith("transformer") else {}))
    for parameter in cell.parameters():  # contractions, so that plain iteration finds the reference
        parameter.data.mul_(0.5)
    rtol, tolerance = SIZES[dtype]
    stop = Stop(rtol=rtol, max_steps=80)
    solver = Broyden(window=80) if solver_name == "broyden" else SOLVERS[solver_name]()
    x, v = torch.randn(batch, time, 4), torch.randn(batch, time, 4)
    scale = 2.0**exponent
    layer = DEQ(StaticResult(cell) if static else cell, solver=solver, stop=stop, adjoint=adjoint_of(adjoint, solver, stop))
    layer.to(torch.float64 if dtype == torch.float64 else torch.float32)
    given_x = x.to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    converged: list[bool] = []
    layer.watch(lambda phase, solution: converged.append(bool(solution.converged.all())))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(given_x).y
    value = y.detach().clone()
    if in_place:
        y.mul_(2).sub_(y.detach() / 2)  # 1.5 y, whose gradient is 2
    (y * v.to(y.dtype) * scale / (2 if in_place else 1)).sum().backward()
    if not all(converged):
        return  # what is not solved has no right gradient; that solves end is tested elsewhere
    found = [p.grad for p in (given_x, *cell.parameters())]
    exact_y, exact = dense(cell, x, v, one_step=adjoint == "phantom")
    assert (value - exact_y).norm() <= max(20 * rtol, tolerance) * exact_y.norm()
    if dtype == torch.bfloat16 and (value - exact_y).norm() > 0.02 * exact_y.norm():
        return  # of an ill-conditioned map a residual of 2**-8 is far from the root, and the gradient is that of another point
    pairs = zip(found, exact, strict=True)
    got = torch.cat([torch.zeros_like(e).flatten() if g is None else g.double().flatten() for g, e in pairs])
    if adjoint == "shine" and dtype == torch.float64:  # inexact by design, but the same whatever is done to its output
        plain = DEQ(cell, solver=solver, stop=stop, adjoint=Shine())
        own = x.double().requires_grad_()
        leaves = [own, *cell.parameters()]
        exact = list(torch.autograd.grad(plain(own).y, leaves, v.double(), allow_unused=True, materialize_grads=True))
    elif adjoint == "shine":
        return
    wanted = scale * torch.cat([e.flatten() for e in exact])
    bias = 2e-3 if adjoint == "propagation" else 0.0
    error = (got - wanted).norm()
    assert error <= (20 * rtol + tolerance + bias) * wanted.norm()
    if dtype == torch.bfloat16 and adjoint != "phantom":  # so wide a tolerance would pass the gradient of one step
        one_step = scale * torch.cat([e.flatten() for e in dense(cell, x, v, one_step=True)[1]])
        assert error <= max(0.1 * wanted.norm(), 0.5 * (one_step - wanted).norm())
