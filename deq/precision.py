"""Which precision a solve runs in: its state and its solver in float32 at least, f as the caller set it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
_IEEE = ("ieee", "none")  # settings that compute float32 products in float32
_BACKENDS: Any = torch.backends


def in_float32(f: Callable[[Tensor], Tensor], z0: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return f and z0 with a state in float32 at least; f still gets half-precision states in z0's dtype, except under autocast."""
    if z0.dtype not in HALF:
        return f, z0
    if torch.is_autocast_enabled(z0.device.type):
        return f, z0.float()
    return lambda z: f(z.to(z0.dtype)), z0.float()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor, in half precision as float32."""
    return tensor.float() if tensor.dtype in HALF else tensor


def full_precision(device: str) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the context of a solver's step: no autocast and no TF32. f runs outside of it."""
    contexts: list[Callable[[], AbstractContextManager[object]]] = []
    if torch.is_autocast_enabled(device):
        contexts.append(lambda: torch.autocast(device, enabled=False))
    products = {"cuda": _BACKENDS.cuda.matmul, "cpu": _BACKENDS.mkldnn.matmul}.get(device)
    chosen = "ieee" if products is None else products.fp32_precision
    if (_BACKENDS.fp32_precision if chosen == "none" else chosen) not in _IEEE:  # "none": the setting of all backends holds
        contexts.append(lambda: _ieee(products))
    if not contexts:
        return nullcontext

    @contextmanager
    def enter() -> Iterator[None]:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            yield

    return enter


@contextmanager
def _ieee(products: Any) -> Iterator[None]:
    before, products.fp32_precision = products.fp32_precision, "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before
