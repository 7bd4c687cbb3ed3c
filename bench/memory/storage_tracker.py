"""Where the bytes of a training step are: every storage by its purpose, in every phase of the step."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, UnsupportedOperatorException, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from bench.instruments.probes import LiveStorages, SavedTensor, StorageRef, no_garbage_collection

aten = torch.ops.aten

KINDS = ("embeddings", "weights", "gradients", "optimiser", "batch", "saved for backward", "solver history", "temporaries")
PHASES = ("embedding", "forward", "forward solve", "attached evaluation", "head", "backward solve", "backward", "optimiser")
_SCALARS = 4096  # elements of a vector made from no tensor, such as points in time: up to here it has real values


@dataclass(frozen=True)
class Waterfall:
    """Bytes by kind at the peak of a step and of each of its phases.

    `phase` names the phase of the peak. `changes` is the history of allocations: the kind, and by how many bytes it grew.
    `operators`: the names of those that ran.
    """

    peak: dict[str, int]
    phase: str
    phases: dict[str, dict[str, int]]
    changes: list[tuple[str, int]] = field(default_factory=list, compare=False, repr=False)
    operators: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return sum(self.peak.values())

    def counted(self, times: Mapping[str, int]) -> int:
        """The peak when kinds count so many times (0: not at all), which may be at another moment."""
        return max(accumulate((times.get(kind, 1) * grown for kind, grown in self.changes), initial=0))


class StorageTracker(LiveStorages):
    """Tracks every storage as `peak_live_bytes` does, with its purpose and the phase of the step.

    Under FakeTensorMode, operators on the tokens alone have real values, so that an adaptive softmax can sort them by cluster.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = PHASES[0]
        self._entries: list[tuple[StorageRef, int]] = []  # a storage, and by how many bytes it grew
        self._kinds: dict[int, tuple[str, StorageRef]] = {}  # by id of a reference, which is kept, so that no id is used twice
        self._largest: dict[str, tuple[int, int]] = {}  # by phase: bytes, and the number of entries at that moment
        self._operators: set[str] = set()
        self._faking = any(isinstance(mode, FakeTensorMode) for mode in _get_current_dispatch_mode_stack())

    def track(self, tensor: Tensor) -> None:
        """Add a storage that an operator takes or returns."""
        before = self.total
        super().track(tensor)
        if self.total != before:
            self._entries.append((self._refs[tensor.untyped_storage()._cdata], self.total - before))

    def drop_freed(self) -> None:
        """Remove the storages that were freed."""
        while self._freed:
            birth: StorageRef = self._freed.popleft()
            self._entries.append((birth, -birth.size))
            self.total -= birth.size
            if self._refs.get(birth.address) is birth:
                del self._refs[birth.address]

    def mark(self, tensors: Any, kind: str) -> None:
        """Set the kind of the tensors in a tree; the first kind of a storage stays."""
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor):
                self.track(leaf)
                ref = self._refs[leaf.untyped_storage()._cdata]
                self._kinds.setdefault(id(ref), (kind, ref))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self._operators.add(func.overloadpacket.__name__)
        result = super().__torch_dispatch__(partly_real(func) if self._faking else func, types, args, kwargs)
        if self.total > self._largest.get(self.phase, (-1, 0))[0]:
            self._largest[self.phase] = self.total, len(self._entries)
        return result

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Track what runs inside, and mark what autograd saves."""

        def pack(tensor: Tensor) -> SavedTensor:
            self.mark(tensor, "saved for backward")
            return SavedTensor(tensor)

        with no_garbage_collection(), saved_tensors_hooks(pack, lambda saved: saved.tensor), self:
            yield

    def waterfall(self) -> Waterfall:
        """The tracked bytes by kind."""
        changes = [(self._kinds.get(id(ref), ("temporaries",))[0], grown) for ref, grown in self._entries]
        live, done = Counter[str](), 0
        phases: dict[str, dict[str, int]] = {}
        for phase, (_, moment) in sorted(self._largest.items(), key=lambda item: item[1][1]):
            for kind, grown in changes[done:moment]:
                live[kind] += grown
            done = moment
            phases[phase] = {kind: live[kind] for kind in KINDS}
        largest = max(phases, key=lambda phase: sum(phases[phase].values()))
        ordered = {phase: phases[phase] for phase in PHASES if phase in phases}
        return Waterfall(peak=phases[largest], phase=largest, phases=ordered, changes=changes, operators=frozenset(self._operators))


def written(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operator's arguments that it writes to."""
    found = []
    for place, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    return found


def _with_workspace(made: tuple[Tensor, ...], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The result of oneDNN's LSTM with the workspace that it saves for backward, which is empty in torch's fake kernel.

    The real kernel runs on zeros: it alone knows the size.
    """
    with unset_fake_temporarily():
        zeros = [torch.zeros(arg.shape, dtype=arg.dtype) if isinstance(arg, Tensor) else arg for arg in args]
        size = aten.mkldnn_rnn_layer.default(*zeros)[3].numel()
    return (*made[:3], made[3].new_empty(size))


def partly_real(operator: Any) -> Any:
    """The operator, computed on real tensors where no argument is fake, and for short vectors made from no tensor."""

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if any(not isinstance(tensor, FakeTensor) for tensor in written(operator, args, kwargs)):
                raise UnsupportedOperatorException(operator)  # the real tensor would keep its old value
            made = operator(*args, **kwargs)
            if operator is aten.mkldnn_rnn_layer.default:
                return _with_workspace(made, args)
            if operator is aten.mkldnn_rnn_layer_backward.default:  # torch's fake bias gradients are one tensor
                return (*made[:4], torch.empty_like(made[3]), *made[5:])
            return made
        if not tensors:
            made = operator(*args, **kwargs)
            if not isinstance(made, Tensor) or made.dim() > 1 or made.numel() > _SCALARS:
                return made
        with unset_fake_temporarily():
            return operator(*args, **kwargs)

    return run
