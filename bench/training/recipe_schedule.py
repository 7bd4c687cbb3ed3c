"""Apply a Recipe step by step: shallow pre-training, schedules of tolerance, iteration cap and Jacobian weight."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from baselines import TCN, AdaptiveLoop, Looped, NeuralODE, Recurrent, StateSpace, TransformerXL, TrellisNet, Unrolled
from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, Recipe
from bench.training.language_model import LanguageModel, build_model
from deq import DEQ, Core, Jacobian, Stack, Stop, StoppedAdjoint

_UNSUPERVISED = (AdaptiveLoop, NeuralODE, Recurrent, StateSpace, TCN, TransformerXL)  # never have auxiliary features


class RecipeSchedule:
    """A recipe over one training: call `set_step` before each step and `restore` after the last."""

    def __init__(self, model: LanguageModel, recipe: Recipe | None, steps: int) -> None:
        self._model, self._own, self._steps = model, model.core, steps
        self._recipe = recipe or Recipe()
        self._layers = [(module, module.stop, module.adjoint) for module in model.core.modules() if isinstance(module, DEQ)]
        self._scheduled = {"rtol", "steps", "backward_steps"} & set(self._recipe.model_dump(exclude_defaults=True))
        self._check(model.core)
        self._shallow = _unrolled(model.core, self._recipe.pretrain_depth) if self._recipe.pretrain_steps else model.core

    def _check(self, core: Core) -> None:
        """UserError where a part of the recipe does not apply to the core."""
        recipe = self._recipe
        given = recipe.model_dump(exclude_defaults=True)
        for_deq = sorted(set(given) - {"auxiliary"} - ({"pretrain_steps", "pretrain_depth"} if type(core) is Unrolled else set()))
        if for_deq and not self._layers:
            raise UserError(f"recipe: {for_deq[0]} is for a DEQ, and the model has none")
        iterating = (isinstance(adjoint, StoppedAdjoint) and adjoint.iterates for _, _, adjoint in self._layers)
        if recipe.backward_steps is not None and not all(iterating):
            raise UserError("recipe: backward_steps is for an adjoint that solves for its gradient")
        if recipe.hold is not None and not self._scheduled:
            raise UserError("recipe: hold is for rtol, steps or backward_steps, and none is given")
        if {"jacobian_final", "jacobian_probability"} & set(given) and not (recipe.jacobian or recipe.jacobian_final):
            raise UserError("recipe: jacobian_final and jacobian_probability are for a jacobian, which is 0")
        if recipe.auxiliary and _supervised(core) is False:
            raise _unsupervised(core)

    @property
    def auxiliary(self) -> float:
        """The weight of deep supervision."""
        return self._recipe.auxiliary

    def set_step(self, step: int) -> None:
        """Set core, stops, adjoints and Jacobian penalty for a step, counted from 0."""
        recipe, done = self._recipe, step / max(1, self._steps - 1)
        core = self._shallow if step < recipe.pretrain_steps else self._own
        if self._model.core is not core:
            self._model.core = core.train(self._model.training)
        final = recipe.jacobian if recipe.jacobian_final is None else recipe.jacobian_final
        weight = recipe.jacobian + (final - recipe.jacobian) * done
        for layer, own, adjoint in self._layers:
            if self._scheduled:
                layer.stop = _between(own, recipe.rtol, recipe.steps, recipe.hold, done)
            if self._scheduled and isinstance(adjoint, StoppedAdjoint):
                stop = _between(adjoint.stop, None, recipe.backward_steps, recipe.hold, done)
                layer.adjoint = replace(adjoint, stop=stop)
            if recipe.jacobian or final:
                layer.jacobian = Jacobian(weight=weight, probability=recipe.jacobian_probability) if weight else None

    def force_penalty(self) -> None:
        """Set the Jacobian penalty's probability to 1, so that all measured steps do the same work."""
        for layer, _, _ in self._layers:
            if layer.jacobian is not None:
                layer.jacobian = replace(layer.jacobian, probability=1.0)

    def restore(self) -> None:
        """Restore the model's own core, stops and adjoints."""
        self._model.core = self._own.train(self._model.training)
        for layer, own, adjoint in self._layers:
            if self._scheduled:
                layer.stop, layer.adjoint = own, adjoint


def check_recipe(model: ComponentConfig, recipe: Recipe | None, vocabulary: int) -> None:
    """UserError where a part of the recipe does not apply to the model."""
    if recipe is None:
        return
    built = build_model(model, vocabulary)
    RecipeSchedule(built, recipe, 1)
    if recipe.auxiliary and _supervised(built.core) is None:
        supervised = True
        with suppress(Exception), torch.no_grad():  # a core that fails on two tokens fails again when it is run
            supervised = bool(built.train().run(torch.zeros(1, 2, dtype=torch.int64))[0].auxiliary)
        if not supervised:
            raise _unsupervised(built.core)


def _supervised(core: Core) -> bool | None:
    """Whether the core has auxiliary features in training; None for a user's core, which only a forward pass can show."""
    if type(core) is Stack:
        return _supervised(core.cores[-1])  # type: ignore[arg-type]
    if isinstance(core, Unrolled) and type(core) in (Unrolled, TrellisNet):
        return 0 < core.auxiliary_every < core.depth
    if type(core) is DEQ:
        return core.auxiliary_every > 0
    if type(core) is Looped:
        return core.segments > 1
    return False if type(core) in _UNSUPERVISED else None


def _unsupervised(core: Core) -> UserError:
    models = (
        "trellisnet with auxiliary_every from 1 to depth - 1, deq with auxiliary_every, looped with segments, or a Core of your "
    )
    models += "own whose Output has auxiliary features"
    return UserError(f"recipe: auxiliary has no effect on this {type(core).__name__}; it is for {models}")


def _between(own: Stop, rtol: float | None, steps: int | None, hold: float | None, done: float) -> Stop:
    """The stop at a share of the training, between the recipe's values and the model's (`own`); None means the model's."""
    done = done if hold is None else float(done >= hold)
    changes: dict[str, Any] = {}
    if rtol is not None and own.rtol is not None:
        changes["rtol"] = rtol ** (1 - done) * own.rtol**done
    if steps is not None:
        changes["max_steps"] = round(steps + (own.max_steps - steps) * done)
    return replace(own, **changes)


def _unrolled(core: Core, depth: int) -> Core:
    """The same cells, each applied `depth` times."""
    if isinstance(core, DEQ) or type(core) is Unrolled:
        return Unrolled(core.cell, depth=depth)
    if isinstance(core, Stack):
        return Stack([_unrolled(part, depth) for part in core.cores if isinstance(part, Core)])
    raise UserError(f"recipe: pretrain_steps needs a DEQ, a stack of them or a tied network, not a {type(core).__name__}")
