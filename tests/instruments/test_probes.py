"""Probes agree with counts by hand, and with an independent counter where there is one."""

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.instruments.probes import saved_bytes, step_times

N = 256
KIB = 4 * N  # bytes of N floats


def floats(requires_grad: bool = False) -> Tensor:
    return torch.linspace(0.1, 0.9, N, requires_grad=requires_grad)


class TestSavedBytes:
    def test_a_tied_chain_saves_each_state_once(self) -> None:
        weight, x = torch.eye(N).requires_grad_(), floats().view(1, N)

        def forward(depth: int) -> Tensor:
            z = x
            for _ in range(depth):
                z = torch.tanh(z @ weight)  # tanh saves its output, the next product the same storage
            return z.sum()

        assert [saved_bytes(lambda d=depth: forward(d), [weight, x]) for depth in (1, 4, 16)] == [KIB, 4 * KIB, 16 * KIB]

    def test_whole_storages_count_and_views_share_them(self) -> None:
        base = floats(True)

        def forward() -> Tensor:
            y = base + 1
            return (y[:4] * y[4:8]).sum() + y.square().sum()

        assert saved_bytes(forward, [base]) == KIB
        assert saved_bytes(lambda: (floats(True) + 1)[:4].square().sum(), []) == KIB

    def test_exclusion_is_by_storage(self) -> None:
        x, scale = floats(True), floats()
        assert saved_bytes(lambda: (x * scale[:]).sum(), []) == KIB  # the gradient of x needs scale alone
        assert saved_bytes(lambda: (x * scale[:]).sum(), [scale]) == 0
        assert saved_bytes(lambda: (x * scale[:]).sum(), [scale.clone()]) == KIB

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpoints_keep_their_inputs(self, use_reentrant: bool) -> None:
        weight, x = torch.eye(N).requires_grad_(), floats(True).view(1, N)

        def segment(z: Tensor) -> Tensor:
            return torch.tanh(torch.tanh(z @ weight) @ weight)

        def forward() -> Tensor:
            z = x
            for _ in range(3):
                z = checkpoint(segment, z, use_reentrant=use_reentrant)
            return z.sum()

        assert saved_bytes(forward, [weight, x]) == 2 * KIB  # the inputs of segments 2 and 3; the first is excluded
        assert saved_bytes(forward, [weight]) == 3 * KIB
        assert saved_bytes(lambda: segment(segment(segment(x))).sum(), [weight, x]) == 6 * KIB

    def test_a_graph_that_forward_dropped_does_not_count(self) -> None:
        x = floats(True)

        def forward() -> Tensor:
            (slope,) = torch.autograd.grad(x.exp().exp().sum(), x)
            return (x * slope).sum()  # saves slope alone, x is excluded

        assert saved_bytes(forward, [x]) == KIB

        def never_differentiated() -> Tensor:
            x.exp().sum()
            cycle: list[object] = [x.exp().sum()]
            cycle.append(cycle)
            return x.exp().sum()

        assert saved_bytes(never_differentiated, [x]) == KIB

    def test_a_loss_without_backward_is_freed(self) -> None:
        states: list[weakref.ref[torch.UntypedStorage]] = []

        def forward() -> Tensor:
            state = floats(True).exp()
            states.append(weakref.ref(state.untyped_storage()))
            return state.sum()

        saved_bytes(forward, [])
        assert states[0]() is None

    def test_what_a_function_saves_for_backward_counts(self) -> None:
        class Cube(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):  # type: ignore[no-untyped-def]
                ctx.save_for_backward(x.clone(), x.clone())
                return x**3

            @staticmethod
            def backward(ctx, gradient):  # type: ignore[no-untyped-def]
                return 3 * ctx.saved_tensors[0] ** 2 * gradient

        x = floats(True)
        assert saved_bytes(lambda: Cube.apply(x).sum(), [x]) == 2 * KIB

    def test_backward_still_gives_the_right_gradient(self) -> None:
        x = floats(True)
        kept = []

        def forward() -> Tensor:
            kept.append((torch.tanh(x * 3).square() + x.sort().values.cumprod(0)).sum())
            return kept[-1]

        forward().backward()
        expected, x.grad = x.grad, None
        saved_bytes(forward, [x])
        kept[-1].backward()
        assert expected is not None
        assert torch.equal(x.grad, expected)

    def test_backward_can_be_differentiated(self) -> None:
        x = floats(True)
        kept = []

        def forward() -> Tensor:
            kept.append((x.exp() * x.sin()).sum())
            return kept[-1]

        saved_bytes(forward, [x])
        (first,) = torch.autograd.grad(kept[-1], x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        assert torch.allclose(second, 2 * x.exp() * x.cos())

    def test_nothing_is_saved_without_gradients(self) -> None:
        with torch.no_grad():
            assert saved_bytes(lambda: floats(True).exp().sum(), []) == 0

    def test_fake_tensors_count_the_same(self) -> None:
        from torch._subclasses import FakeTensorMode

        with FakeTensorMode():
            x = torch.ones(N, requires_grad=True)
            assert saved_bytes(lambda: x.exp().exp().sum(), [x]) == 2 * KIB


class TestStepTimes:
    def test_repeats_are_timed_and_warmup_is_not(self) -> None:
        calls: list[int] = []
        seconds = step_times(lambda: calls.append(sum(range(20_000))), repeats=3, warmup=2, device="cpu")
        assert len(seconds) == 3
        assert len(calls) == 5
        assert all(second > 0 for second in seconds)

    def test_a_cuda_device_is_synchronised_around_each_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        events: list[str] = []
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
        step_times(lambda: events.append("step"), repeats=2, warmup=1, device="cuda:1")
        assert events == ["step", *["cuda:1", "step", "cuda:1"] * 2]

    @pytest.mark.parametrize(("repeats", "warmup"), [(0, 0), (1, -1)])
    def test_a_wrong_number_is_refused(self, repeats: int, warmup: int) -> None:
        with pytest.raises(ValueError, match=f"repeats={repeats}"):
            step_times(lambda: None, repeats=repeats, warmup=warmup, device="cpu")
