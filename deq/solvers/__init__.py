"""The solvers, one small file each, and the literal registry of their names."""

from deq.solvers.anderson import Anderson
from deq.solvers.broyden import Broyden
from deq.solvers.picard import Picard

SOLVERS: dict[str, type[Picard] | type[Anderson] | type[Broyden]] = {
    "picard": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
}

__all__ = ["SOLVERS", "Anderson", "Broyden", "Picard"]
