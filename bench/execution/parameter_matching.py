"""Choose the width (or another size) at which a model's parameter count is nearest to a budget, within 2 %."""

from bisect import bisect_left

from bench.records.errors import UserError
from bench.records.spec import Comparison, ComponentConfig
from bench.training.language_model import count_parameters
from bench.training.recipe_schedule import check_recipe

TOLERANCE = 0.02
_STRIDE = 256  # sizes that a model may refuse in a row before the search fails
_LARGEST = 2**17


def with_size(model: ComponentConfig, size: int, setting: str = "width") -> ComponentConfig:
    """The same model with another width, or another value of the setting."""
    return ComponentConfig(name=model.name, settings={**model.settings, setting: size})


def match(model: ComponentConfig, vocabulary: int, budget: int, setting: str = "width") -> ComponentConfig:
    """The model at the width whose total parameter count is nearest to `budget`; UserError where none is within 2 %.

    Another integer `setting` (an FFN's inner width, say) can stand for the width. Sizes that the model refuses (not a multiple of
    its heads, say) are skipped. The count is assumed to grow with the size.
    """

    def from_size(size: int) -> tuple[int, int]:
        return _accepted(model, vocabulary, size, setting)

    top = 1
    while from_size(top)[1] < budget:
        top *= 2
        if top > _LARGEST:
            raise UserError(f"no {setting} of model {model.name!r} reaches {budget} parameters")
    first = bisect_left(range(top), budget, lo=max(1, top // 2), key=lambda size: from_size(size)[1])  # that reaches the budget
    found = [from_size(size) for size in (first - 1, first) if size > 0]
    size, count = min(found, key=lambda one: (abs(one[1] - budget), one[0]))
    if abs(count - budget) > TOLERANCE * budget:
        heads = " or fewer heads" if any("heads" in name for name in model.settings) else ""
        raise UserError(
            f"model {model.name!r}: the nearest {setting}, {size}, has {count} parameters, over 2 % from the budget of {budget}; "
            f"match a finer setting (`ModelEntry(match=...)`), or choose another width of the reference row{heads}"
        )
    return with_size(model, size, setting)


def _accepted(model: ComponentConfig, vocabulary: int, size: int, setting: str) -> tuple[int, int]:
    """The first size from `size` on that the model accepts, with its count; raises its error where it accepts none nearby."""
    for nearby in range(size, 2 * size + _STRIDE):
        try:
            return nearby, count_parameters(with_size(model, nearby, setting), vocabulary)
        except UserError as error:
            last = error
    raise last


def match_rows(comparison: Comparison, vocabulary: int) -> dict[str, tuple[ComponentConfig, int | None]]:
    """Each row's model at its matched size, and the budget; None for a row whose settings give the size."""
    budget = count_parameters(comparison.rows[comparison.reference].model, vocabulary)
    models = {}
    for label, row in comparison.rows.items():
        given = row.match in row.model.settings
        model = row.model if given else match(row.model, vocabulary, budget, row.match)
        count_parameters(model, vocabulary)
        check_recipe(model, row.recipe, vocabulary)
        models[label] = (model, budget if not given or label == comparison.reference else None)
    return models
