"""A cell's map as CUDA graphs: one launch in place of the dozens that, at small sizes, keep the host busy and the GPU idle.

A recording runs on memory of its own. What enters it is copied there and what it returns is overwritten by the next replay, so that
`solve` and the adjoints, which know such maps, need no change.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from deq.cells.cell import Cell
from deq.cuda_recorder import CudaRecorder, can_record
from deq.solve import Map

_MOST = 8  # recordings that a layer keeps, each with the memory of an evaluation and its backward, and as many calls seen once
_wanted: ContextVar[bool] = ContextVar("recordings wanted", default=True)


@contextmanager
def without_recordings() -> Iterator[None]:
    """Run layers with `cuda_graphs` as without: for what must see each operator, or what autograd saves."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


class GraphedCell:
    """Binds a cell to recordings of its `bind`, of f, of f with an autograd graph, and of that graph's two gradients.

    A recording serves calls with the same shapes, types, modes and parameters. It is made at the second of them, since lengths that
    occur once are not worth it; the last few are kept. After a change of anything else that a cell reads, call `forget`: of torch's
    settings such as TF32, of the cell's attributes such as a rate of dropout, of parts of a memory that are no tensors. One forward
    pass at a time: a map is void once `bind` is called again for the same recording. Maps have first derivatives only. Hooks of the
    cell do not run in a replay.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._once: OrderedDict[Any, None] = OrderedDict()  # seen once: apart, so that lengths that change drop no recording

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the recordings."""
        return {"_cell": self._cell, "_recordings": OrderedDict(), "_once": OrderedDict()}

    def forget(self) -> None:
        """Drop the recordings."""
        self._recordings.clear()
        self._once.clear()

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """Return the map of features x (B, T, D) and a memory, as the cell does."""
        if not _wanted.get() or not can_record(x):
            return self._cell.bind(x, memory)
        key = _key(self._cell, x, memory)
        recording = self._recordings.pop(key, None)
        if recording is None and key not in self._once:
            _keep(self._once, key, None)
            return self._cell.bind(x, memory)
        if recording is None:
            del self._once[key]
            recording = _Recording(self._cell, x, memory, CudaRecorder(x.device))
        _keep(self._recordings, key, recording)
        return recording.bind(x, memory)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Add an entry, and drop the oldest of too many."""
    kept[key] = value
    while len(kept) > _MOST:
        kept.popitem(last=False)


def _key(cell: Cell, x: Tensor, memory: Any) -> Any:
    """All that decides which work is done, and on which memory."""
    autocast = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast, x.requires_grad
    training = tuple(module.training for module in cell.modules())
    carried = type(memory), *((part.shape, part.dtype) for part in tree_leaves(memory) if isinstance(part, Tensor))
    weights = (*((p.data_ptr(), p.requires_grad) for p in cell.parameters()), *(b.data_ptr() for b in cell.buffers()))
    return x.shape, x.dtype, x.device, modes, training, carried, weights


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(eq=False)
class _Attached:
    """An evaluation with an autograd graph: of which binding, and in backward its state."""

    binding: int
    z: Tensor | None = None


class _Caller(nn.Module):
    """Calls a function, so that `functional_call` can give the cell other tensors as its parameters meanwhile."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class _Recording:
    """The recordings of one key, and the memory on which they run.

    That memory is written through `data`, which autograd does not see: it would take its own saved tensors for changed. Recorded
    are aliases of the parameters. The nodes of the parameters themselves in autograd's graph belong to the stream on which they
    were made, for which a recording may not wait.
    """

    def __init__(self, cell: Cell, x: Tensor, memory: Any, recorder: CudaRecorder) -> None:
        self._recorder = recorder
        needs = x.requires_grad and torch.is_grad_enabled()
        self._x = x.detach().clone().requires_grad_(needs)
        self._memory = tree_map_only(Tensor, lambda part: part.detach().clone(), memory)
        self._caller = _Caller(cell)
        self._aliases = {name: p.detach().requires_grad_(p.requires_grad) for name, p in self._caller.named_parameters()}
        self._weights = [p for p in cell.parameters() if p.requires_grad]
        self._sources = [self._x] * needs + [alias for alias in self._aliases.values() if alias.requires_grad]
        self._binding = 0
        self._newest: _Attached | None = None  # whose autograd graph is in memory
        self._z: Tensor | None = None
        self._root: Tensor | None = None
        self._rebind = self._record(self._bind)
        self._evaluate: Callable[[], Tensor]
        self._attach: Callable[[], Tensor]
        self._vjp: Callable[[], Tensor | None]
        self._gradients: Callable[[], tuple[Tensor | None, ...]]

    def bind(self, x: Tensor, memory: Any) -> Map:
        """Return the map of x and the memory; the one before is void."""
        self._binding += 1
        self._newest = None
        self._x.data.copy_(x)
        for own, new in zip(tree_leaves(self._memory), tree_leaves(memory), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new)
        self._rebind()
        binding, sources = self._binding, ([x] if self._x.requires_grad else []) + self._weights

        def f(z: Tensor) -> Tensor:
            self._check(binding)
            if not torch.is_grad_enabled():
                return self._evaluated(z)
            attached = _Attached(binding)
            image = self._attached(z, attached)
            to_sources: Tensor | None = _Sources.apply(self, attached, image, *sources) if sources else None
            fz: Tensor = _Evaluation.apply(z, to_sources, self, attached, image)
            return fz

        return f

    def _check(self, binding: int) -> None:
        if binding != self._binding:
            raise RuntimeError(
                "with cuda_graphs a layer keeps one forward pass of a shape at a time: call backward before the next forward"
            )

    def _evaluated(self, z: Tensor) -> Tensor:
        if self._z is None:
            own = z.clone()
            self._evaluate = self._record(lambda: self._call(self._f, own))
            self._z = own  # last, so that a recording that failed is made again
        self._z.copy_(z)
        self._newest = None  # its memory may be where this one works
        return self._evaluate()

    def _attached(self, z: Tensor, attached: _Attached) -> Tensor:
        """Evaluate f at z, with an autograd graph in the recording's memory."""
        if self._root is None:
            own = z.detach().clone().requires_grad_()
            self._attach = self._record(lambda: self._evaluate_with_graph(own))
            self._u = torch.zeros_like(self._image)
            self._vjp = self._record(lambda: self._differentiate([own])[0])
            if self._sources:
                self._gradients = self._record(lambda: self._differentiate(self._sources))
            self._root = own
        self._root.data.copy_(z)
        self._newest = attached
        return self._attach()

    def _bind(self) -> None:
        self._f = self._call(self._caller.cell.bind, self._x, self._memory)

    def _record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        try:
            return self._recorder.record(function)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cell, cause = type(self._caller.cell).__name__, error.__context__ or error  # torch's error at a capture's end hides it
            raise RuntimeError(
                f"cuda_graphs cannot record {cell} (in a new process, without cuda_graphs, it runs): {cause}"
            ) from error

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with the aliases as the cell's parameters."""
        with self._isolated():
            return functional_call(self._caller, self._aliases, (function, *arguments))

    def _evaluate_with_graph(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            self._image = self._call(self._f, z)
        return self._image.detach()

    def _differentiate(self, at: list[Tensor]) -> tuple[Tensor | None, ...]:
        with torch.autocast(self._x.device.type, enabled=False):  # as in a backward pass, which runs outside of it
            return torch.autograd.grad(self._image, at, self._u, retain_graph=True, allow_unused=True)

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """Autocast without its cache, since a weight cast before a recording, or in another, is not cast again in it, and the cast
        is freed; the caller's hooks on saved tensors, such as a checkpoint's, left out, since what a recording saves is its own."""
        kind = self._x.device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, enabled, cache_enabled=False), saved_tensors_hooks(_same, _same):
            yield

    def restore(self, attached: _Attached, z: Tensor) -> None:
        """Have the autograd graph of this evaluation, at z, in memory."""
        self._check(attached.binding)
        if self._newest is not attached:
            self._attached(z, attached)

    def vjp(self, u: Tensor) -> Tensor | None:
        """Return the gradient at the state."""
        self._u.copy_(u)
        found = self._vjp()
        return None if found is None else found.clone()

    def gradients(self, u: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at x, where it needs one, and at the parameters."""
        self._u.copy_(u)
        return tuple(None if part is None else part.clone() for part in self._gradients())


class _Sources(torch.autograd.Function):
    """Leads the gradient u of an evaluation to x and the parameters.

    Apart from `_Evaluation`, so that a product u^T J for a solve does not compute their gradients. The result is no more than a
    place in the autograd graph, through which u passes.
    """

    @staticmethod
    def forward(ctx: Any, recording: _Recording, attached: _Attached, image: Tensor, *sources: Tensor) -> Tensor:
        ctx.recording, ctx.attached = recording, attached
        return image.new_zeros(()).expand(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, ctx.attached.z = ctx.attached.z, None  # set by _Evaluation, through which every way here leads
        ctx.recording.restore(ctx.attached, z)
        return None, None, None, *ctx.recording.gradients(gradients[0])


class _Evaluation(torch.autograd.Function):
    """f(z) as computed, and the gradient at z."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, to_sources: Tensor | None, recording: _Recording, attached: _Attached, image: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.recording, ctx.attached = recording, attached
        return image.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        ctx.attached.z = z
        ctx.recording.restore(ctx.attached, z)
        at_z = ctx.recording.vjp(gradients[0]) if ctx.needs_input_grad[0] else None
        return at_z, gradients[0] if ctx.needs_input_grad[1] else None, None, None, None
