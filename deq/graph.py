"""Traversal of the autograd graph."""

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node


def leaves(result: Tensor, stop: GradientEdge | None = None) -> Iterator[Tensor]:
    """Yield the leaf tensors that get a gradient from `result`, each once, without those reached only through `stop`."""
    waiting: list[Node | None] = [result.grad_fn]
    seen: set[Node] = set() if stop is None else {stop.node}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad: the node of a leaf
            yield node.variable
        waiting.extend(below for below, _ in node.next_functions)
