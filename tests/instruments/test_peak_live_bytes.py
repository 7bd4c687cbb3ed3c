"""The peak of live bytes agrees with counts by hand and with torch's memory tracker."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from test_probes import KIB, N, floats
from torch import Tensor, nn

from bench.instruments.probes import Peak, peak_live_bytes


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

    def test_a_storage_that_only_the_graph_keeps_counts(self) -> None:
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
