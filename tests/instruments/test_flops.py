"""FLOPs agree with closed forms, and an operator without a formula makes the total None."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.instruments.flops import FORMULAS, flops


def lstm_flops(width: int, hidden: int, tokens: int, gates: int = 4) -> int:
    return 2 * gates * hidden * (width + hidden) * tokens


class TestFlops:
    B, T, D, H = 3, 5, 4, 6

    def inputs(self) -> Tensor:
        return torch.randn(self.T, self.B, self.D, requires_grad=True)

    def test_a_linear_layer(self) -> None:
        layer, x = nn.Linear(self.D, self.H), self.inputs()
        forward = 2 * self.T * self.B * self.D * self.H
        assert flops(lambda: layer(x)).total == forward
        assert flops(lambda: layer(x).sum().backward()).total == 3 * forward
        assert flops(lambda: layer(x.detach()).sum().backward()).total == 2 * forward  # no gradient of the input
        assert flops(lambda: layer(x)).by_operator == {"aten.addmm": forward}

    def test_an_mlp_with_its_optimiser(self) -> None:
        network = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 2))
        optimiser = torch.optim.Adam(network.parameters())
        x = torch.randn(5, 7)

        def step() -> None:
            network(x).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()

        count = flops(step)
        assert count.reason is None
        assert count.total == 2 * 5 * (2 * 7 * 11 + 3 * 11 * 2)
        with FlopCounterMode(display=False) as counter:
            step()
        assert count.total == counter.get_total_flops()

    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_an_lstm_fused_or_not(self, layers: int, dtype: torch.dtype) -> None:
        network = nn.LSTM(self.D, self.H, layers, dtype=dtype)
        x = self.inputs().to(dtype).detach().requires_grad_()
        state = [torch.zeros(layers, self.B, self.H, dtype=dtype, requires_grad=True) for _ in range(2)]
        forward = lstm_flops(self.D, self.H, self.B * self.T) + (layers - 1) * lstm_flops(self.H, self.H, self.B * self.T)
        assert flops(lambda: network(x, state)).total == forward
        assert flops(lambda: network(x, state)[0].sum().backward()).total == 3 * forward

    def test_a_two_way_lstm(self) -> None:
        network, x = nn.LSTM(self.D, self.H, bidirectional=True), self.inputs()
        assert flops(lambda: network(x)[0].sum().backward()).total == 2 * 3 * lstm_flops(self.D, self.H, self.B * self.T)

    def test_a_gru(self) -> None:
        network, x = nn.GRU(self.D, self.H), self.inputs()
        state = torch.zeros(1, self.B, self.H, requires_grad=True)
        forward = lstm_flops(self.D, self.H, self.B * self.T, gates=3)
        assert flops(lambda: network(x, state)).total == forward
        assert flops(lambda: network(x, state)[0].sum().backward()).total == 3 * forward

    def test_cudnns_layers_by_their_formula(self) -> None:
        """No GPU is needed to check what the operator's arguments come to."""
        network = nn.LSTM(self.D, self.H, 2)
        arguments = (self.inputs(), [*network.parameters()], 4)
        forward = lstm_flops(self.D, self.H, self.B * self.T) + lstm_flops(self.H, self.H, self.B * self.T)
        assert FORMULAS[torch.ops.aten._cudnn_rnn](arguments, None) == forward
        assert FORMULAS[torch.ops.aten._cudnn_rnn_backward](arguments, None) == 2 * forward

    @pytest.mark.parametrize("causal", [False, True])
    def test_attention_counts_the_full_square(self, causal: bool) -> None:
        heads, length, width = 2, 7, 4
        query, key, value = (torch.randn(self.B, heads, length, width, requires_grad=True) for _ in range(3))
        product = 2 * self.B * heads * length * length * width

        def attend(dropout: float) -> Tensor:
            return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal).sum()

        assert flops(lambda: attend(0.0)).total == 2 * product
        assert flops(lambda: attend(0.0).backward()).total == (2 + 5) * product  # the fused backward computes the scores again
        assert flops(lambda: attend(0.5).backward()).total == (2 + 4) * product

    def test_a_convolution(self) -> None:
        layer, x = nn.Conv1d(3, 5, 2), torch.randn(2, 3, 9, requires_grad=True)
        forward = 2 * 2 * 3 * 5 * 2 * 8
        assert flops(lambda: layer(x)).total == forward
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        assert flops(lambda: layer(x).sum().backward()).total == counter.get_total_flops()

    def test_products_that_torchs_counter_passes_over(self) -> None:
        a, b, v = torch.ones(3, 4), torch.ones(4, 5), torch.ones(4)
        batch, other = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
        into, batch_into = torch.ones(3, 5), torch.ones(2, 3, 5)
        for step, expected in (
            (lambda: a @ v, 24),
            (lambda: v @ v, 8),
            (lambda: torch.addmv(torch.ones(3), a, v), 24),
            (lambda: into.addmm_(a, b), 120),
            (lambda: batch_into.baddbmm_(batch, other), 240),
            (lambda: torch.addbmm(into, batch, other), 240),
            (lambda: torch.addr(torch.ones(3, 4), torch.ones(3), v), 24),
        ):
            assert flops(step).total == expected
            with FlopCounterMode(display=False) as counter:
                step()
            assert counter.get_total_flops() == 0  # once torch counts it, our formula can be removed

    def test_composite_operators_are_decomposed(self) -> None:
        a, b = torch.ones(2, 3, 4), torch.ones(4, 5)
        with torch.inference_mode():
            assert flops(lambda: torch.einsum("bij,jk->bik", a, b)).total == 2 * 2 * 3 * 4 * 5
            assert flops(lambda: functional.linear(a, b.T)).total == 2 * 2 * 3 * 4 * 5

    def test_small_dense_solves_count_as_lapack_does(self) -> None:
        n, k, batch = 6, 2, 5
        matrices = (torch.eye(n) * 2).expand(batch, n, n).clone()
        right = torch.ones(batch, n, k)
        cases: list[tuple[Callable[[], object], int]] = [
            (lambda: torch.linalg.solve_ex(matrices, right), batch * (2 * n**3 // 3 + 2 * n * n * k)),
            (lambda: torch.linalg.solve_ex(matrices, right[..., 0]), batch * (2 * n**3 // 3 + 2 * n * n)),
            (lambda: torch.linalg.cholesky_ex(matrices), batch * n**3 // 3),
            (lambda: torch.cholesky_solve(right, matrices), batch * 2 * n * n * k),
            (lambda: torch.linalg.solve_triangular(matrices, right, upper=True), batch * n * n * k),
            (lambda: torch.linalg.lu_solve(*torch.linalg.lu_factor(matrices), right), batch * (2 * n**3 // 3 + 2 * n * n * k)),
            (lambda: torch.linalg.inv(matrices), batch * 2 * n**3),
        ]
        for step, expected in cases:
            count = flops(step)
            assert (count.total, count.reason) == (expected, None)
            assert all(name.startswith("aten.") for name in count.by_operator)

    def test_pointwise_work_counts_nothing_and_is_known(self) -> None:
        x = torch.randn(4, 8, requires_grad=True)
        table = nn.Embedding(4, 8)

        def step() -> None:
            y = functional.layer_norm(torch.softmax(x, 1), (8,)) + table(torch.arange(4))
            functional.cross_entropy(functional.dropout(y, 0.5), torch.arange(4)).backward()

        count = flops(step)
        assert (count.total, count.by_operator, count.reason) == (0, {}, None)

    @pytest.mark.parametrize(
        ("step", "name"),
        [
            (lambda: torch.cdist(torch.ones(30, 4), torch.ones(30, 4)), "aten._euclidean_dist"),
            (lambda: torch.cdist(torch.ones(30, 4), torch.ones(30, 4), p=1.0), "aten._cdist_forward"),
            (lambda: torch.linalg.svd(torch.eye(3)), "aten._linalg_svd"),
            (lambda: torch.bilinear(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3, 3), None), "aten._trilinear"),
            (lambda: torch.fft.fft(torch.ones(8)), "aten._fft_r2c"),
        ],
    )
    def test_unknown_matrix_work_makes_the_total_null(self, step: Callable[[], object], name: str) -> None:
        def with_a_product() -> None:
            torch.ones(3, 4) @ torch.ones(4, 5)
            step()

        count = flops(with_a_product)
        assert count.total is None
        assert count.reason == f"{name} has no formula"
        assert count.by_operator == {"aten.mm": 120}

    def test_the_fused_encoder_layer_is_not_zero(self) -> None:
        layer, x = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), torch.ones(2, 3, 4)
        with torch.no_grad():
            count = flops(lambda: layer(x))
        assert count.total is None
        assert "_transformer_encoder_layer_fwd" in str(count.reason)

    def test_an_operator_from_outside_torch_makes_the_total_null(self) -> None:
        @torch.library.custom_op("probes_test::twice", mutates_args=())
        def twice(x: Tensor) -> Tensor:
            return x * 2

        count = flops(lambda: twice(torch.ones(3)))
        assert count.total is None
        assert count.reason == "probes_test.twice has no formula"

    def test_a_formula_that_does_not_fit_makes_the_total_null(self) -> None:
        count = flops(lambda: torch.linalg.lu_factor_ex(torch.ones(3, 4)))
        assert count.total is None
        assert "rectangular" in str(count.reason)
