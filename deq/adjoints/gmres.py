"""The implicit gradient by GMRES: the backward equation is linear, and this method uses that."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deq.adjoints.adjoint import StoppedAdjoint, Watch
from deq.adjoints.implicit import attach_implicit
from deq.checks import check_whole
from deq.precision import full_precision
from deq.solve import Map, Solution, Solver, Status, Stop


@dataclass(frozen=True, kw_only=True)
class GMRES(StoppedAdjoint):
    """The exact gradient by the implicit function theorem: solve (I - J^T) u = v by restarted GMRES, sample by sample, to `stop`.

    Of all methods whose u lies in the span of v, J^T v, J^T J^T v, ... it leaves the smallest residual after each VJP, up to a
    restart every `restart`. A sample is done when its residual is below atol + rtol ||v||. Stores `restart` + 1 states in backward;
    otherwise costs what Implicit costs. First derivatives only: backward raises RuntimeError under `create_graph`.
    Saad and Schultz (1986).
    """

    numerics: ClassVar[int] = 1

    restart: int = 30

    def __post_init__(self) -> None:
        check_whole(restart=self.restart)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*); detached without grad mode, or where nothing that f depends on needs a gradient."""

        def backward(transposed: Map, right: Tensor, stop: Stop) -> Solution:
            return gmres(transposed, right, stop, self.restart)

        return attach_implicit("GMRES", f, z0, solver, stop, watch, self.stop, backward)


def gmres(product: Map, right: Tensor, stop: Stop, restart: int) -> Solution:
    """Solve u - product(u) = right (B, ...) for every sample, from u = 0, in at most `stop.max_steps` products.

    `product` is linear. In the Solution, residuals are relative to ||right||; `gaps` are those after each product.
    """
    flat = right.flatten(1)
    size = torch.linalg.vector_norm(flat, dim=1)
    tiny = torch.finfo(size.dtype).tiny  # a sample with nothing to solve has met its tolerance
    limit = None if stop.rtol is None else (stop.atol + stop.rtol * size).clamp(min=tiny)
    u, residual = torch.zeros_like(flat), flat
    active = torch.ones_like(size, dtype=torch.bool)
    steps = torch.full_like(size, stop.max_steps, dtype=torch.int32)
    context = full_precision(right.device.type)
    gap, gaps, stored = size, list[Tensor](), 0

    def apply(v: Tensor) -> Tensor:
        return v - product(v.view_as(right)).flatten(1)

    while len(gaps) < stop.max_steps:
        cycle = _Cycle(residual, min(restart, stop.max_steps - len(gaps)))
        stored = max(stored, cycle.bytes)
        while not cycle.full:
            w = apply(cycle.newest)
            with context():
                left = cycle.extend(w, active)
            gaps.append(left)
            gap = torch.where(active, left, gap)
            if limit is not None:
                ended = active & ((left < limit) | ~left.isfinite())
                steps[ended] = len(gaps)
                active = active & ~ended
                if not bool(active.any()):
                    break
        with context():
            change, residual = cycle.result()
        u = u + change
        residual = torch.where(active.unsqueeze(1), residual, 0)  # that of a sample which has ended may not be finite
        if limit is not None and not bool(active.any()):
            break
    met = gap < limit if limit is not None else torch.zeros_like(active)
    status = torch.where(met, Status.CONVERGED, torch.where(gap.isfinite(), Status.MAX_STEPS, Status.NONFINITE)).to(torch.int8)
    return Solution(
        z=u.view_as(right),
        status=status,
        gap=gap,
        residual=gap / size.clamp(min=tiny),
        steps=steps,
        nfe=len(gaps),
        gaps=torch.stack(gaps),
        solver_bytes=stored,
    )


class _Cycle:
    """One cycle of GMRES from a residual (B, N): an orthonormal basis and a least-squares problem kept triangular by rotations."""

    def __init__(self, residual: Tensor, room: int) -> None:
        batch, width = residual.shape
        self._start, self._count = residual, 0
        self._basis = residual.new_zeros(batch, room + 1, width)
        self._columns = residual.new_zeros(batch, room + 1, room)  # of the Hessenberg matrix
        self._triangle = residual.new_zeros(batch, room, room)
        self._rotations: list[tuple[Tensor, Tensor]] = []
        size = torch.linalg.vector_norm(residual, dim=1)
        self._right = [size]  # of the least-squares problem, rotated
        self._used = torch.zeros(batch, room, dtype=torch.bool, device=residual.device)
        self._basis[:, 0] = residual / torch.where(size > 0, size, 1).unsqueeze(1)

    @property
    def full(self) -> bool:
        """Whether the basis has no room."""
        return self._count == self._triangle.shape[1]

    @property
    def bytes(self) -> int:
        """Bytes of the basis and the matrices."""
        return self._basis.nbytes + self._columns.nbytes + self._triangle.nbytes

    @property
    def newest(self) -> Tensor:
        """The newest vector (B, N) of the basis."""
        return self._basis[:, self._count]

    def extend(self, w: Tensor, active: Tensor) -> Tensor:
        """Add w (B, N), the image of the newest vector, to the basis, for the active samples (B,).

        Returns the residuals (B,) of the least-squares solution.
        """
        k = self._count
        known = self._basis[:, : k + 1]
        column = self._columns[:, : k + 1, k]
        for _ in range(2):  # orthogonalised twice: once loses digits
            along = torch.linalg.vecdot(known, w.unsqueeze(1))
            w = w - torch.linalg.vecdot(along.unsqueeze(2), known, dim=1)
            column += along
        size = torch.linalg.vector_norm(w, dim=1)
        self._columns[:, k + 1, k] = size
        usable = (size > 0) & size.isfinite()  # 0 times a value that is not finite would spoil the result
        self._basis[:, k + 1] = torch.where(usable.unsqueeze(1), w / torch.where(usable, size, 1).unsqueeze(1), 0)
        entries = list(column.unbind(1))
        for place, (cosine, sine) in enumerate(self._rotations):
            above, below = entries[place], entries[place + 1]
            entries[place], entries[place + 1] = cosine * above + sine * below, cosine * below - sine * above
        length = torch.hypot(entries[k], size)
        safe = torch.where(length > 0, length, 1)
        cosine, sine = entries[k] / safe, size / safe
        self._rotations.append((cosine, sine))
        entries[k] = length
        self._triangle[:, : k + 1, k] = torch.stack(entries, dim=1)
        last = self._right[k]
        self._right[k] = cosine * last
        self._right.append(-sine * last)
        left = self._right[k + 1].abs()
        self._used[:, k] = active & left.isfinite() & (length > 0)
        self._count += 1
        return left

    def result(self) -> tuple[Tensor, Tensor]:
        """The change of u (B, N), each sample's from the vectors added while it was active, and the residual after it."""
        k = self._count
        used = self._used[:, :k]
        unit = torch.eye(k, dtype=self._triangle.dtype, device=self._triangle.device)
        triangle = torch.where(used.unsqueeze(1) & used.unsqueeze(2), self._triangle[:, :k, :k], unit)
        right = torch.where(used, torch.stack(self._right[:k], dim=1), 0)
        y = torch.linalg.solve_triangular(triangle, right.unsqueeze(2), upper=True)
        change = (self._basis[:, :k].mT @ y).squeeze(2)
        residual = self._start - (self._basis[:, : k + 1].mT @ (self._columns[:, : k + 1, :k] @ y)).squeeze(2)
        return change, residual
