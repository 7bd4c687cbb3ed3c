"""The explicit networks that a DEQ is compared with; each is a `deq.Core`. Imports deq and torch, never bench.

unrolled.py    Unrolled: weight-tied depth over the DEQ's own cell, plain or checkpointed
recurrent.py   Recurrent: LSTM and GRU
"""

from baselines.recurrent import Recurrent
from baselines.unrolled import Unrolled

__all__ = ["Recurrent", "Unrolled"]
