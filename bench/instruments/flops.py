"""Count FLOPs operator by operator; an operator that cannot be counted makes the total null.

Convention: two FLOPs a multiply-add. Counted are matrix products, convolutions, attention, RNN layers, and dense factorisations and
solves (leading order, as LAPACK counts them). Pointwise work, reductions, normalisation and embedding lookups count 0. Causal
attention counts the full square, as torch's own counter does, whether or not the kernel skips half. A fused attention backward
counts its recomputed scores (5 products), the unfused one recomputes none (4).

The formulas are those of `torch.utils.flop_counter`, plus the ones below for operators that it counts as 0, such as nn.LSTM on the
CPU. FlopCounterMode itself is not used: it hooks every module and its gradients.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


@dataclass(frozen=True)
class Flops:
    """FLOPs of a step; `total` is None, with a `reason`, where an operator seems to do matrix work and has no formula."""

    total: int | None
    by_operator: dict[str, int] = field(default_factory=dict)
    reason: str | None = None


Formula = Callable[[tuple[Any, ...], Any], int]  # of an operator's positional arguments and result


def _rnn(inputs: Tensor, weights: list[Tensor]) -> int:
    """Each weight matrix meets each (time, sample) once: 2 * 4h(D + h) * B * T for an LSTM layer; biases are pointwise."""
    return 2 * prod(inputs.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _added_product(args: tuple[Any, ...], _: Any) -> int:
    """self + a @ b, batched or not, in place or not; a vector is a matrix of one column."""
    _, a, b = args[:3]
    return 2 * a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


def _cubes(matrices: Tensor) -> int:
    """n cubed for each square matrix of the batch."""
    rows, columns = matrices.shape[-2:]
    if rows != columns:
        raise ValueError("no formula for a rectangular matrix")
    return int(matrices.numel()) * rows


def _lu(args: tuple[Any, ...], _: Any) -> int:
    return 2 * _cubes(args[0]) // 3


def _solve(args: tuple[Any, ...], result: Any) -> int:
    return _lu(args, None) + 2 * args[0].shape[-1] * int(result[0].numel())


def _two_triangles(_: tuple[Any, ...], solution: Any) -> int:
    return 2 * solution.shape[-2] * int(solution.numel())


_ADDED_PRODUCTS = (aten.addmm_, aten._addmm_activation, aten.baddbmm_, aten.addbmm, aten.addbmm_, aten.addmv, aten.addmv_)
FORMULAS: dict[Any, Formula] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda args, _: sdpa_flop_count(*(part.shape for part in args[:3])),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda args, _: sdpa_backward_flop_count(
        *(part.shape for part in args[:4])
    ),
    aten.mkldnn_rnn_layer: lambda args, _: _rnn(args[0], [args[1], args[2]]),
    aten.mkldnn_rnn_layer_backward: lambda args, _: 2 * _rnn(args[0], [args[1], args[2]]),
    aten._cudnn_rnn: lambda args, _: _rnn(args[0], args[1]),
    aten._cudnn_rnn_backward: lambda args, _: 2 * _rnn(args[0], args[1]),
    **dict.fromkeys(_ADDED_PRODUCTS, _added_product),
    **dict.fromkeys((aten.mv, aten.dot, aten.vdot), lambda args, _: 2 * args[0].numel()),
    **dict.fromkeys((aten.addr, aten.addr_), lambda args, _: 2 * args[1].numel() * args[2].numel()),
    aten._linalg_solve_ex: _solve,
    aten.linalg_lu_factor_ex: _lu,
    aten.linalg_lu_solve: _two_triangles,
    aten.linalg_cholesky_ex: lambda args, _: _cubes(args[0]) // 3,
    aten.cholesky_solve: _two_triangles,
    aten.linalg_solve_triangular: lambda args, solution: args[0].shape[-1] * solution.numel(),
    aten.linalg_inv_ex: lambda args, _: 2 * _cubes(args[0]),
}

# Fused RNN cells get their products from separate mm operators; the others copy, permute, check or take a norm.
_NO_PRODUCTS = re.compile(
    r"_thnn_\w+|_cudnn_rnn_flatten_weight|mkldnn_reorder_\w+|_linalg_check_errors|linalg_(vector_norm|cross|diagonal)|_use_cudnn_\w+"
)
_MATRIX_WORK = re.compile(
    r"(?:^|_)(?:\w*mm|\w*mv|\w*dot|matmul|gemm|inner|outer|ger|addr|einsum|bilinear|trilinear|linear|cdist|pdist|euclidean"
    r"|conv(?!ert)\w*|fft|\w*rnn|\w*lstm|\w*gru|attention|transformer|linalg|lu|qr|svd|eigh?|inverse|cholesky|triangular|lstsq|ormqr|orgqr"
    r"|geqrf|householder|det|slogdet)(?:_|$)"
)


class _FlopCounter(TorchDispatchMode):
    """Apply a formula to each operator that has one, decompose composite operators, and collect those without a formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.unknown: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "overloadpacket", func)
        known = packet in FORMULAS or packet in flop_registry
        if not known and isinstance(func, torch._ops.OpOverload) and func is not torch.ops.prim.device.default:
            with self:  # composite operators arrive undecomposed under inference_mode
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if known:
            self._count(packet, args, kwargs, result)
        elif _needs_formula(func):
            self.unknown[str(packet)] = "has no formula"
        return result

    def _count(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        try:
            if packet in FORMULAS:
                self.counts[str(packet)] += FORMULAS[packet](args, result)
            else:
                self.counts[str(packet)] += flop_registry[packet](*args, **kwargs, out_val=result)
        except Exception as error:  # a formula that does not fit the call gives a null and does not end the run
            self.unknown[str(packet)] = f"has a formula that does not fit ({type(error).__name__}: {error})"


def _needs_formula(func: Any) -> bool:
    """Whether the operator is from outside torch or, by its name, multiplies, convolves, attends or factorises."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace not in ("aten", "prim", "prims", "profiler"):
        return True
    name = func.overloadpacket.__name__
    return not _NO_PRODUCTS.fullmatch(name) and _MATRIX_WORK.search(name.rstrip("_")) is not None


def flops(step: Callable[[], object]) -> Flops:
    """FLOPs of `step()`, forward, backward and optimiser, by the convention of this module; runs it once.

    The backward of an RNN layer counts twice its forward. Costs about 40 microseconds an operator.
    """
    with _FlopCounter() as counter:
        step()
    by_operator = dict(sorted(counter.counts.items()))
    reason = "; ".join(f"{name} {reason}" for name, reason in sorted(counter.unknown.items())) or None
    return Flops(total=None if reason else sum(by_operator.values()), by_operator=by_operator, reason=reason)
