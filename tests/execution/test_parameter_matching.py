"""Match the size of a model to a parameter budget."""

import pytest
from cases import few

from bench.execution.parameter_matching import TOLERANCE, match
from bench.records.errors import UserError
from bench.records.spec import ComponentConfig, Settings
from bench.training.language_model import count_parameters

_SETTINGS: dict[str, Settings] = {
    "deq mlp": {"cell": "mlp"},
    "deq": {"cell": "transformer", "cell.heads": 2},
    "tied": {"cell": "transformer", "cell.heads": 4},
    "tied 3": {"cell": "transformer", "cell.heads": 3},
    "tied 5": {"cell": "transformer", "cell.heads": 5},
    "tied 6": {"cell": "transformer", "cell.heads": 6},
    "lstm": {},
    "lstm 32": {"inputs": 32},
    "gru": {"inputs": 16, "layers": 2},
    "user_models:Averages": {},
}
MODELS = {label: ComponentConfig(name=label.split(" ")[0], settings=settings) for label, settings in _SETTINGS.items()}


def widths(model: ComponentConfig, vocabulary: int, most: int) -> dict[int, int]:
    counts = {}
    for width in range(1, most):
        try:
            counts[width] = count_parameters(
                ComponentConfig(name=model.name, settings={**model.settings, "width": width}), vocabulary
            )
        except UserError:
            continue
    return counts


class TestMatchWidth:
    @pytest.mark.parametrize("label", few(MODELS, ("deq mlp", "lstm", "user_models:Averages")))
    def test_finds_what_brute_force_finds(self, label: str) -> None:
        model = MODELS[label]
        counts = widths(model, 11, 80)
        assert counts
        top = max(counts.values())
        known = list(counts.values())
        budgets = [*known[:: 1 if len(known) < 25 else 12], 100, 1_000, 10_000, 30_000]
        for budget in sorted({b for b in budgets if b < 0.9 * top}):
            width, nearest = min(counts.items(), key=lambda item: (abs(item[1] - budget), item[0]))
            if abs(nearest - budget) <= TOLERANCE * budget:
                found = match(model, 11, budget)
                assert found.settings == {**model.settings, "width": width}, budget
                assert found.name == model.name
            else:
                with pytest.raises(UserError) as caught:
                    match(model, 11, budget)
                assert str(budget) in str(caught.value)

    def test_a_model_with_many_heads_is_matched(self) -> None:
        model = ComponentConfig(name="tied", settings={"cell": "transformer", "cell.heads": 48})
        budget = count_parameters(ComponentConfig(name="tied", settings={**model.settings, "width": 192}), 11)
        assert match(model, 11, budget).settings["width"] == 192

    def test_a_model_that_accepts_no_width_raises_its_error(self) -> None:
        with pytest.raises(UserError, match="did you mean 'mlp'"):
            match(ComponentConfig(name="deq", settings={"cell": "mlpp"}), 11, 1_000)

    def test_a_budget_out_of_reach_is_refused(self) -> None:
        with pytest.raises(UserError, match="10"):
            match(ComponentConfig(name="lstm"), 11, 10)
