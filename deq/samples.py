"""The state of every sample of a solve: its best iterate, and whether and how it ended.

HostSamples reads the gaps on the host as they arrive. DeviceSamples reads no value: it keeps the best iterate by masks and computes
at the end how the samples ended. Both give the same bits.
"""

import math
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deq.stop import Status, Stop

Numbers = npt.NDArray[Any]

_LONG = 4096  # numbers in a sample: from here on, copying single samples takes less time on a CPU than a mask


class Outcomes(NamedTuple):
    """How the samples ended: status (B,) int8, gap and size = ||f(z)|| (B,) of the best iterate, steps (B,) int32."""

    status: Tensor
    gap: Tensor
    size: Tensor
    steps: Tensor


class _BestIterates:
    """The best iterate of every sample and, where they are given, their images under f."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self._owned = False  # whether they are this object's to write to

    def keep_all(self, states: list[Tensor]) -> None:
        """Keep the states of all samples, by reference."""
        self.states, self._owned = states, False

    def keep(self, better: Tensor, states: list[Tensor]) -> None:
        """Keep the states of the samples marked in `better` (B,)."""
        self.states = [torch.where(_broadcast(better, new), new, old) for new, old in zip(states, self.states, strict=True)]

    def copy_rows(self, rows: list[int], states: list[Tensor]) -> None:
        """Keep the states of the samples with these numbers."""
        if not self._owned:
            self.states, self._owned = [state.clone() for state in self.states], True
        for new, old in zip(states, self.states, strict=True):
            for row in rows:
                old[row].copy_(new[row])


class HostSamples(_BestIterates):
    """Samples that are decided on as their gaps arrive.

    `update` first checks whether any sample ends at this step, which is cheap, and updates outcomes only where one does. Both ways
    give the same bits: a sample's outcome does not depend on the others in its batch.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop, self._step = stop, 0
        # NumPy warns of 0 times infinity and of rtol times a large size.
        self._quiet = nullcontext if stop.rtol and stop.rtol <= 1 else partial(np.errstate, invalid="ignore", over="ignore")

    def _begin(self, gap: Numbers, size: Numbers) -> None:
        limits, stop = np.finfo(gap.dtype), self._stop
        self.active = np.ones(len(gap), dtype=bool)
        self.all_ended = len(gap) == 0
        self._status = np.full(len(gap), Status.MAX_STEPS, dtype=np.int8)
        self._steps = np.full(len(gap), stop.max_steps, dtype=np.int32)
        self._gap, self._size = gap, size
        # A sample that is done gets bounds that hold any gap, and a best gap of minus infinity.
        self._rtol = np.full_like(gap, 0.0 if stop.rtol is None else stop.rtol)
        self._least = np.full_like(gap, -limits.max if stop.rtol is None else max(stop.atol, float(limits.tiny)))
        with np.errstate(over="ignore"):
            most = min(stop.growth, float(limits.max)) * np.maximum(gap, gap.dtype.type(1))
        self._most = np.minimum(most, limits.max)  # finite, so that an infinite gap exceeds it
        self._gap_to_beat = np.minimum(gap, self._most)

    @property
    def failed_at_cap(self) -> bool:
        """Whether a sample diverged or was not finite at the last evaluation; without a tolerance that changes nothing."""
        return self._stop.rtol is not None and bool(((self._steps == self._step) & (self._status >= Status.DIVERGED)).any())

    def with_ended_replaced(self, z: Tensor) -> Tensor:
        """Return z (B, ...) with the best iterate in place of a sample that has ended."""
        if self._step == 0 or self.active.all():
            return z
        return torch.where(_broadcast(torch.from_numpy(self.active).to(z.device, non_blocking=True), z), z, self.states[0])

    def update(self, states: list[Tensor], gap: Numbers, size: Numbers) -> None:
        """Keep better iterates, and record which samples ended; `gap` and `size` (B,) are of the same evaluation as `states`."""
        self._step += 1
        if self._step == 1:
            self._begin(gap, size)
            self.keep_all(states)
        with self._quiet():
            threshold = self._rtol * size + self._least
        high, better = gap >= threshold, gap <= self._gap_to_beat  # False for NaN
        if np.count_nonzero(high & better) == len(gap):  # all improve and none ends; several times as fast as all()
            self.keep_all(states)
            self._gap, self._size, self._gap_to_beat = gap, size, gap
        elif (high & (gap <= self._most)).all():
            self._improve(better, states, gap, size)
        else:
            self._end_some(states, gap, size, better, threshold)

    def _end_some(self, states: list[Tensor], gap: Numbers, size: Numbers, better: Numbers, threshold: Numbers) -> None:
        with np.errstate(over="ignore"):
            finite = (gap + size) < math.inf
        met = (gap < threshold) & finite
        ended = (met | ~(finite & (gap <= self._most))) & self.active
        # The iterate that met the tolerance is kept even where an earlier one had a smaller gap.
        self._improve((better | met) & self.active, states, gap, size)
        self._status[ended] = np.where(met, Status.CONVERGED, np.where(finite, Status.DIVERGED, Status.NONFINITE))[ended]
        self._steps[ended] = self._step
        self.active = self.active & ~ended
        self._rtol[ended], self._most[ended], self._least[ended] = -1.0, math.inf, -math.inf
        self._gap_to_beat = np.where(ended, -math.inf, self._gap_to_beat)  # it may be the caller's
        self.all_ended = not self.active.any()

    def _improve(self, better: Numbers, states: list[Tensor], gap: Numbers, size: Numbers) -> None:
        if not better.any() and not torch.is_grad_enabled():  # in grad mode the state stays attached
            return
        self._gap, self._size = np.where(better, gap, self._gap), np.where(better, size, self._size)
        self._gap_to_beat = np.where(better, gap, self._gap_to_beat)
        first = states[0]
        if first.device.type != "cpu" or torch.is_grad_enabled() or math.prod(first.shape[1:]) < _LONG:
            self.keep(torch.from_numpy(better).to(first.device, non_blocking=True), states)
        else:
            self.copy_rows(better.nonzero()[0].tolist(), states)

    def outcomes(self, gaps: Tensor, sizes: list[Tensor]) -> Outcomes:
        """Return how the samples ended."""
        return Outcomes(*map(torch.from_numpy, (self._status, self._gap, self._size, self._steps)))


class DeviceSamples(_BestIterates):
    """Samples of a solve without a tolerance, without reading a value: six operators an evaluation."""

    all_ended = False  # not before max_steps
    failed_at_cap = False  # exactly max_steps evaluations are made

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def with_ended_replaced(self, z: Tensor) -> Tensor:
        """Return z (B, ...) with the best iterate in place of a sample that has ended; other best iterates are forgotten."""
        if self.states:
            z = torch.where(_broadcast(self._gap_to_beat > -math.inf, z), z, self.states[0])
            self.keep_all([z] * len(self.states))
        return z

    def update(self, states: list[Tensor], gap: Tensor, size: Tensor) -> None:
        """Keep better iterates."""
        if not self.states:
            self.keep_all(states)
            self._gap_to_beat, self._most, self._never = gap, _most(gap, self._stop), torch.full_like(gap, -math.inf)
            self._zero = torch.zeros_like(gap)
        else:
            better = gap <= self._gap_to_beat
            self.keep(better, states)
        # An infinite size makes NaN of 0 times it, and NaN is within no bound.
        inside = torch.addcmul(gap, size, self._zero) <= self._most
        self._gap_to_beat = torch.where(inside, torch.minimum(gap, self._gap_to_beat), self._never)

    def outcomes(self, gaps: Tensor, sizes: list[Tensor]) -> Outcomes:
        """Return how the samples ended, from the gaps (rows, B) and sizes of all evaluations."""
        rows, limits, size = len(gaps), torch.finfo(gaps.dtype), torch.stack(sizes)
        number = torch.arange(rows, device=gaps.device).unsqueeze(1)
        finite = (gaps + size) < math.inf
        bad = ~(finite & (gaps <= _most(gaps[0], self._stop)))
        end = torch.where(bad, number, rows).amin(0)  # rows: never
        ended, last = end < rows, end.clamp(max=rows - 1)
        # The best is the smallest gap up to the end, the last of equal ones; the first row where none is finite.
        found = torch.where(number <= last, gaps, math.inf).nan_to_num(nan=math.inf, posinf=math.inf)
        found[0].clamp_(max=limits.max)
        best = (rows - 1 - found.flip(0).argmin(0)).unsqueeze(0)
        status = torch.where(finite.gather(0, last.unsqueeze(0))[0], Status.DIVERGED, Status.NONFINITE)
        return Outcomes(
            torch.where(ended, status, Status.MAX_STEPS).to(torch.int8),
            gaps.gather(0, best)[0],
            size.gather(0, best)[0],
            torch.where(ended, end + 1, self._stop.max_steps).int(),
        )


def _most(gap: Tensor, stop: Stop) -> Tensor:
    largest = torch.finfo(gap.dtype).max
    return torch.clamp(min(stop.growth, largest) * gap.clamp(min=1), max=largest)


def _broadcast(mask: Tensor, state: Tensor) -> Tensor:
    """Return the mask (B,) in a shape that broadcasts over a state (B, ...)."""
    return mask.view(-1, *[1] * (state.dim() - 1))
