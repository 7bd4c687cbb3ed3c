"""Neural ODE: the DEQ's own map as a flow, dz/dt = f(z) - z, integrated over a given time."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torchdiffeq import odeint, odeint_adjoint

from baselines.counted import CountedCore
from deq import Cell, Output
from deq.adjoints.adjoint import first_derivatives_only
from deq.checks import check_features
from deq.graph import leaves
from deq.precision import in_float32

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")


class NeuralODE(CountedCore):
    """A Neural ODE: z(time) under dz/dt = f(z; x) - z from the cell's initial state; its stationary points are f's fixed points.

    With `adjoint` the gradient is the solution of a second ODE, backward in time: constant memory, and a gradient exact to the
    tolerance. Without, backpropagation runs through all steps of the solver. Adaptive methods take `rtol` and `atol` and choose
    steps for the whole batch, so samples depend on each other, and the past on the future, to the tolerance. Fixed methods take
    `step_size`: Euler's with step 1 and time L is `Unrolled` of depth L. The adjoint's step size control leaves out the parameters'
    gradients (Kidger et al., ICML 2021, arXiv 2009.09457). It integrates z backward too, where a contraction expands: training may
    end in an AssertionError of torchdiffeq (values not finite, a step of zero; Gholami, Keutzer, Biros, IJCAI 2019, arXiv
    1902.10298). It has first derivatives only (RuntimeError under `create_graph`). RuntimeError where a step size underflows in
    forward. Chen et al. (NeurIPS 2018), arXiv 1806.07366; solvers of torchdiffeq. Parameters: the cell's.
    """

    numerics: ClassVar[int] = 1
    no_residual: ClassVar[str] = "an ODE solver integrates for a given time and looks for no fixed point"

    def __init__(
        self,
        cell: Cell,
        *,
        time: float = 4.0,
        method: str = "dopri5",
        rtol: float = 1e-3,
        atol: float = 1e-4,
        adjoint: bool = True,
        step_size: float | None = None,
    ) -> None:
        super().__init__()
        if method not in ADAPTIVE + FIXED:
            raise ValueError(f"method must be one of {', '.join(ADAPTIVE + FIXED)}, got {method!r}")
        if (step_size is None) == (method in FIXED):
            raise ValueError(
                f"step_size is for the fixed methods ({', '.join(FIXED)}), which need it; got {step_size} for {method}"
            )
        for name, value in (("time", time), ("rtol", rtol), ("atol", atol), ("step_size", 1 if step_size is None else step_size)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive, got {value}")
        self.cell, self.width = cell, cell.width
        self.time, self.method, self.rtol, self.atol = time, method, rtol, atol
        self.adjoint, self.step_size = adjoint, step_size

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to those of z(time), (B, T, width)."""
        check_features(x)
        x = x.view_as(x)  # a node at which `leaves` can stop
        f, z0 = in_float32(self.cell.bind(x, memory), self.cell.initial_state(x))
        # Find what f depends on from its graph; the solver reuses this evaluation as its first.
        known = [f(z0)] if self.adjoint and torch.is_grad_enabled() else []
        inputs = get_gradient_edge(x) if known and x.requires_grad else None
        given = [leaf for fz in known for leaf in leaves(fz, inputs)] + ([] if inputs is None else [x])
        counted = [0]

        def flow(_: Tensor, z: Tensor) -> Tensor:
            counted[0] += 1
            return (known.pop() if known else f(z)).to(z.dtype) - z

        def notify(phase: str) -> None:
            self._notify(phase, counted[0])
            counted[0] = 0

        times = torch.tensor([0.0, self.time], dtype=z0.dtype, device=x.device)
        how: dict[str, Any] = {"method": self.method, "rtol": self.rtol, "atol": self.atol}
        how["options"] = None if self.step_size is None else {"step_size": self.step_size}
        solve = odeint
        if given:
            # Every evaluation backward runs through the graph of `bind` again.
            solve, how["adjoint_params"] = odeint_adjoint, tuple(given)
            how["adjoint_options"] = {"norm": "seminorm"} if self.method in ADAPTIVE else how["options"]
        try:
            path = solve(flow, z0, times, **how)
        except AssertionError as error:  # a step size of zero or NaN
            raise RuntimeError(f"the ODE solver {self.method} failed: {error}") from error
        notify("forward")
        if solve is odeint_adjoint:
            path.grad_fn.register_prehook(lambda _: first_derivatives_only("NeuralODE with adjoint"))
            path.grad_fn.register_hook(lambda *_: notify("backward"))
        z = path[-1].clone()  # the path is saved for backward: in-place operations on the output must not change it
        return Output(self.cell.features(z), self.cell.remember(z, x, memory))
