"""Keep tensors that depend on sizes alone, such as those of positions, from one call to the next."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

Sizes = ParamSpec("Sizes")
Made = TypeVar("Made")


class KeepLast(Generic[Sizes, Made]):
    """A function that makes tensors of sizes alone; a call with the arguments of the last one returns its result again.

    Of a tensor among the arguments only dtype and device count, for `make` too. The result is never to be written to. A copy starts
    empty. Nothing is kept of calls that torch.compile or a CUDA graph records. A cell's map must hold all results that its `bind`
    used: they are freed here at the next sizes, and a CUDA graph of `bind` reads them again.
    """

    def __init__(self, make: Callable[Sizes, Made]) -> None:
        self._make = make
        self._last: tuple[tuple[Any, ...], Made] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last result."""
        return {"_make": self._make, "_last": None}

    def __call__(self, *sizes: Sizes.args, **named: Sizes.kwargs) -> Made:
        """Make the tensors, or return the last ones."""
        key = tuple(map(_key, (*sizes, *named.values())))
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        with torch.inference_mode(False):  # an inference tensor cannot be used in training later
            made = self._make(*sizes, **named)
        if not _is_recording():
            self._last = key, made
        return made


def _key(argument: Any) -> Any:
    """What of an argument decides the result; a fake tensor's mode owns what is made of it."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.device, getattr(argument, "fake_mode", None)
    return argument


def _is_recording() -> bool:
    """Whether operators are recorded by torch.compile or a CUDA graph, whose results may be overwritten later."""
    capturing: bool = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    return capturing or torch.compiler.is_compiling()
