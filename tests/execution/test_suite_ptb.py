"""Suite ptb: the anchor is the published recipe."""

from torch import nn

from bench.suites.ptb import ANCHOR
from bench.training.language_model import count_parameters
from bench.training.trainer import make_optimiser


def test_the_anchor_is_the_small_lstm_of_2014() -> None:
    """Rates of Zaremba's code: 1 for four epochs, then half of the last at each, for a loss summed over 35 tokens."""
    steps = 929_589 // 20 // 35
    assert ANCHOR.train.steps == 13 * steps
    optimiser, schedule = make_optimiser(nn.Linear(1, 1), ANCHOR.train)
    optimiser.step()
    rates = []
    for _ in range(ANCHOR.train.steps):
        rates += schedule.get_last_lr()
        schedule.step()
    for epoch in range(13):
        assert {*rates[epoch * steps : (epoch + 1) * steps]} == {35.0 * 0.5 ** max(0, epoch + 1 - 4)}
    assert ANCHOR.train.clip == 5 / 35
    cells = 2 * 4 * (200 * 400 + 2 * 200)  # torch has two biases a gate
    assert count_parameters(ANCHOR.model, 10_000) == 2 * 10_000 * 200 + 10_000 + cells
