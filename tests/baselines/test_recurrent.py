"""LSTM and GRU, regularised: against cells stepped by hand, and untouched where nothing is asked for."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import Recurrent
from deq.dropout import dropped_weight, variational_mask

KINDS = ["lstm", "gru"]
MAKES: dict[str, Any] = {"lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell)}


def core(kind: str, **settings: Any) -> Recurrent:
    return Recurrent(**{"kind": kind, "inputs": 3, "width": 4, "layers": 2, **settings}).double()  # type: ignore[arg-type]


def sequence(time: int = 6) -> Tensor:
    return torch.randn(2, time, 3, dtype=torch.float64)


def by_hand(kind: str, made: Recurrent, x: Tensor, between: list[Tensor | None], weights: list[Tensor]) -> Tensor:
    """Stepped through torch's cells, with the masks between layers and the hidden weights given."""
    for n, layer in enumerate(made.network):  # type: ignore[arg-type]
        cell = MAKES[kind][1](layer.input_size, layer.hidden_size).double()
        with torch.no_grad():
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(cell, name).copy_(weights[n] if name == "weight_hh" else getattr(layer, f"{name}_l0"))
        if n and between[n - 1] is not None:
            x = x * between[n - 1]
        state, out = None, []
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            out.append(state[0] if kind == "lstm" else state)
        x = torch.stack(out, dim=1)
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_without_regularisation_it_is_torchs_own_network_but_for_an_open_forget_gate(kind: str) -> None:
    torch.manual_seed(3)
    made = Recurrent(kind=kind, inputs=3, width=4, layers=2)  # type: ignore[arg-type]
    after = torch.rand(1)
    torch.manual_seed(3)
    plain = MAKES[kind][0](3, 4, num_layers=2, batch_first=True)
    assert torch.equal(torch.rand(1), after)  # it draws as many numbers
    assert set(made.state_dict()) == {f"network.{name}" for name in plain.state_dict()}
    for name, value in plain.state_dict().items():
        if kind == "lstm" and "bias_ih" in name:
            value[4:8] = 1.0
        assert torch.equal(made.network.state_dict()[name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_nothing_is_dropped(kind: str) -> None:
    made, x = core(kind, hidden_dropout=0.5, weight_dropout=0.5, outputs=5).eval(), sequence()
    weights = [layer.weight_hh_l0 for layer in made.network]  # type: ignore[union-attr]
    torch.testing.assert_close(made(x).y, by_hand(kind, made, x, [None], weights))


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_one_mask_a_sequence_and_one_draw_of_weights(kind: str) -> None:
    made, x = core(kind, layers=3, hidden_dropout=0.4, weight_dropout=0.3).train(), sequence()
    torch.manual_seed(7)
    got = made(x).y
    torch.manual_seed(7)
    between, weights = [], []
    for n, layer in enumerate(made.network):  # type: ignore[arg-type]
        if n:
            between.append(variational_mask(torch.empty(2, 6, 4, dtype=torch.float64), 0.4, True))
        weights.append(dropped_weight(layer.weight_hh_l0, 0.3, True))
    torch.testing.assert_close(got, by_hand(kind, made, x, between, weights))
    assert any((weight == 0).any() for weight in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_the_weights_that_were_not_dropped(kind: str) -> None:
    made, x = core(kind, layers=1, weight_dropout=0.5).train(), sequence()
    (layer,) = made.network  # type: ignore[misc]
    torch.manual_seed(1)
    made(x).y.square().sum().backward()
    torch.manual_seed(1)
    kept = dropped_weight(layer.weight_hh_l0, 0.5, True) != 0
    assert kept.any()
    assert not kept.all()
    assert torch.equal(layer.weight_hh_l0.grad != 0, kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"outputs": 5}], ids=str)
def test_segments_with_memory_give_what_the_whole_sequence_gives(kind: str, settings: dict[str, int]) -> None:
    made, x = core(kind, **settings), sequence()
    first = made(x[:, :2])
    second = made(x[:, 2:], first.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y), dim=1), made(x).y)


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_parameters_are_counted_and_the_last_layer_has_the_outputs(kind: str, gates: int) -> None:
    made = core(kind, layers=3, outputs=2)
    expected = sum(gates * (D * h + h * h + 2 * h) for D, h in pairwise((3, 4, 4, 2)))
    assert sum(p.numel() for p in made.parameters()) == expected
    assert made.width == made(sequence()).y.shape[-1] == 2


def test_all_forget_gates_start_open() -> None:
    for made in (core("lstm"), core("lstm", weight_dropout=0.1)):
        biases = [value for name, value in made.named_parameters() if "bias_ih" in name]
        assert len(biases) == 2
        assert all(bias[4:8].eq(1).all() for bias in biases)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "rnn"}, "kind must be lstm or gru, got 'rnn'"),
        ({"layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"outputs": 0}, "outputs must be an integer of at least 1, got 0"),
        ({"hidden_dropout": 1.0}, "hidden_dropout must be"),
        ({"weight_dropout": -1.0}, "weight_dropout must be"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core(**{"kind": "lstm", **settings})
