"""A model is an embedding, a Core and a linear head; everything but the Core is the same for all."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.catalog import build_core
from bench.errors import UserError
from bench.spec import Named
from deq import Core, Output


class LanguageModel(nn.Module):
    """Token ids (B, T) to logits (B, T, vocabulary), through an embedding of `inputs` features and a Core."""

    def __init__(self, *, vocabulary: int, inputs: int, core: Core) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, inputs)
        self.core = core
        self.head = nn.Linear(core.width, vocabulary)

    def forward(self, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Output]:
        """Logits, and the Core's Output for its memory and penalty."""
        output = self.core(self.embedding(tokens), memory)
        return self.head(output.y), output


def build_model(model: Named, vocabulary: int) -> LanguageModel:
    """The model with its `width` and, where they differ, its `inputs` (embedding width) among its settings."""
    settings = dict(model.settings)
    width = settings.pop("width", None)
    inputs = settings.pop("inputs", width)
    width, inputs = _size(model.name, "width", width), _size(model.name, "inputs", inputs)
    core = build_core(Named(name=model.name, settings=settings), inputs, width)
    return LanguageModel(vocabulary=vocabulary, inputs=inputs, core=core)


def _size(model: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"model {model!r} needs a positive integer {name!r}, got {value!r}")
    return value


def count_parameters(model: Named, vocabulary: int) -> int:
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
