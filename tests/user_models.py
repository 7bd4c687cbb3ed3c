"""What a user brings: a model, a cell, a solver and a task of their own, named by dotted path (`user_models:Averages`).

The second half holds models that fail, each in its own way, for the tests of what a run survives.
"""

import multiprocessing.util
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.records.metric import Metric
from bench.tasks.task import Split, Task, derive_seed
from deq import Cell, Core, Map, Output


class Averages(Core):
    """The mean of the past at every position, through one layer: causal, explicit, without memory."""

    def __init__(self, *, inputs: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.layer = nn.Linear(2 * inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """The layer sees the position and the mean up to it."""
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return Output(torch.tanh(self.layer(torch.cat((x, self.scale * x.cumsum(dim=1) / count), dim=-1))))


class Supervised(Averages):
    """Averages whose output stands for its auxiliary features too, in training."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """The same, twice."""
        y = super().forward(x, memory).y
        return Output(y, auxiliary=(y,) if self.training else ())


class Leaky(Core):
    """An equilibrium that forgets to let go: every step's activation stays with the result."""

    def __init__(self, *, inputs: int, width: int, steps: int = 8) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        self.layer = nn.Linear(inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Iterates without a graph, then once with it; keeps what it should not."""
        with torch.no_grad():
            kept = [torch.tanh(self.layer(x))]
            for _ in range(self.steps):
                kept.append(torch.tanh(0.5 * kept[-1] + self.layer(x)))
        return Output(torch.tanh(0.5 * kept[-1] + self.layer(x)), memory=tuple(kept))


class Looks(Averages):
    """A model whose work depends on its activations' values."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Once more where the mean is above nothing."""
        y = super().forward(x).y
        return Output(torch.tanh(y) if y.mean() > 0 else y)


class Remembers(Averages):
    """A model that writes its activations' mean into a number of its own, and looks at that."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """As `Looks`, by a detour."""
        y, top = super().forward(x).y, torch.zeros(())
        top.add_(y.detach().abs().mean())
        return Output(torch.tanh(y) if top > 0 else y)


class Shift(Cell):
    """f(z) = tanh(W shift(z) + U x): each position looks one to the left."""

    def __init__(self, *, width: int, gain: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        with torch.no_grad():
            self.inner.weight.mul_(gain)

    def bind(self, x: Tensor, memory: None = None) -> Map:
        """U x is computed once."""
        injection = self.outer(x)
        return lambda z: torch.tanh(self.inner(nn.functional.pad(z, (0, 0, 1, 0))[:, :-1]) + injection)


@dataclass(frozen=True, kw_only=True)
class Halfway:
    """z <- the mean of z and f(z)."""

    share: float = 0.5
    differentiable: ClassVar[bool] = True

    def init(self, z: Tensor, steps: int) -> None:
        """Nothing to remember."""
        return None

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: None) -> tuple[Tensor, None]:
        """A relaxed step."""
        return torch.lerp(z, fz, self.share), None


class Echo(Task):
    """Say again what is said now: any model that sees its input learns it. Chance is ln `symbols`; `hits` is better higher."""

    def __init__(self, *, symbols: int = 5, length: int = 6, headline: str = "hits") -> None:
        self.vocabulary, self.length = symbols, length
        self.headline = headline  # type: ignore[misc]
        self.metrics = {
            "loss": Metric(unit="nats", better="lower"),
            "hits": Metric(unit="fraction", better="higher", chance=1 / symbols, optimum=1.0),
        }

    def batches(self, split: Split, size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Uniform symbols; three batches in a held-out split."""
        number = first
        while split == "train" or number < 3:
            generator = torch.Generator().manual_seed(derive_seed(split, size, seed if split == "train" else 0, number))
            tokens = torch.randint(self.vocabulary, (size, self.length), generator=generator)
            yield tokens, tokens
            number += 1

    def score(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Cross-entropy and the share of right answers."""
        losses = nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="sum")
        return {"loss": (losses, targets.numel()), "hits": ((logits.argmax(-1) == targets).sum().double(), targets.numel())}

    def fingerprint(self) -> str:
        """The settings say it all."""
        return f"echo {self.vocabulary} {self.length}"


class Misfit(Averages):
    """Fails at its `at`-th training step, in the way `how` says; `folder` is where those that must meet leave a mark."""

    def __init__(self, *, inputs: int, width: int, how: str = "none", at: int = 1, folder: str = "", wait_s: float = 20.0) -> None:
        super().__init__(inputs=inputs, width=width)
        self.how, self.at, self.folder, self.wait_s = how, at, folder, wait_s
        self.steps = 0
        if how == "build":
            raise RuntimeError("cannot be\nbuilt")

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """As `Averages`, until it fails."""
        output = super().forward(x, memory)
        self.steps += self.training
        if self.training and self.steps == self.at:
            getattr(self, f"_{self.how}")()
            if self.how == "nan":
                return Output(output.y * float("nan"))
        return output

    def _none(self) -> None: ...

    def _ode(self) -> None:
        raise AssertionError("non-finite values in state `y`: tensor([nan])")

    def _nan(self) -> None: ...

    def _build(self) -> None: ...

    def _raise(self) -> None:
        raise RuntimeError("a user's mistake")

    def _strange(self) -> None:
        raise RuntimeError("a byte that is no character: \udcff")

    def _exit(self) -> None:
        raise SystemExit(3)

    def _allocate(self) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    def _second(self) -> None:
        """In one of the processes that share the run."""
        if os.environ.get("RANK") == "1":
            self._allocate()

    def _memory(self) -> None:
        raise MemoryError

    def _hoard(self) -> None:
        """Python's own memory, which it keeps hold of."""
        self.kept = []
        while True:
            self.kept.append(bytearray(2**20))

    def _chained(self) -> None:
        try:
            raise MemoryError
        except MemoryError as error:
            raise RuntimeError("the buffer could not grow") from error

    def _uncaught(self) -> None:
        """As the C++ runtime ends a process whose exception nobody caught."""
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()

    def _keyboard(self) -> None:
        raise KeyboardInterrupt

    def _thread(self) -> None:
        """Leaves a thread alive."""
        threading.Thread(target=time.sleep, args=(self.wait_s,)).start()

    def _thread_exit(self) -> None:
        self._thread()
        raise SystemExit(3)

    def _finaliser(self) -> None:
        multiprocessing.util.Finalize(None, time.sleep, (self.wait_s,), exitpriority=1)

    def _fork(self) -> None:
        """Leaves a child that shares every open file."""
        child = os.fork()
        if child == 0:
            time.sleep(self.wait_s)
            os._exit(0)
        Path(self.folder, f"{child}.child").touch()

    def _fork_kill(self) -> None:
        self._fork()
        self._kill()

    def _c_fork_kill(self) -> None:
        """As compiled code forks: Python does not know."""
        import ctypes

        child = ctypes.CDLL(None).fork()
        if child == 0:
            time.sleep(self.wait_s)
            os._exit(0)
        Path(self.folder, f"{child}.child").touch()
        self._kill()

    def _close(self) -> None:
        """Shuts every connection of its process."""
        for handle in range(3, 256):
            with suppress(OSError), socket.socket(fileno=os.dup(handle)) as end:
                end.shutdown(socket.SHUT_RDWR)
        time.sleep(self.wait_s)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _segfault(self) -> None:
        import ctypes

        ctypes.string_at(0)

    def _chatter(self) -> None:
        os.write(1, b"said by the run\n")

    def _deaf(self) -> None:
        """Hears no signal that can be ignored."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM, signal.SIGINT])
        time.sleep(self.wait_s)

    def _grow(self) -> None:
        held = []
        end = time.monotonic() + self.wait_s
        while time.monotonic() < end:
            held.append(torch.ones(2**22))

    def _sleep(self) -> None:
        """Until it is told to go."""
        Path(self.folder, f"{os.getpid()}.asleep").touch()
        end = time.monotonic() + self.wait_s
        while not Path(self.folder, "go").exists() and time.monotonic() < end:
            time.sleep(0.01)

    def _meet(self) -> None:
        """Wait until two processes are at this step."""
        Path(self.folder, f"{os.getpid()}.here").touch()
        end = time.monotonic() + self.wait_s
        while len(list(Path(self.folder).glob("*.here"))) < 2:
            if time.monotonic() > end:
                raise TimeoutError("met nobody")
            time.sleep(0.01)


class Eager(Averages):
    """Looks at its numbers while it is built, which parameters without storage do not allow."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.scale = 1 / self.layer.weight.norm().item()


def positional(inputs: int, width: int, scale: float = 1.0) -> Core:
    """A model whose setting is not keyword-only."""
    return Averages(inputs=inputs, width=width, scale=scale)


def no_core(*, inputs: int, width: int) -> nn.Module:
    """Makes something, but no Core."""
    return nn.Linear(inputs, width)


def takes_nothing() -> Core:
    """Cannot be told a width."""
    return Averages(inputs=1, width=1)


NUMBER = 7
