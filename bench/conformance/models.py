"""The contract of a model: a Core whose equilibria are found."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bench.conformance import common, memory
from bench.conformance.common import SOLVED, Subject, check_shapes, wrong_tensor
from bench.conformance.result import Result, check, judge
from deq import DEQ, Implicit, Output, Solution, Unroll


def _wrong_output(core: Any, x: Tensor) -> str | None:
    output = core(x)
    if not isinstance(output, Output):
        return f"forward returned a {type(output).__name__}, not a deq.Output"
    if output.penalty is not None and output.penalty.dim():
        return f"penalty is {tuple(output.penalty.shape)}, not a scalar"
    parts = [("y", output.y), *(("auxiliary", part) for part in output.auxiliary)]
    wrong = (wrong_tensor(name, part, (*x.shape[:2], core.width), x.dtype) for name, part in parts)
    return next((message for message in wrong if message), None)


@check()
def shapes(subject: Subject) -> Result:
    """An Output with y (B, T, width), in the dtype of x.

    forward(x, memory=None) takes features (B, T, D) and returns deq.Output(y) with y (B, T, self.width), for any B and T. New
    tensors need x's dtype and device: x.new_zeros(...), torch.arange(..., device=x.device); constants are buffers.
    """
    return check_shapes(subject, _wrong_output, f"(B, T, {subject.make().width})")


@check("finite", "evaluation")
def solve(subject: Subject) -> Result:
    """Every equilibrium is found, to 1e-6 in 200 evaluations.

    The map of a DEQ in it has no fixed point, or its solver does not reach it: it would train on states that solve nothing. Check
    the cell by itself; scale its recurrent weights below one, or bound its state.
    """
    core = subject.build()
    solutions: list[Solution] = []
    layers = [part for part in core.modules() if isinstance(part, DEQ)]
    for layer in layers:
        layer.evaluation_stop = SOLVED
        layer.watch(lambda phase, solution: solutions.append(solution))
    if not layers:
        return Result("skip", "", "it contains no DEQ")
    with torch.no_grad():
        core(*subject.arguments(core, batch=8, time=12))
    converged = torch.cat([solution.converged for solution in solutions])
    residual, steps = max(one.residual.max().item() for one in solutions), max(one.nfe for one in solutions)
    found = f"{int(converged.sum())} of {len(converged)} solves converged in {steps} evaluations, largest residual {residual:.1g}"
    return judge(bool(converged.all()), found)


def _gradient(subject: Subject) -> Result:
    core = subject.build()
    adjoints = [part.adjoint for part in core.modules() if isinstance(part, DEQ)]
    inexact = [type(adjoint).__name__ for adjoint in adjoints if not isinstance(adjoint, (Implicit, Unroll))]
    if inexact and subject.gradient_rtol is None:
        error = max(common.module_gradient_errors(subject, core).values())
        return Result("skip", f"relative error {error:.2g}", f"{inexact[0]} is not the exact gradient, by design")
    return common.gradient.run(subject)


MODEL = (
    shapes,
    common.finite,
    common.evaluation,
    common.same_seed,
    solve,
    common.samples,
    common.causality,
    dataclasses.replace(common.gradient, run=_gradient),
    common.parameters,
    common.state,
    common.carried_memory,
    memory.fake_tensors,
    memory.memory,
)
