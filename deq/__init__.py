"""Deep equilibrium models for PyTorch: fixed-point solvers, adjoints, cells and the DEQ layer. Imports only torch and NumPy.

    f = cell.bind(x)                                                Map z (B, ...) -> f(z) for fixed features x
    solution = solve(f, z0, Anderson(), Stop(rtol=1e-3, max_steps=30))
    layer = DEQ(TransformerCell(width=64), solver=Anderson(), stop=Stop(), adjoint=Implicit())

solve.py     the one solve loop, forward and adjoint: a Solver proposes iterates, a Stop ends each sample, a Status says how
samples.py   the best iterate of every sample and how it ended; stop.py: Stop and Status
solvers/     SOLVERS: Picard, Anderson, Broyden, Reversible
adjoints/    ADJOINTS: Implicit, GMRES, Phantom, Unroll, Reverse, EquilibriumPropagation, Shine differentiate the solve
cells/       CELLS: MLP, energy, transformer, Transformer-XL, trellis, contraction and state-space cells give the map
recurrence.py  a diagonal linear recurrence by a parallel scan
layer.py     DEQ; cuda_graphs.py: its map on a GPU as CUDA graphs, made by cuda_recorder.py; stack.py: several in sequence
stability.py  Jacobian penalty and spectral radius
"""

from deq.adjoints import (
    ADJOINTS,
    GMRES,
    Adjoint,
    EquilibriumPropagation,
    Implicit,
    Phantom,
    Reverse,
    Shine,
    SolvingAdjoint,
    StoppedAdjoint,
    Unroll,
)
from deq.cells import (
    CELLS,
    Cell,
    ContractionCell,
    EnergyCell,
    MLPCell,
    StateSpaceCell,
    TransformerCell,
    TransformerXLCell,
    TrellisCell,
)
from deq.core import Core, Output
from deq.layer import DEQ
from deq.solve import Map, Solution, Solver, Status, Stop, solve
from deq.solvers import SOLVERS, Anderson, Broyden, Picard, Reversible
from deq.stability import Jacobian, jacobian_penalty, spectral_radius
from deq.stack import Stack

__all__ = [
    "ADJOINTS", "CELLS", "DEQ", "GMRES", "SOLVERS", "Adjoint", "Anderson", "Broyden", "Cell", "ContractionCell", "Core",
    "EnergyCell", "EquilibriumPropagation", "Implicit", "Jacobian", "MLPCell", "Map", "Output", "Phantom", "Picard", "Reverse",
    "Reversible", "Shine", "Solution", "Solver", "SolvingAdjoint", "Stack", "StateSpaceCell", "Status", "Stop", "StoppedAdjoint",
    "TransformerCell", "TransformerXLCell", "TrellisCell", "Unroll", "jacobian_penalty", "solve", "spectral_radius",
]  # fmt: skip
