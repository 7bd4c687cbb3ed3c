"""The adjoints, one file each, and the registry of their names. Imports deq.solve and deq.solvers, never cells or layers.

adjoint.py holds the base classes (SolvingAdjoint: with a backward solve, StoppedAdjoint: with any backward iteration) and what the
adjoints share: the forward solve, the tolerance that a precision can reach, and the autograd function that attaches a gradient to a
detached solution.
"""

from deq.adjoints.adjoint import Adjoint, SolvingAdjoint, StoppedAdjoint
from deq.adjoints.gmres import GMRES
from deq.adjoints.implicit import Implicit
from deq.adjoints.phantom import Phantom
from deq.adjoints.propagation import EquilibriumPropagation
from deq.adjoints.reverse import Reverse
from deq.adjoints.shine import Shine
from deq.adjoints.unroll import Unroll

ADJOINTS: dict[str, type[Adjoint]] = {
    "implicit": Implicit,
    "gmres": GMRES,
    "phantom": Phantom,
    "propagation": EquilibriumPropagation,
    "reverse": Reverse,
    "shine": Shine,
    "unroll": Unroll,
}

__all__ = [
    "ADJOINTS", "GMRES", "Adjoint", "EquilibriumPropagation", "Implicit", "Phantom", "Reverse", "Shine", "SolvingAdjoint",
    "StoppedAdjoint", "Unroll",
]  # fmt: skip
