"""The adjoints, one file each, and the registry of their names. Imports deq.solve and deq.solvers, never cells or layers.

adjoint.py holds the base classes (SolvingAdjoint: with a backward solve) and what the adjoints share: the forward solve, the
tolerance that a precision can reach, and the autograd function that attaches a gradient to a detached solution.
"""

from deq.adjoints.adjoint import Adjoint, SolvingAdjoint
from deq.adjoints.implicit import Implicit
from deq.adjoints.phantom import Phantom
from deq.adjoints.propagation import EquilibriumPropagation
from deq.adjoints.reverse import Reverse
from deq.adjoints.shine import Shine
from deq.adjoints.unroll import Unroll

ADJOINTS: dict[str, type[Adjoint]] = {
    "implicit": Implicit,
    "phantom": Phantom,
    "propagation": EquilibriumPropagation,
    "reverse": Reverse,
    "shine": Shine,
    "unroll": Unroll,
}

__all__ = ["ADJOINTS", "Adjoint", "EquilibriumPropagation", "Implicit", "Phantom", "Reverse", "Shine", "SolvingAdjoint", "Unroll"]
