"""Explicit networks, the baselines of a DEQ; each is a `deq.Core`. Imports deq, torch and torchdiffeq, never bench.

unrolled.py         Unrolled: weight-tied depth over the DEQ's own cell, plain or checkpointed
looped.py           Looped: the DEQ's own cell iterated a random number of times in training, any number after it
adaptive_loop.py    AdaptiveLoop: the DEQ's own cell iterated at each position until that position halts
trellisnet.py       TrellisNet: weight-tied depth over the trellis cell, deep supervision, injection tied or untied
transformer_xl.py   TransformerXL: layers of relative attention with a memory each, untied or tied
convolution.py      TCN: dilated causal convolutions in residual blocks
recurrent.py        Recurrent: LSTM and GRU, plain or regularised for language
state_space.py      StateSpace: a selective diagonal linear recurrence, by a parallel scan
continuous.py       NeuralODE: dz/dt = f(z) - z over the DEQ's own cell, its gradient by the adjoint
counted.py          CountedCore: a core that reports how often it evaluated the cell's map
"""

from baselines.adaptive_loop import AdaptiveLoop
from baselines.continuous import NeuralODE
from baselines.convolution import TCN
from baselines.looped import Looped
from baselines.recurrent import Recurrent
from baselines.state_space import StateSpace
from baselines.transformer_xl import TransformerXL
from baselines.trellisnet import TrellisNet
from baselines.unrolled import Unrolled

__all__ = ["TCN", "AdaptiveLoop", "Looped", "NeuralODE", "Recurrent", "StateSpace", "TransformerXL", "TrellisNet", "Unrolled"]
