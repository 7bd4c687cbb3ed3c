"""Solvers that break one rule each; only the check of that rule fails."""

from typing import Any

import torch
from torch import Tensor

from deq import Map


class _Sound:
    """The mean of z and f(z): breaks none."""

    differentiable = True

    def init(self, z: Tensor, steps: int) -> Any:
        return None

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.5), memory


class Flat(_Sound):
    """Forgets the shape of the state."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.5).flatten(1), memory


class Backward(_Sound):
    """Goes the wrong way."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return z - 0.5 * (fz - z), memory


class Shared(_Sound):
    """Has one damping for all samples."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return z + (fz - z) / (1 + (fz - z).norm()), memory


class Poisoned(_Sound):
    """Takes the largest residual of all samples, which hardly shows until one is not a number."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.5) + 1e-12 * (fz - z).abs().max(), memory


class Dividing(_Sound):
    """Divides by the residual."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        size = (fz - z).flatten(1).norm(dim=1).view(-1, *[1] * (z.dim() - 1))
        return z + (0.5 * size / size).to(z.dtype) * (fz - z), memory


class Counting(_Sound):
    """Counts its steps over all solves."""

    def __init__(self) -> None:
        self.taken = 0

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        self.taken += 1
        return torch.lerp(z, fz, 0.5 if self.taken % 2 else 0.6), memory


class Keeping(_Sound):
    """Keeps its last residual on itself."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        self.residual = (fz - z).detach()
        return torch.lerp(z, fz, 0.5), memory


class Growing(_Sound):
    """Declares a window, and keeps everything."""

    window = 4

    def init(self, z: Tensor, steps: int) -> Any:
        return ()

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.5), (*memory, (fz - z).detach())


class Endless(_Sound):
    """Keeps everything, and declares no window."""

    def init(self, z: Tensor, steps: int) -> Any:
        return ()

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.5), (*memory, (fz - z).detach())


class Peeking(_Sound):
    """Evaluates f itself, uncounted."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return f(torch.lerp(z, fz, 0.5)), memory


class Detaching(_Sound):
    """Declares that it is differentiable, and loses a part of the gradient."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return 0.5 * z.detach() + 0.5 * fz, memory


class Looking(_Sound):
    """Decides by values."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return torch.lerp(z, fz, 0.4 if (fz.abs() > 1e30).any() else 0.5), memory
