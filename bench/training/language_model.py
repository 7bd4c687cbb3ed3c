"""A language model is an embedding, a Core and a head; only the Core differs between models."""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.records.errors import UserError
from bench.records.spec import ComponentConfig
from bench.training.adaptive_softmax import AdaptiveEmbedding, adaptive_softmax
from bench.training.construct import construct, parameters_of, resolve
from bench.training.registry import MODELS, build_core
from deq import Core, Output
from deq.dropout import check_rates, masked, variational_mask


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Settings of the embedding and the head.

    `embedding_dropout` drops words (all their occurrences in a batch; Gal and Ghahramani 2016), `input_dropout` and
    `output_dropout` drop channels of the Core's input and output, the same ones at every position. `tied_embedding` shares the
    embedding's weights with the head; features are then multiplied by sqrt(D), to start at the scale of an untied embedding.
    `cutoffs` ("20000,40000,200000", the first ids of the rarer clusters) selects a tied adaptive embedding and softmax.
    `initial_range` draws all parameters, the Core's too, uniformly from [-r, r], as early LSTM papers do.
    """

    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    output_dropout: float = 0.0
    tied_embedding: bool = False
    cutoffs: str = ""
    div_value: float = 4.0
    tied_projections: bool = True
    initial_range: float | None = None

    def __post_init__(self) -> None:
        check_rates(embedding_dropout=self.embedding_dropout, input_dropout=self.input_dropout, output_dropout=self.output_dropout)
        if self.initial_range is not None and not 0 < self.initial_range < math.inf:
            raise ValueError(f"initial_range must be positive and finite, got {self.initial_range}")


class WordDropout(nn.Module):
    """Drop words in training, all their occurrences in a batch, and scale the others by 1 / (1 - rate).

    The mask is drawn for the whole vocabulary: to draw it for the words of a batch, the host would wait for a GPU to name them.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, *, vocabulary: int, rate: float) -> None:
        super().__init__()
        self.vocabulary, self.rate = vocabulary, rate

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, T, D) of tokens (B, T) to features."""
        if not self.training:
            return x
        return x * F.dropout(x.new_ones(self.vocabulary), self.rate)[tokens].unsqueeze(-1)


class LanguageModel(nn.Module):
    """Token ids (B, T) to logits (B, T, vocabulary), through an embedding of `inputs` features and a Core."""

    numerics: ClassVar[int] = 1

    def __init__(self, *, vocabulary: int, inputs: int, core: Core, config: EmbeddingConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EmbeddingConfig()
        rate = config.embedding_dropout
        self.word_dropout = WordDropout(vocabulary=vocabulary, rate=rate) if rate else None
        shared = config.tied_embedding or bool(config.cutoffs)
        if shared and inputs != core.width:
            raise ValueError(f"a tied embedding needs inputs ({inputs}) equal to the core's width ({core.width})")
        self.embedding: nn.Module
        self.head: nn.Module
        if config.cutoffs:
            self.core = core
            self.head = adaptive_softmax(inputs, vocabulary, config.cutoffs, config.div_value)
            self.embedding = AdaptiveEmbedding(self.head, tied_projections=config.tied_projections)
        else:
            self.embedding = nn.Embedding(vocabulary, inputs)
            self.core = core
            self.head = nn.Linear(core.width, vocabulary)
            if shared:
                nn.init.normal_(self.embedding.weight, 0.0, inputs**-0.5)
                self.head.weight = self.embedding.weight
        if config.initial_range is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -config.initial_range, config.initial_range)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to the Core's features (B, T, D), with dropout in training."""
        x: Tensor = self.embedding(tokens)
        if isinstance(self.embedding, nn.Embedding) and self.config.tied_embedding:
            x = math.sqrt(x.shape[-1]) * x
        if self.word_dropout is not None:
            x = self.word_dropout(x, tokens)
        return masked(x, variational_mask(x, self.config.input_dropout, self.training))

    def run(self, tokens: Tensor, memory: Any = None) -> tuple[Output, tuple[Tensor, ...]]:
        """The Core's Output, and its features and auxiliary features after the output dropout."""
        output = self.core(self.embed(tokens), memory)
        mask = variational_mask(output.y, self.config.output_dropout, self.training)
        return output, tuple(masked(y, mask) for y in (output.y, *output.auxiliary))

    def logits(self, y: Tensor) -> Tensor:
        """Features (B, T, width) to logits (B, T, vocabulary), which for an adaptive softmax are log-probabilities."""
        if isinstance(self.head, nn.AdaptiveLogSoftmaxWithLoss):
            return self.head.log_prob(y.flatten(0, 1)).view(*y.shape[:2], -1)
        logits: Tensor = self.head(y)
        return logits

    def forward(self, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Output]:
        """Logits, and the Core's Output with its memory and penalty."""
        output, (y, *_) = self.run(tokens, memory)
        return self.logits(y), output

    def loss(self, tokens: Tensor, targets: Tensor, memory: Any = None) -> tuple[Tensor, Output, Tensor | None]:
        """Mean cross-entropy (nats) over all positions, the Core's Output, and the sum of its auxiliary losses, if any."""
        output, (y, *auxiliary) = self.run(tokens, memory)
        loss = self._cross_entropy(y, targets)
        supervision = torch.stack([self._cross_entropy(y, targets) for y in auxiliary]).sum() if auxiliary else None
        return loss, output, supervision

    def _cross_entropy(self, y: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.head, nn.AdaptiveLogSoftmaxWithLoss):
            loss: Tensor = self.head(y.flatten(0, 1), targets.flatten()).loss
            return loss
        return F.cross_entropy(self.logits(y).flatten(0, 1), targets.flatten())


def build_model(model: ComponentConfig, vocabulary: int) -> LanguageModel:
    """Build a model. Its settings are `width`, `inputs` (embedding width, by default `width`), and the embedding's and Core's.

    A setting that both EmbeddingConfig and the Core have is the Core's.
    """
    kind, settings = f"model {model.name!r}", dict(model.settings)
    width = settings.pop("width", None)
    inputs = settings.pop("inputs", width)
    width, inputs = _size(kind, "width", width), _size(kind, "inputs", inputs)
    names = {field.name for field in fields(EmbeddingConfig)} - set(parameters_of(kind, resolve("model", MODELS, model.name)))
    config = construct(kind, EmbeddingConfig, {name: settings.pop(name) for name in [*settings] if name in names}, {})
    core = build_core(ComponentConfig(name=model.name, settings=settings), inputs, width)
    try:
        return LanguageModel(vocabulary=vocabulary, inputs=inputs, core=core, config=config)
    except ValueError as error:
        raise UserError(f"{kind}: {error}") from error


def _size(kind: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{kind} needs a positive integer {name!r}, got {value!r}")
    return value


def build_without_storage(model: ComponentConfig, vocabulary: int) -> LanguageModel:
    """Build a model on the meta device; with storage where it reads its weights while it is built."""
    try:
        with torch.device("meta"):
            return build_model(model, vocabulary)
    except UserError:
        raise
    except Exception:
        return build_model(model, vocabulary)


def count_parameters(model: ComponentConfig, vocabulary: int) -> int:
    """The number of the model's trainable parameters, counted without allocating them."""
    try:
        built = build_without_storage(model, vocabulary)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"model {model.name!r} cannot be built: {type(error).__name__}: {error}") from error
    return sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
