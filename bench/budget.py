"""Equal parameters: the width at which a model's count comes nearest to a budget, within 2 %."""

from bench.errors import UserError
from bench.model import count_parameters
from bench.spec import Named

TOLERANCE = 0.02


def with_width(model: Named, width: int) -> Named:
    """The same model with another width."""
    return Named(name=model.name, settings={**model.settings, "width": width})


def match_width(model: Named, vocabulary: int, budget: int) -> Named:
    """The model at the width whose total parameter count is nearest to `budget`; UserError where none is within 2 %.

    Widths that the model refuses (not a multiple of its heads, say) are passed over. The count is assumed to grow with the width.
    """
    best: tuple[int, int] | None = None
    refused: UserError | None = None
    low, high = 1, 1
    while _count(model, vocabulary, high) < budget:
        low, high = high, 2 * high
        if high > 2**17:
            raise UserError(f"no width of model {model.name!r} reaches {budget} parameters")
    for width in range(low, high + 1):
        try:
            count = count_parameters(with_width(model, width), vocabulary)
        except UserError as error:
            refused = error
            continue
        if best is None or abs(count - budget) < abs(best[1] - budget):
            best = (width, count)
        if count > budget:
            break
    if best is None:
        raise refused or UserError(f"model {model.name!r} cannot be built at any width")
    width, count = best
    if abs(count - budget) > TOLERANCE * budget:
        raise UserError(
            f"model {model.name!r}: the nearest width, {width}, has {count} parameters, more than 2 % from the budget of {budget}; "
            "choose another reference width or fewer heads"
        )
    return with_width(model, width)


def _count(model: Named, vocabulary: int, width: int) -> int:
    """The count at the first width from `width` on that the model accepts."""
    error: UserError | None = None
    for nearby in range(width, width + 64):
        try:
            return count_parameters(with_width(model, nearby), vocabulary)
        except UserError as caught:
            error = caught
    assert error is not None
    raise error
