"""Equal parameters: the width (or another size) at which a model's count comes nearest to a budget, within 2 %."""

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig
from bench.training.language_model import count_parameters
from bench.training.recipe_schedule import check_recipe

TOLERANCE = 0.02
_STRIDE = 256  # sizes tried in vain before a model is given up
_LARGEST = 2**17


def with_size(model: ComponentConfig, size: int, setting: str = "width") -> ComponentConfig:
    """The same model with another width, or another value of the setting."""
    return ComponentConfig(name=model.name, settings={**model.settings, setting: size})


def match(model: ComponentConfig, vocabulary: int, budget: int, setting: str = "width") -> ComponentConfig:
    """The model at the width whose total parameter count is nearest to `budget`; UserError where none is within 2 %.

    Another integer `setting` (an FFN's inner width, say) can stand for the width. Sizes that the model refuses (not a multiple of
    its heads, say) are passed over. The count is assumed to grow with the size.
    """
    low, high = 0, 1
    while (near := _accepted(model, vocabulary, high, setting)) is not None and near[1] < budget:
        low, high = near[0], 2 * near[0]
        if high > _LARGEST:
            raise UserError(f"no {setting} of model {model.name!r} reaches {budget} parameters")
    if near is None:
        raise UserError(f"no {setting} of model {model.name!r} reaches {budget} parameters")
    best = near
    for size in range(max(1, low), near[0]):
        count = _count(model, vocabulary, size, setting)
        if isinstance(count, int):
            if abs(count - budget) < abs(best[1] - budget) or (abs(count - budget) == abs(best[1] - budget) and size < best[0]):
                best = (size, count)
            if count > budget:
                break
    size, count = best
    if abs(count - budget) > TOLERANCE * budget:
        raise UserError(
            f"model {model.name!r}: the nearest {setting}, {size}, has {count} parameters, over 2 % from the budget of {budget}; "
            "match a finer setting, or choose another reference width or fewer heads"
        )
    return with_size(model, size, setting)


def _accepted(model: ComponentConfig, vocabulary: int, size: int, setting: str) -> tuple[int, int] | None:
    """The first size from `size` on that the model accepts, with its count; its complaint where there is none near."""
    count: int | UserError = 0
    for nearby in range(size, 2 * size + _STRIDE):
        count = _count(model, vocabulary, nearby, setting)
        if isinstance(count, int):
            return nearby, count
    assert isinstance(count, UserError)
    raise count


def _count(model: ComponentConfig, vocabulary: int, size: int, setting: str) -> int | UserError:
    try:
        return count_parameters(with_size(model, size, setting), vocabulary)
    except UserError as error:
        return error


def match_rows(comparison: Comparison, vocabulary: int) -> dict[str, tuple[ComponentConfig, int | None]]:
    """Each row's model with its matched size, and the budget; None for a row whose settings give the size."""
    budget = count_parameters(comparison.rows[comparison.reference].model, vocabulary)
    models = {}
    for label, row in comparison.rows.items():
        given = row.match in row.model.settings
        model = row.model if given else match(row.model, vocabulary, budget, row.match)
        count_parameters(model, vocabulary)
        check_recipe(model, row.recipe, vocabulary)
        models[label] = (model, budget if not given or label == comparison.reference else None)
    return models
