"""The contract of a model: a Core whose solves converge."""

import dataclasses

import torch

from bench.conformance import common, memory
from bench.conformance.result import Result, check, require
from bench.conformance.subject import TIGHT_STOP, Subject, modules_and_inputs, require_tensor
from deq import DEQ, GMRES, Implicit, Output, Reverse, Solution, Unroll


@check()
def shapes(subject: Subject) -> str:
    """An Output with y (B, T, width), in the dtype of x.

    forward(x, memory=None) returns deq.Output(y) with y (B, T, self.width) for any B and T, in x's dtype and on its device.
    """
    for core, x in modules_and_inputs(subject):
        output = core(x)
        require(isinstance(output, Output), f"forward returned a {type(output).__name__}, not a deq.Output")
        if output.penalty is not None:
            require(output.penalty.dim() == 0, f"penalty is {tuple(output.penalty.shape)}, not a scalar")
        for name, part in (("y", output.y), *(("auxiliary", part) for part in output.auxiliary)):
            require_tensor(name, part, (*x.shape[:2], core.width), x.dtype)
    return f"(B, T, {core.width}), float32 and float64"


@check("finite", "evaluation")
def solve(subject: Subject) -> str | Result:
    """Every equilibrium is found, to 1e-6 in 200 evaluations.

    Check the cell by itself: scale its recurrent weights below one, or bound its state.
    """
    core, solutions = subject.build(), list[Solution]()
    layers = [part for part in core.modules() if isinstance(part, DEQ)]
    if not layers:
        return Result("skip", "", "it contains no DEQ")
    for layer in layers:
        layer.evaluation_stop = TIGHT_STOP
        layer.watch(lambda phase, solution: solutions.append(solution))
    with torch.no_grad():
        core(*subject.arguments(core, batch=8, time=12))
    converged = torch.cat([solution.converged for solution in solutions])
    residual, steps = max(one.residual.max().item() for one in solutions), max(one.nfe for one in solutions)
    found = f"{int(converged.sum())} of {len(converged)} solves converged in {steps} evaluations, largest residual {residual:.1g}"
    return require(converged.all(), found)


def _gradient(subject: Subject) -> str | Result:
    core = subject.build()
    adjoints = [part.adjoint for part in core.modules() if isinstance(part, DEQ)]
    inexact = [type(adjoint).__name__ for adjoint in adjoints if not isinstance(adjoint, (GMRES, Implicit, Reverse, Unroll))]
    if inexact and subject.gradient_rtol is None:
        error = max(common.module_gradient_errors(subject, core).values())
        return Result("skip", f"relative error {error:.2g}", f"{inexact[0]} is not the exact gradient, by design")
    return common.gradient.run(subject)


_OUTPUTS = (shapes, common.finite, common.evaluation, common.same_seed, solve, common.samples, common.causality)
_STATE = (common.parameters, common.state, common.carried_memory)
MODEL = (*_OUTPUTS, dataclasses.replace(common.gradient, run=_gradient), *_STATE, memory.fake_tensors, memory.memory)
