"""A model is an embedding, a Core and a head; everything but the Core is the same for all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, Settings
from bench.training.adaptive_softmax import AdaptiveEmbedding, adaptive_softmax
from bench.training.registry import MODELS, build_core, construct, parameters_of, resolve
from deq import Core, Output
from deq.dropout import check_rates, masked, variational_mask


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """The embedding's and the head's settings.

    `embedding_dropout` drops words (all their occurrences in a batch; Gal and Ghahramani 2016), `input_dropout` and
    `output_dropout` drop channels of the Core's input and output, the same ones at every position. `tied_embedding` makes the
    output weights those of the embedding, whose features are then times sqrt(D) to start at the scale of free ones. `cutoffs`
    ("20000,40000,200000": ids where the rarer clusters begin) asks for an adaptive embedding and softmax, tied always.
    """

    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    output_dropout: float = 0.0
    tied_embedding: bool = False
    cutoffs: str = ""
    div_value: float = 4.0
    tied_projections: bool = True

    def __post_init__(self) -> None:
        check_rates(embedding_dropout=self.embedding_dropout, input_dropout=self.input_dropout, output_dropout=self.output_dropout)


class LanguageModel(nn.Module):
    """Token ids (B, T) to logits (B, T, vocabulary), through an embedding of `inputs` features and a Core."""

    numerics: ClassVar[int] = 1

    def __init__(self, *, vocabulary: int, inputs: int, core: Core, ends: EmbeddingConfig | None = None) -> None:
        super().__init__()
        self.ends = ends or EmbeddingConfig()
        shared = self.ends.tied_embedding or bool(self.ends.cutoffs)
        if shared and inputs != core.width:
            raise ValueError(f"a tied embedding needs inputs ({inputs}) equal to the core's width ({core.width})")
        self.embedding: nn.Module
        self.head: nn.Module
        if self.ends.cutoffs:
            self.core = core
            self.head = adaptive_softmax(inputs, vocabulary, self.ends.cutoffs, self.ends.div_value)
            self.embedding = AdaptiveEmbedding(self.head, tied_projections=self.ends.tied_projections)
            return
        self.embedding = nn.Embedding(vocabulary, inputs)
        self.core = core
        self.head = nn.Linear(core.width, vocabulary)
        if shared:
            nn.init.normal_(self.embedding.weight, 0.0, inputs**-0.5)
            self.head.weight = self.embedding.weight

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to the Core's features (B, T, D); drops words and channels in training."""
        x: Tensor = self.embedding(tokens)
        if isinstance(self.embedding, nn.Embedding) and self.ends.tied_embedding:
            x = math.sqrt(x.shape[-1]) * x
        if self.training and self.ends.embedding_dropout:
            words, place = tokens.unique(return_inverse=True)
            x = x * F.dropout(torch.ones_like(words, dtype=x.dtype), self.ends.embedding_dropout)[place].unsqueeze(-1)
        return masked(x, variational_mask(x, self.ends.input_dropout, self.training))

    def run(self, tokens: Tensor, memory: Any = None) -> tuple[Output, tuple[Tensor, ...]]:
        """The Core's Output, and its features and auxiliary features as the head takes them (output dropout applied)."""
        output = self.core(self.embed(tokens), memory)
        mask = variational_mask(output.y, self.ends.output_dropout, self.training)
        return output, tuple(masked(y, mask) for y in (output.y, *output.auxiliary))

    def logits(self, y: Tensor) -> Tensor:
        """Features (B, T, width) to logits (B, T, vocabulary); an adaptive softmax's are log-probabilities."""
        if isinstance(self.head, nn.AdaptiveLogSoftmaxWithLoss):
            return self.head.log_prob(y.flatten(0, 1)).view(*y.shape[:2], -1)
        logits: Tensor = self.head(y)
        return logits

    def forward(self, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Output]:
        """Logits, and the Core's Output for its memory and penalty."""
        output, (y, *_) = self.run(tokens, memory)
        return self.logits(y), output

    def loss(self, tokens: Tensor, targets: Tensor, memory: Any = None) -> tuple[Tensor, Output, Tensor | None]:
        """Mean cross-entropy (nats) over all positions, the Output, and the sum of the auxiliary features' own, if any."""
        output, (y, *auxiliary) = self.run(tokens, memory)
        own = self._cross_entropy(y, targets)
        supervision = torch.stack([self._cross_entropy(y, targets) for y in auxiliary]).sum() if auxiliary else None
        return own, output, supervision

    def _cross_entropy(self, y: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.head, nn.AdaptiveLogSoftmaxWithLoss):
            loss: Tensor = self.head(y.flatten(0, 1), targets.flatten()).loss
            return loss
        return F.cross_entropy(self.logits(y).flatten(0, 1), targets.flatten())


def build_model(model: ComponentConfig, vocabulary: int) -> LanguageModel:
    """The model; its settings hold `width`, where it differs `inputs` (embedding width), and those of its Ends and its Core."""
    settings = dict(model.settings)
    width = settings.pop("width", None)
    inputs = settings.pop("inputs", width)
    width, inputs = _size(model.name, "width", width), _size(model.name, "inputs", inputs)
    ends = _ends(model.name, settings)
    core = build_core(ComponentConfig(name=model.name, settings=settings), inputs, width)
    try:
        return LanguageModel(vocabulary=vocabulary, inputs=inputs, core=core, ends=ends)
    except ValueError as error:
        raise UserError(f"model {model.name!r}: {error}") from error


def _ends(name: str, settings: Settings) -> EmbeddingConfig:
    """The Ends, its settings taken out; one that the model itself has by that name is left to it."""
    own: Mapping[str, Any] = parameters_of(f"model {name!r}", resolve("model", MODELS, name))
    mine = {field.name for field in fields(EmbeddingConfig)} - set(own)
    ends: EmbeddingConfig = construct(
        f"model {name!r}", EmbeddingConfig, {key: settings.pop(key) for key in [*settings] if key in mine}, {}
    )
    return ends


def _size(model: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"model {model!r} needs a positive integer {name!r}, got {value!r}")
    return value


def count_parameters(model: ComponentConfig, vocabulary: int) -> int:
    """How many trainable numbers the model has, without allocating them."""
    try:
        with torch.device("meta"):
            built = build_model(model, vocabulary)
    except UserError:
        raise
    except Exception:  # a user's model may look at its numbers while it is built
        try:
            built = build_model(model, vocabulary)
        except Exception as error:
            raise UserError(f"model {model.name!r} cannot be built: {type(error).__name__}: {error}") from error
    return sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
