"""When a solve ends, and how it ended for a sample."""

import math
from dataclasses import dataclass
from enum import IntEnum

from deq.checks import check_whole


class Status(IntEnum):
    """How one sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    NONFINITE = 3


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a sample is done: ||f(z) - z|| < atol + rtol ||f(z)||, or max_steps evaluations, or a gap grown by `growth`.

    `rtol=None` takes exactly `max_steps` evaluations without a data-dependent stop (no host sync; traceable under FakeTensorMode)
    and needs `atol=0`; `rtol=0` stops by `atol` alone. `check_every` k checks every k evaluations whether all samples are done: on
    a GPU one host sync in k, for up to k - 1 more evaluations and k - 1 more states; every sample's outcome stays the same.
    A sample has diverged when its gap exceeds `growth` times the larger of its first gap and one. The bound is absolute because a
    relative gap cannot see divergence (z -> 3z + 1 keeps it at 2/3), and at least one because a solve may start next to an unstable
    fixed point, where the first gap is tiny. Float32 cannot reach an rtol below about 1e-6, nor f in bfloat16 one below about 4e-3
    (adjoints raise it). A float32 gap below about 1e-19 counts as zero, since its square underflows.
    """

    rtol: float | None = 1e-3
    atol: float = 0.0
    max_steps: int = 30
    growth: float = 1e6
    check_every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.rtol, bool) or not (self.rtol is None or 0 <= self.rtol < math.inf):
            raise ValueError(f"rtol must be None or finite and not negative, got {self.rtol}")
        if isinstance(self.atol, bool) or not 0 <= self.atol < math.inf:
            raise ValueError(f"atol must be finite and not negative, got {self.atol}")
        if self.rtol is None and self.atol > 0:
            raise ValueError(f"rtol=None takes all max_steps evaluations, so atol must be 0, got {self.atol}; rtol=0 stops by atol")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol and atol cannot both be 0: no solve would end; rtol=None takes exactly max_steps evaluations")
        check_whole(max_steps=self.max_steps, check_every=self.check_every)
        if isinstance(self.growth, bool) or not self.growth > 1:
            raise ValueError(f"growth must be above 1, got {self.growth}")
