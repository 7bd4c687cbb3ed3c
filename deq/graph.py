"""What a result depends on, read off its autograd graph."""

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node


def leaves(result: Tensor, stop: GradientEdge | None = None) -> Iterator[Tensor]:
    """The leaf tensors that need a gradient of `result`, each once; what lies behind the node of `stop` is left out."""
    waiting: list[Node | None] = [result.grad_fn]
    seen: set[Node] = set() if stop is None else {stop.node}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad: where a leaf takes its gradient
            yield node.variable
        waiting.extend(below for below, _ in node.next_functions)
