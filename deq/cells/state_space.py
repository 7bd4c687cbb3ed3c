"""An implicit state-space model: a selective diagonal recurrence whose decays, inputs and gates depend on its own output."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq.cells.cell import Cell
from deq.cells.trellis import delayed
from deq.checks import check_whole
from deq.recurrence import linear_recurrence
from deq.solve import Map


class StateSpaceMemory(NamedTuple):
    """Memory of a StateSpaceCell."""

    z: Tensor  # (B, 1, D) solution at the last position
    h: Tensor  # (B, S) state of the recurrence there


class StateSpaceCell(Cell):
    """An implicit state-space model: decays, inputs and gates of its scan read the iterate (Schöne 2025, arXiv 2502.07827).

        f(z) = LN(P (h * silu(g))),   h_t = a_t h_{t-1} + (1 - a_t) b_t,   (logit a_t, b_t, g_t) = W z_t + U x_t + c

    For a given z the recurrence is linear and diagonal, and a scan computes all positions at once, as in an explicit state-space
    model; at the fixed point its decays depend on its states, so that it is a non-linear recurrent network with dense transitions.
    The recurrence is minGRU's, in place of the paper's Mamba-2; its residual connection, which before a normalisation only relaxes
    the iteration, is left to the solver. A fixed point exists: f is continuous and maps into the ball of radius sqrt(D) at each
    position. It need not be unique, nor need plain iteration find it.

    With `strict`, a_t, b_t and g_t read z_{t-1} instead of z_t, a shift as in fixed-point RNNs (Movahedi et al. 2025, arXiv
    2503.10799). Then f(z)_t depends on z at positions before t alone. So the fixed point is unique, whatever the weights; plain
    iteration has it to the bit after as many evaluations as there are positions; the Jacobian has no eigenvalue but zero.

    x has `inputs` (default `width`) channels, h has S = `states` (default `width`). Initial decays are spread over [0.5, 0.999]; W
    starts at half of torch's default, where the first solves converge (Picard: 12 steps to 1e-4 at width 24). The memory is z and h
    at the last position; h costs one more evaluation of the recurrence. Parameters: S (4 D + 3 I + 3) + D for I inputs.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, *, width: int, inputs: int | None = None, states: int | None = None, strict: bool = False) -> None:
        super().__init__()
        inputs, states = width if inputs is None else inputs, width if states is None else states
        check_whole(width=width, inputs=inputs, states=states)
        self.width, self.strict = width, strict
        self.inject = nn.Linear(inputs, 3 * states)
        self.read = nn.Linear(width, 3 * states, bias=False)
        self.project = nn.Linear(states, width)
        with torch.no_grad():
            self.read.weight.mul_(0.5)
            self.inject.bias[:states] = torch.logit(torch.linspace(0.5, 0.999, states))

    def _recurrence(self, x: Tensor, memory: StateSpaceMemory | None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the map from z to the states h and the gates g (B, T, S); compute U x + c once."""
        injection = self.inject(x)
        past, state = (None, None) if memory is None else memory

        def run(z: Tensor) -> tuple[Tensor, Tensor]:
            read = self.read(delayed(z, past) if self.strict else z) + injection
            decay, entering, gate = read.chunk(3, dim=-1)
            decay = decay.to(z.dtype).sigmoid()  # under autocast z is wider: in bfloat16 no decay lies between 0.996 and 1
            return linear_recurrence(decay, (1 - decay) * entering, state), gate

        return run

    def bind(self, x: Tensor, memory: StateSpaceMemory | None = None) -> Map:
        """Compute U x + c once."""
        run = self._recurrence(x, memory)

        def f(z: Tensor) -> Tensor:
            h, gate = run(z)
            return F.layer_norm(self.project(h * F.silu(gate)), (self.width,))

        return f

    @torch.no_grad()
    def remember(self, z: Tensor, x: Tensor, memory: StateSpaceMemory | None = None) -> StateSpaceMemory:
        """Return a detached copy of the solution and the state at the last position."""
        h, _ = self._recurrence(x, memory)(z)
        return StateSpaceMemory(z[:, -1:].clone(), h[:, -1].clone())
