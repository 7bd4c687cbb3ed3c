"""Adaptive embedding and softmax for a large vocabulary: rare words have smaller vectors, and both share one set of tables.

Both sort tokens by cluster, for which the host waits for a GPU three times a cluster in a step: once in the embedding, twice in the
softmax. To give every cluster all tokens would need no wait, but compute the whole softmax: with the paper's WikiText-103 clusters
the logits of a token are 267,738 numbers instead of 20,003 and those of its target's cluster.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveEmbedding(nn.Module):
    """Token ids (B, T) to features (B, T, D), looked up in the tables of an adaptive softmax, times sqrt(D).

    Frequent words (low ids) have D numbers; a rarer cluster has fewer, and a projection to D: the softmax's own, transposed, or
    with `tied_projections` false another. Grave et al. (ICML 2017), arXiv 1609.04309; Baevski and Auli (ICLR 2019), arXiv
    1809.10853. Transformer-XL's code also projects the first cluster, D x D; torch's softmax does not, nor does this.
    """

    def __init__(self, softmax: nn.AdaptiveLogSoftmaxWithLoss, *, tied_projections: bool = True) -> None:
        super().__init__()
        self.softmax, self.width = softmax, softmax.in_features
        self.own = nn.ModuleList()
        if not tied_projections:
            for cut in range(len(softmax.tail)):
                narrow = int(softmax.in_features // softmax.div_value ** (cut + 1))
                self.own.append(nn.Linear(narrow, self.width, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to features (B, T, D)."""
        head = self.softmax.head.weight[: self.softmax.cutoffs[0]]
        clusters: list[tuple[Tensor, Tensor | None]] = [(head, None)]  # each cluster's table (words, E) and projection (D, E)
        for index, cluster in enumerate(self.softmax.tail):
            down, words = (layer.get_parameter("weight") for layer in cluster.children())
            clusters.append((words, self.own[index].get_parameter("weight") if self.own else down.T))
        flat, low = tokens.flatten(), 0
        x = head.new_zeros(len(flat), self.width)
        for table, projection in clusters:
            here = ((flat >= low) & (flat < low + len(table))).nonzero().squeeze(1)
            rows = F.embedding(flat[here] - low, table)
            x = x.index_copy(0, here, rows if projection is None else F.linear(rows, projection))
            low += len(table)
        return (math.sqrt(self.width) * x).view(*tokens.shape, self.width)


def adaptive_softmax(width: int, vocabulary: int, cutoffs: str, div_value: float) -> nn.AdaptiveLogSoftmaxWithLoss:
    """torch's adaptive softmax; `cutoffs` are the clusters' first ids, such as "20000,40000". ValueError for invalid ones."""
    try:
        borders = [int(part) for part in cutoffs.split(",")]
    except ValueError:
        raise ValueError(f"cutoffs must be integers between commas, got {cutoffs!r}") from None
    if borders != sorted(set(borders)) or borders[0] < 1 or borders[-1] >= vocabulary:
        raise ValueError(f"cutoffs must rise from at least 1 to below the vocabulary of {vocabulary}, got {cutoffs!r}")
    if not div_value >= 1 or width // div_value ** len(borders) < 1:
        raise ValueError(f"div_value must be at least 1 and leave the last cluster a number, got {div_value} at width {width}")
    return nn.AdaptiveLogSoftmaxWithLoss(width, vocabulary, borders, div_value)
