"""The cells, one file each, and the literal registry of their names."""

from deq.cells.cell import Cell
from deq.cells.mlp import MLPCell
from deq.cells.transformer import TransformerCell

CELLS: dict[str, type[MLPCell] | type[TransformerCell]] = {
    "mlp": MLPCell,
    "transformer": TransformerCell,
}

__all__ = ["CELLS", "Cell", "MLPCell", "TransformerCell"]
