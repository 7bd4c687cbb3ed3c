"""Deep equilibrium models for PyTorch: solvers that say how they ended, and gradients that are right.

    f = cell.bind(x)                          a Map z (B, ...) -> f(z); all that is constant through a solve is fixed here
    solution = solve(f, z0, Anderson(), Stop(rtol=1e-3, max_steps=30))
    layer = DEQ(TransformerCell(width=64), solver=Anderson(), stop=Stop(), adjoint=Implicit())

`solve` is the one loop, forward and adjoint. A `Solver` proposes iterates, a `Stop` says when a sample is done, a `Status` how
it ended; an adjoint (`Implicit`, `Phantom`, `Unroll`, for an energy `EquilibriumPropagation`) says how the solve is differentiated;
a `Cell` gives the map; `DEQ` is the layer, `Stack` puts several in sequence, and `Jacobian` keeps their maps easy to solve for.
This package imports nothing but torch.
"""

from deq.adjoint import Adjoint, Implicit, Phantom, Unroll
from deq.cells import CELLS, Cell, EnergyCell, MLPCell, TransformerCell, TransformerXLCell, TrellisCell
from deq.core import Core, Output
from deq.layer import DEQ
from deq.propagation import EquilibriumPropagation
from deq.solve import Map, Solution, Solver, Status, Stop, solve
from deq.solvers import SOLVERS, Anderson, Broyden, Picard
from deq.stability import Jacobian, jacobian_penalty, spectral_radius
from deq.stack import Stack

__all__ = [
    "CELLS", "DEQ", "SOLVERS", "Adjoint", "Anderson", "Broyden", "Cell", "Core", "EnergyCell", "EquilibriumPropagation", "Implicit",
    "Jacobian", "MLPCell", "Map", "Output", "Phantom", "Picard", "Solution", "Solver", "Stack", "Status", "Stop", "TransformerCell",
    "TransformerXLCell", "TrellisCell", "Unroll", "jacobian_penalty", "solve", "spectral_radius",
]  # fmt: skip
