"""Probes agree with counts by hand, and with an independent counter where there is one."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.instruments.probes import Peak, peak_live_bytes, saved_bytes, step_times

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


class TestPeakLiveBytes:
    def peak(self, step: Callable[[], object]) -> int:
        return peak_live_bytes(step, []).peak // KIB

    def test_a_freed_storage_no_longer_counts(self) -> None:
        def step() -> None:
            a = floats()
            b = a + 1
            del a
            c = b + 1
            del b
            del c
            floats()

        assert self.peak(step) == 2

        def keeping() -> None:
            a = floats()
            b = a + 1
            c = b + 1
            floats()
            del a, b, c

        assert self.peak(keeping) == 4

    def test_a_view_keeps_its_whole_storage(self) -> None:
        def step() -> None:
            view = floats()[:1]
            floats() + 1
            del view

        assert self.peak(step) == 3

    def test_the_graph_alone_keeps_a_storage(self) -> None:
        x = floats(True)

        def step(release: bool) -> None:
            y = x.exp().exp().sum()  # 2 KIB that no Python name holds
            if release:
                del y
            floats()
            floats() + floats()

        held = peak_live_bytes(lambda: step(False), [x])
        assert held.step == 2 * KIB + 4 + 3 * KIB
        assert peak_live_bytes(lambda: step(True), [x]).step == 3 * KIB

    def test_resizing_in_place_changes_the_count(self) -> None:
        def grow() -> None:
            small = torch.empty(4)
            small.resize_(3 * N)

        assert peak_live_bytes(grow, []).peak == 3 * KIB

        def out() -> None:
            result = torch.empty(0)
            torch.add(floats(), floats(), out=result)

        assert self.peak(out) == 3

        def swap() -> None:
            a = floats()
            a.set_(torch.ones(2 * N).untyped_storage())  # the first storage dies here
            floats()

        assert self.peak(swap) == 3

    def test_a_storage_at_the_address_of_a_freed_one_is_another(self) -> None:
        kept: list[Tensor] = []

        @torch.library.custom_op("probes_test::replace", mutates_args=())
        def replace(x: Tensor) -> Tensor:
            kept.clear()
            return x + 1  # among twenty addresses that just came free, the allocator gives one of them

        def step() -> None:
            x = floats()
            kept.extend(floats() for _ in range(20))
            replace(x)

        assert self.peak(step) == 22  # what an operator frees was alive together with its result

    def test_in_place_work_allocates_nothing(self) -> None:
        x = floats()
        assert peak_live_bytes(lambda: x.mul_(2).add_(1), [x]) == Peak(peak=KIB, held=KIB, step=0)

    def test_held_tensors_count_once_and_from_the_start(self) -> None:
        a, b = floats(), floats()
        assert peak_live_bytes(lambda: None, [a, a[:3], b]) == Peak(peak=2 * KIB, held=2 * KIB, step=0)

    def test_held_gradients_that_the_step_frees_are_freed(self) -> None:
        parameter = floats(True)
        parameter.grad = floats()

        def step() -> None:
            parameter.grad = None
            floats() + 1

        def held() -> Iterator[Tensor]:
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad

        assert peak_live_bytes(step, held()) == Peak(peak=3 * KIB, held=2 * KIB, step=KIB)

    def test_a_tensor_from_outside_counts_from_its_first_use(self) -> None:
        x = floats()
        assert peak_live_bytes(lambda: x + 1, []).peak == 2 * KIB

    @pytest.mark.parametrize("depth", [1, 2, 7])
    def test_a_chain_of_exponentials(self, depth: int) -> None:
        x = floats(True)

        def step() -> None:
            y = x
            for _ in range(depth):
                y = y.exp()
            loss = y.sum()
            del y
            loss.backward()

        # Every state, the loss, its gradient of one, and the first gradient of full size; from then on one state goes as one
        # gradient comes, and the gradient before it is still there.
        assert peak_live_bytes(step, [x]).step == (depth + 1) * KIB + 8

    def test_a_custom_backward_that_differentiates_again(self) -> None:
        class Again(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):  # type: ignore[no-untyped-def]
                ctx.save_for_backward(x)
                return x + 0

            @staticmethod
            def backward(ctx, gradient):  # type: ignore[no-untyped-def]
                (x,) = ctx.saved_tensors
                with torch.enable_grad():
                    z = x.detach().requires_grad_()
                    y = z.exp().exp().exp()
                    (result,) = torch.autograd.grad(y, z, gradient)
                return result

        x = floats(True)

        def step() -> None:
            Again.apply(x).sum().backward()

        # The peak is the product for the second state: three states (the last by its name `y` alone), the gradient coming in and
        # the one going out, the loss and its gradient of one.
        found = peak_live_bytes(step, [x])
        assert found.step == 5 * KIB + 8
        assert found.peak == independent_peak(step, x)

    def test_agrees_with_torchs_own_tracker(self) -> None:
        network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
        optimiser = torch.optim.Adam(network.parameters())
        x = torch.ones(16, 8)

        def step() -> None:
            optimiser.zero_grad()
            network(x).square().mean().backward()
            optimiser.step()

        step()

        def held() -> Iterator[Tensor]:
            for parameter in network.parameters():
                yield parameter
                yield parameter.grad  # type: ignore[misc]
            for state in optimiser.state.values():
                yield from state.values()
            yield x

        ours = peak_live_bytes(step, held())
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert ours.held == 4 * (4 * parameters + 4 + x.numel())  # weights, gradients, two moments, a step counter for each
        assert ours.peak == independent_peak(step, network, optimiser, x)

    def test_reference_cycles_count_and_the_collector_is_enabled_again(self) -> None:
        def step() -> None:
            for _ in range(50):
                cycle: list[object] = [floats()]
                cycle.append(cycle)

        threshold = gc.get_threshold()
        gc.set_threshold(10)
        try:
            assert self.peak(step) == 50
        finally:
            gc.set_threshold(*threshold)
        assert gc.isenabled()
        with pytest.raises(ZeroDivisionError):
            peak_live_bytes(lambda: 1 // 0, [])
        assert gc.isenabled()


def independent_peak(step: Callable[[], object], *external: object) -> int:
    tracker_module = pytest.importorskip("torch.distributed._tools.mem_tracker")
    tracker = tracker_module.MemTracker()
    tracker.track_external(*external)
    with tracker:
        step()
    return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())


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
