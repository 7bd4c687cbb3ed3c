"""The solvers, one file each, and the registry of their names. Imports deq.solve."""

from collections.abc import Callable

from deq.solve import Solver
from deq.solvers.anderson import Anderson
from deq.solvers.broyden import Broyden
from deq.solvers.picard import Picard
from deq.solvers.reversible import Reversible

SOLVERS: dict[str, Callable[..., Solver]] = {
    "picard": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
    "reversible": Reversible,
}

__all__ = ["SOLVERS", "Anderson", "Broyden", "Picard", "Reversible"]
