"""The solve loop: every fixed point in this library, forward and adjoint, is found here.

A Solver only proposes the next iterate. `solve` evaluates f, counts, measures every sample's gap ||f(z) - z||, keeps the best
iterate and reports how each sample ended. Numerical failure never raises: check `Solution.status`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from deq.precision import full_precision, in_float32
from deq.samples import DeviceSamples, HostSamples, Outcomes
from deq.stop import Status, Stop

Map = Callable[[Tensor], Tensor]

_device_path: ContextVar[bool] = ContextVar("device path", default=False)


class Solver(Protocol):
    """Proposes iterates; does not loop, stop or count. Settings are fields of the solver, state is in the memory it returns.

    Samples are independent: row b of a proposal depends only on row b of the arguments. States are float32 or float64, and `step`
    runs without autocast and TF32: half-precision products would keep a tight solve from converging.
    """

    @property
    def differentiable(self) -> bool:
        """Whether `step` may be differentiated through (its memory is not written in place)."""

    def init(self, z: Tensor, steps: int) -> Any:
        """Return the memory of a solve from z (B, ...) of at most `steps` steps: a NamedTuple of tensors and counts, or None."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Return the next iterate (B, ...) and memory, given z, fz = f(z) and the memory."""


@dataclass(frozen=True)
class Solution:
    """The iterate of every sample that a solve returns, and what it cost.

    z (B, ...): the iterate with the smallest gap (at the cap of a solve with an image: the newest); status (B,) int8 of Status;
    gap (B,): its ||f(z) - z||; residual (B,): gap over ||f(z)||; steps (B,): evaluations until the sample was done; nfe: those
    on the whole batch; gaps (rows, B): every gap in order, also of samples that are done while others go on; solver_bytes:
    storage of the solver; image (B, ...): f(z), where `solve` was asked for it.

    Diagnostics of samples are on the host, where the solve decided by them; with `rtol=None`, which decides nothing, on z's device.
    """

    z: Tensor
    status: Tensor
    gap: Tensor
    residual: Tensor
    steps: Tensor
    nfe: int
    gaps: Tensor
    solver_bytes: int
    image: Tensor | None = None

    @property
    def converged(self) -> Tensor:
        """(B,) bool: which samples met the tolerance."""
        return self.status == Status.CONVERGED


@contextmanager
def force_device_path() -> Iterator[None]:
    """Make solves on a CPU run the operators that they run on a GPU or on fake tensors; the results are the same."""
    token = _device_path.set(True)
    try:
        yield
    finally:
        _device_path.reset(token)


def is_sync_free(tensor: Tensor) -> bool:
    """Whether reading the tensor's values costs no host sync: True on a CPU, except while tracing or in `force_device_path`."""
    return tensor.device.type == "cpu" and type(tensor) is Tensor and not torch.compiler.is_compiling() and not _device_path.get()


def _storage_bytes(memory: Any) -> int:
    storages = {
        part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in tree_leaves(memory) if isinstance(part, Tensor)
    }
    return sum(storages.values())


def solve(f: Map, z0: Tensor, solver: Solver, stop: Stop, *, image: bool = False, attached: Map | None = None) -> Solution:
    """Find z = f(z) for every sample of z0 (B, ...) independently.

    Costs `Solution.nfe` evaluations of f and, off the CPU, a host sync every `stop.check_every` (none with `rtol=None`). The host
    waits for the gaps after it has launched the solver's step, so that the device has work. A sample that is done keeps its best
    iterate; f is evaluated on the whole batch until the last one is done.

    `Solution.image` is f(z) if `image` is set, or attached(z), where `attached` is f or another form of it, evaluated in grad mode.
    Either is the last of max_steps evaluations, and then z is the newest iterate of every sample that has not ended. After an
    earlier end, and with a tolerance where a sample fails at the last evaluation, z is the best iterates: `attached` makes one more
    evaluation there; f's image is kept and costs none.

    The state is float32 at least. For a z0 in half precision, f gets the state in z0's dtype and the solution has z0's dtype; under
    autocast both are float32, since autocast chooses f's precision. f may return a narrower float than its argument.
    Raises ValueError or TypeError where f returns another shape or dtype or writes to its argument, and NotImplementedError under
    torch.func transforms and forward-mode derivatives.
    """
    if not isinstance(z0, Tensor) or not z0.is_floating_point():
        raise TypeError(f"z0 must be a floating-point tensor, got {z0.dtype if isinstance(z0, Tensor) else type(z0).__name__}")
    if z0.dim() < 2:
        raise ValueError(f"z0 must be (B, ...) with at least two dimensions, got {tuple(z0.shape)}")
    if image and attached is not None:
        raise ValueError("solve returns one image: give image or attached, not both")
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError("solve cannot run inside torch.func transforms (vmap, grad, jvp, ...): stops depend on values")
    with torch.set_grad_enabled(torch.is_grad_enabled() and solver.differentiable):
        return _Solve(f, z0, stop, image, attached).run(solver)


class _Solve:
    """One solve: evaluates f, reads gaps and decides when it is over."""

    def __init__(self, f: Map, z0: Tensor, stop: Stop, image: bool, attached: Map | None) -> None:
        self.f, self.z0, self.stop = f, z0, stop
        self.map, self.start = in_float32(f, z0)
        self.with_images, self.attached = image, None if attached is None else in_float32(attached, z0)[0]
        self.sync_free = is_sync_free(self.start)
        self.samples = DeviceSamples(stop) if stop.rtol is None and not self.sync_free else HostSamples(stop)
        self.gaps: list[Tensor] = []
        self.sizes: list[Tensor] = []
        self.unread: list[list[Tensor]] = []  # the states whose gaps the host has not read yet
        self.reading: Callable[[], Tensor] | None = None
        # Whether f writes every result to the same memory, as a CUDA graph does; known once a result was compared with the next.
        self.static: bool | None = None
        self.held: Tensor | None = None

    def run(self, solver: Solver) -> Solution:
        """Alternate evaluations and the solver's steps until every sample has ended."""
        z = self.start.clone() if self.start is self.z0 else self.start  # f may write to its argument, never to the caller's tensor
        context, most = full_precision(z.device.type), self.stop.max_steps
        memory = solver.init(z, most)
        for step in range(1, most + 1):
            if step == most and (self.with_images or self.attached is not None):
                solver_bytes = _storage_bytes(memory)
                del memory  # free it before f is evaluated with a graph
                return self._finish_at_the_cap(z, solver_bytes)
            fz = self._evaluate(z)
            self._note(step, z, fz)
            if self.sync_free and self._is_over(step):
                break
            if step < most:
                with context():
                    z, memory = solver.step(self.map, z, fz, memory)
                if self.static is not False and _aliased(z, fz):
                    self.held, z = (fz if self.static is None else None), z.clone()
            del fz  # free it before f is evaluated again
            if not self.sync_free and self._is_over(step):
                break
        solver_bytes = _storage_bytes(memory)
        del memory
        return self._finish(solver_bytes)

    def _evaluate(self, z: Tensor) -> Tensor:
        fz = _checked(self.map, z)
        if not self.gaps and self.sync_free and not _same(z, self.z0):
            raise _wrote()  # through z.data or NumPy, which the version counter does not see
        if self.held is not None:
            self.static, self.held = _aliased(fz, self.held), None
        return fz

    def _note(self, step: int, z: Tensor, fz: Tensor) -> None:
        """Measure the gap of z, and keep z and, where images are wanted, fz for the samples that have no better ones."""
        gap, size = _gap_and_size(z, fz)
        states = [z]
        if self.with_images:
            states.append(fz if self.static is False else fz.clone())
            self.held = fz if self.static is None else None
        self.gaps.append(gap)
        self.sizes.append(size)
        if isinstance(self.samples, DeviceSamples):
            self.samples.update(states, gap, size)
        elif self.sync_free:
            self.samples.update(states, gap.numpy(), size.numpy())
        else:
            self.unread.append(states)
            if step % self.stop.check_every == 0 or step >= self.stop.max_steps - 1:
                count = len(self.unread)
                self.reading = start_reading(torch.stack(self.gaps[-count:] + self.sizes[-count:]))

    def _is_over(self, step: int) -> bool:
        """Whether all samples have ended, looked at every `check_every` evaluations."""
        if self.reading is not None and isinstance(self.samples, HostSamples):
            count, rows = len(self.unread), self.reading()
            for states, gap, size in zip(self.unread, rows[:count].numpy(), rows[count:].numpy(), strict=True):
                self.samples.update(states, gap, size)
            self.gaps[-count:] = rows[:count].unbind()
            self.unread, self.reading = [], None
        return self.stop.rtol is not None and step % self.stop.check_every == 0 and self.samples.all_ended

    def _finish(self, solver_bytes: int) -> Solution:
        """Return the best iterates, and their image where it is wanted."""
        z, nfe = self.samples.states[0], len(self.gaps)
        image = None
        if self.with_images:
            image = self.samples.states[1]
        elif self.attached is not None:
            image, nfe = self._attach(z, self.attached), nfe + 1
        gaps = torch.stack(self.gaps)
        return self._solution(z, self.samples.outcomes(gaps, self.sizes), gaps, nfe, image, solver_bytes)

    def _finish_at_the_cap(self, z: Tensor, solver_bytes: int) -> Solution:
        """Make the last of max_steps evaluations, the image's: at the newest iterates or, where a sample has ended, at the best."""
        z, step, self.held = self.samples.with_ended_replaced(z), self.stop.max_steps, None
        image = self._evaluate(z) if self.attached is None else self._attach(z, self.attached)
        self._note(step, z, image)
        self._is_over(step)
        if self.samples.failed_at_cap:
            return self._finish(solver_bytes)
        gaps = torch.stack(self.gaps)
        outcomes = self.samples.outcomes(gaps, self.sizes)._replace(gap=gaps[-1], size=self.sizes[-1].to(gaps.device))
        return self._solution(z, outcomes, gaps, step, image, solver_bytes)

    @torch.enable_grad()
    def _attach(self, z: Tensor, attached: Map) -> Tensor:
        return _checked(attached, z.detach())

    def _solution(self, z: Tensor, outcomes: Outcomes, gaps: Tensor, nfe: int, image: Tensor | None, solver_bytes: int) -> Solution:
        tiny = torch.finfo(outcomes.size.dtype).tiny
        return Solution(
            z=z.to(self.z0.dtype) if self.map is not self.f else z,
            status=outcomes.status,
            gap=outcomes.gap,
            residual=outcomes.gap / outcomes.size.clamp(min=tiny),
            steps=outcomes.steps,
            nfe=nfe,
            gaps=gaps,
            solver_bytes=solver_bytes,
            image=image,
        )


def _gap_and_size(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norms (B,) of fz - z and of fz."""
    if fz.requires_grad:
        z, fz = z.detach(), fz.detach()
    return torch.linalg.vector_norm(torch.sub(fz, z).flatten(1), dim=1), torch.linalg.vector_norm(fz.flatten(1), dim=1)


def start_reading(rows: Tensor) -> Callable[[], Tensor]:
    """Start a copy to the host; what is returned waits for it."""
    if rows.device.type != "cuda":
        return rows.cpu
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    host.copy_(rows, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def _same(z: Tensor, z0: Tensor) -> bool:
    return torch.equal(z, z0) or torch.allclose(z, z0.to(z.dtype), 0, 0, equal_nan=True)


def _checked(f: Map, z: Tensor) -> Tensor:
    """Return f(z) in z's dtype; check its shape and dtype, and that f did not write to z."""
    counted = not z.is_inference()  # an inference tensor has no version counter
    version = z._version if counted else 0
    fz = f(z)
    if not isinstance(fz, Tensor):
        raise TypeError(f"f must return a tensor, got {type(fz).__name__}")
    if fz.shape != z.shape:
        raise ValueError(f"f must return the shape of its argument, {tuple(z.shape)}, got {tuple(fz.shape)}")
    if counted and z._version != version:
        raise _wrote()
    if fz.device != z.device:
        raise ValueError(f"f must return a tensor on {z.device}, where its argument is, got {fz.device}")
    if fz.dtype != z.dtype:
        if not fz.is_floating_point() or torch.promote_types(fz.dtype, z.dtype) != z.dtype:
            raise TypeError(f"f must return its argument's dtype, {z.dtype}, or a narrower float, got {fz.dtype}")
        fz = fz.to(z.dtype)
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(fz).tangent is not None:
        raise NotImplementedError("solve has no forward-mode derivative; use an adjoint and reverse mode")
    return fz


def _wrote() -> ValueError:
    return ValueError("f wrote to its argument z; it must return a new tensor and leave z as it is")


def _aliased(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
