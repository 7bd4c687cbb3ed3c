"""The operators that a solver runs for an evaluation: on a GPU each is a kernel to launch, some microseconds of the host's time."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deq import Anderson, Broyden, Picard, Solver, Stop, solve
from deq.solve import force_device_path

VIEWS = {
    "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "permute", "reshape", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip
TORCHDEQ = {"Picard": 39, "Anderson": 51, "Broyden": 70}  # of its fixed_point_iter, anderson and broyden, counted in the same way


class Launches(TorchDispatchMode):
    """Counts the operators that are not views, and those that read a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.reads += name in {"_local_scalar_dense", "equal", "nonzero", "is_nonzero"}
        self.count += name not in VIEWS
        return func(*args, **(kwargs or {}))


def each(solver: Solver, rtol: float | None) -> tuple[float, float]:
    """Operators and reads for one more evaluation of tanh(W z + x), which takes three."""
    weight, x = torch.linalg.qr(torch.randn(64, 64))[0], torch.randn(32, 64)
    found = []
    for steps in (10, 20):
        with torch.no_grad(), Launches() as launches:
            solve(lambda z: torch.tanh(torch.add(x, z @ weight)), torch.zeros(32, 64), solver, Stop(rtol=rtol, max_steps=steps))
        found.append(launches)
    return (found[1].count - found[0].count) / 10, (found[1].reads - found[0].reads) / 10


@pytest.mark.parametrize(
    ("solver", "free", "looking"),
    [(Picard(), 12, 7), (Anderson(), 29, 24), (Broyden(), 33, 28)],
    ids=["picard", "anderson", "broyden"],
)
def test_an_evaluation_takes_few_operators_and_reads_no_value(solver: Solver, free: int, looking: int) -> None:
    """`free`: with rtol=None, by masks. `looking`: with a tolerance, with one copy of the gaps to the host."""
    with force_device_path():
        assert each(solver, None) == (free, 0)
        assert each(solver, 1e-30) == (looking, 0)
    assert free < 0.6 * TORCHDEQ[type(solver).__name__]
    assert each(solver, 1e-30)[0] < looking  # on a CPU the gaps are where the host reads them, and values save work
