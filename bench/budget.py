"""Equal parameters: the width at which a model's count comes nearest to a budget, within 2 %."""

from bench.errors import UserError
from bench.model import count_parameters
from bench.spec import Named

TOLERANCE = 0.02
_STRIDE = 256  # widths tried in vain before a model is given up
_WIDEST = 2**17


def with_width(model: Named, width: int) -> Named:
    """The same model with another width."""
    return Named(name=model.name, settings={**model.settings, "width": width})


def match_width(model: Named, vocabulary: int, budget: int) -> Named:
    """The model at the width whose total parameter count is nearest to `budget`; UserError where none is within 2 %.

    Widths that the model refuses (not a multiple of its heads, say) are passed over. The count is assumed to grow with the width.
    """
    low, high = 0, 1
    while (near := _accepted(model, vocabulary, high)) is not None and near[1] < budget:
        low, high = near[0], 2 * near[0]
        if high > _WIDEST:
            raise UserError(f"no width of model {model.name!r} reaches {budget} parameters")
    if near is None:
        raise UserError(f"no width of model {model.name!r} reaches {budget} parameters")
    best = near
    for width in range(max(1, low), near[0]):
        count = _count(model, vocabulary, width)
        if isinstance(count, int):
            if abs(count - budget) < abs(best[1] - budget) or (abs(count - budget) == abs(best[1] - budget) and width < best[0]):
                best = (width, count)
            if count > budget:
                break
    width, count = best
    if abs(count - budget) > TOLERANCE * budget:
        raise UserError(
            f"model {model.name!r}: the nearest width, {width}, has {count} parameters, more than 2 % from the budget of {budget}; "
            "choose another reference width or fewer heads"
        )
    return with_width(model, width)


def _accepted(model: Named, vocabulary: int, width: int) -> tuple[int, int] | None:
    """The first width from `width` on that the model accepts, with its count; its complaint where there is none near."""
    count: int | UserError = 0
    for nearby in range(width, 2 * width + _STRIDE):
        count = _count(model, vocabulary, nearby)
        if isinstance(count, int):
            return nearby, count
    assert isinstance(count, UserError)
    raise count


def _count(model: Named, vocabulary: int, width: int) -> int | UserError:
    try:
        return count_parameters(with_width(model, width), vocabulary)
    except UserError as error:
        return error
