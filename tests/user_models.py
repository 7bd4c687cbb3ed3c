"""Models, a cell, a solver and a task as a user defines them, named by dotted path (`user_models:Averages`).

FailingModel fails in each of the ways that the execution engines must survive.
"""

import ctypes
import multiprocessing.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
    """One layer on each position and the mean of the sequence up to it."""

    def __init__(self, *, inputs: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.layer = nn.Linear(2 * inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return Output(torch.tanh(self.layer(torch.cat((x, self.scale * x.cumsum(dim=1) / count), dim=-1))))


class Supervised(Averages):
    """Averages whose output is also its auxiliary output in training."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x, memory).y
        return Output(y, auxiliary=(y,) if self.training else ())


class Leaky(Core):
    """An equilibrium model that keeps the activations of every step."""

    def __init__(self, *, inputs: int, width: int, steps: int = 8) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        self.layer = nn.Linear(inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Iterate without a graph, then once with it, and return all iterates as memory."""
        with torch.no_grad():
            kept = [torch.tanh(self.layer(x))]
            for _ in range(self.steps):
                kept.append(torch.tanh(0.5 * kept[-1] + self.layer(x)))
        return Output(torch.tanh(0.5 * kept[-1] + self.layer(x)), memory=tuple(kept))


class DataDependent(Averages):
    """A model whose operators depend on the values of its activations."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x).y
        return Output(torch.tanh(y) if y.mean() > 0 else y)


class DataDependentBuffer(Averages):
    """A model whose operators depend on a tensor that it computed from its activations."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y, top = super().forward(x).y, torch.zeros(())
        top.add_(y.detach().abs().mean())
        return Output(torch.tanh(y) if top > 0 else y)


class Shift(Cell):
    """f(z) = tanh(W shift(z) + U x): each position reads its left neighbour."""

    def __init__(self, *, width: int, gain: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        with torch.no_grad():
            self.inner.weight.mul_(gain)

    def bind(self, x: Tensor, memory: None = None) -> Map:
        injection = self.outer(x)
        return lambda z: torch.tanh(self.inner(nn.functional.pad(z, (0, 0, 1, 0))[:, :-1]) + injection)


@dataclass(frozen=True, kw_only=True)
class Halfway:
    """z <- the mean of z and f(z)."""

    share: float = 0.5
    differentiable: ClassVar[bool] = True

    def init(self, z: Tensor, steps: int) -> None:
        return None

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: None) -> tuple[Tensor, None]:
        return torch.lerp(z, fz, self.share), None


class Echo(Task):
    """Predict the present token, which any model learns. Chance is ln `symbols` nats; `hits` is the accuracy."""

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
        losses = nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="sum")
        return {"loss": (losses, targets.numel()), "hits": ((logits.argmax(-1) == targets).sum().double(), targets.numel())}

    def fingerprint(self) -> str:
        return f"echo {self.vocabulary} {self.length}"


class FailingModel(Averages):
    """Averages that fails at training step `at` as `how` says; processes leave marks in `folder`."""

    def __init__(self, *, inputs: int, width: int, how: str = "none", at: int = 1, folder: str = "", wait_s: float = 20.0) -> None:
        super().__init__(inputs=inputs, width=width)
        self.how, self.at, self.folder, self.wait_s = how, at, folder, wait_s
        self.steps = 0
        if how == "build":
            raise RuntimeError("cannot be\nbuilt")

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Apply the layer; fail at the given step."""
        output = super().forward(x, memory)
        self.steps += self.training
        if self.training and self.steps == self.at:
            if self.how == "nan":
                return Output(output.y * float("nan"))
            if self.how != "none":
                getattr(self, f"_{self.how}")()
        return output

    def _ode(self) -> None:
        raise AssertionError("non-finite values in state `y`: tensor([nan])")

    def _raise(self) -> None:
        raise RuntimeError("a user's mistake")

    def _surrogate(self) -> None:
        raise RuntimeError("a byte that is no character: \udcff")

    def _exit(self) -> None:
        raise SystemExit(3)

    def _allocate(self) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    def _allocate_in_rank_1(self) -> None:
        if os.environ.get("RANK") == "1":
            self._allocate()

    def _memory(self) -> None:
        raise MemoryError

    def _fill_python_memory(self) -> None:
        self.kept = []
        while True:
            self.kept.append(bytearray(2**20))

    def _fill_torch_memory(self) -> None:
        kept = []
        end = time.monotonic() + self.wait_s
        while time.monotonic() < end:
            kept.append(torch.ones(2**22))

    def _chained(self) -> None:
        try:
            raise MemoryError
        except MemoryError as error:
            raise RuntimeError("the buffer could not grow") from error

    def _terminate(self) -> None:
        """End as the C++ runtime ends a process with an uncaught exception."""
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()

    def _keyboard(self) -> None:
        raise KeyboardInterrupt

    def _thread(self) -> None:
        threading.Thread(target=time.sleep, args=(self.wait_s,)).start()

    def _thread_exit(self) -> None:
        self._thread()
        raise SystemExit(3)

    def _finaliser(self) -> None:
        multiprocessing.util.Finalize(None, time.sleep, (self.wait_s,), exitpriority=1)

    def _fork(self) -> None:
        """Leave a child that shares every open file."""
        self._leave(os.fork())

    def _fork_kill(self) -> None:
        self._fork()
        self._kill()

    def _c_fork_kill(self) -> None:
        """Fork as compiled code does, without Python's hooks."""
        self._leave(ctypes.CDLL(None).fork())
        self._kill()

    def _leave(self, child: int) -> None:
        if child == 0:
            time.sleep(self.wait_s)
            os._exit(0)
        Path(self.folder, f"{child}.child").touch()

    def _close(self) -> None:
        """Shut down every connection of the process."""
        for handle in range(3, 256):
            with suppress(OSError), socket.socket(fileno=os.dup(handle)) as end:
                end.shutdown(socket.SHUT_RDWR)
        time.sleep(self.wait_s)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _segfault(self) -> None:
        ctypes.string_at(0)

    def _print(self) -> None:
        os.write(1, b"printed by the run\n")

    def _block_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM, signal.SIGINT])
        time.sleep(self.wait_s)

    def _sleep(self) -> None:
        """Sleep until the file `go` exists."""
        Path(self.folder, f"{os.getpid()}.asleep").touch()
        self._wait_until(Path(self.folder, "go").exists)

    def _meet(self) -> None:
        """Wait until two processes are at this step."""
        Path(self.folder, f"{os.getpid()}.here").touch()
        if not self._wait_until(lambda: len(list(Path(self.folder).glob("*.here"))) >= 2):
            raise TimeoutError("no second process")

    def _wait_until(self, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + self.wait_s
        while not (met := condition()) and time.monotonic() < end:
            time.sleep(0.01)
        return met


class ReadsWeights(Averages):
    """A model that reads its weights while it is built, which the meta device does not allow."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.scale = 1 / self.layer.weight.norm().item()


def positional(inputs: int, width: int, scale: float = 1.0) -> Core:
    """Build a model; its setting is not keyword-only."""
    return Averages(inputs=inputs, width=width, scale=scale)


def no_core(*, inputs: int, width: int) -> nn.Module:
    """Build a module that is no Core."""
    return nn.Linear(inputs, width)


def takes_nothing() -> Core:
    """Build a model; accepts no width."""
    return Averages(inputs=1, width=1)


NUMBER = 7
