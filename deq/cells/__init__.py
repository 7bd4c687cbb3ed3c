"""The cells, one file each, and the registry of their names. Imports deq.solve, never adjoints or layers."""

from deq.cells.cell import Cell
from deq.cells.contraction import ContractionCell
from deq.cells.energy import EnergyCell
from deq.cells.mlp import MLPCell
from deq.cells.state_space import StateSpaceCell
from deq.cells.transformer import TransformerCell
from deq.cells.transformer_xl import TransformerXLCell
from deq.cells.trellis import TrellisCell

CELLS: dict[str, type[Cell]] = {
    "contraction": ContractionCell,
    "energy": EnergyCell,
    "mlp": MLPCell,
    "state-space": StateSpaceCell,
    "transformer": TransformerCell,
    "transformer-xl": TransformerXLCell,
    "trellis": TrellisCell,
}

__all__ = [
    "CELLS",
    "Cell",
    "ContractionCell",
    "EnergyCell",
    "MLPCell",
    "StateSpaceCell",
    "TransformerCell",
    "TransformerXLCell",
    "TrellisCell",
]
