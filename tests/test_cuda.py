"""What only a GPU can show: the same results as on a CPU, meters that agree, precision, CUDA graphs, and a run of every model."""

from typing import Any

import pytest
import torch
from torch import nn

from bench.instruments.environment import use_float32
from bench.instruments.meters import CudaMemory
from bench.instruments.nvml import Nvml
from bench.instruments.operators import cuda_syncs
from bench.peers.problems import block, tiny
from bench.perf_gate.golden import cases
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.training.registry import MODELS
from bench.training.run import run
from deq import ADJOINTS, CELLS, DEQ, SOLVERS, Broyden, Picard, Reversible, Stop, solve

DEVICE = "cuda"
MIB = 2**20
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


@pytest.fixture(autouse=True)
def products_in_float32() -> None:
    use_float32()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("stop", [Stop(rtol=1e-8, max_steps=60), Stop(rtol=1e-8, max_steps=60, check_every=4), Stop(rtol=None)])
def test_a_solve_ends_as_on_a_cpu(name: str, stop: Stop) -> None:
    found = []
    for device in ("cpu", DEVICE):
        problem = tiny(torch.float64, device, radius=0.7)
        with torch.no_grad():
            found.append(solve(problem.f, problem.z0, SOLVERS[name](), stop))
    torch.testing.assert_close(found[1].z.cpu(), found[0].z, rtol=1e-7, atol=1e-9)
    assert torch.equal(found[1].status.cpu(), found[0].status)
    assert torch.equal(found[1].steps.cpu(), found[0].steps)
    assert found[0].nfe <= found[1].nfe < found[0].nfe + stop.check_every


@pytest.mark.parametrize("name", [name for name in ADJOINTS if name != "propagation"])  # which needs an energy
def test_a_gradient_is_that_of_a_cpu(name: str) -> None:
    found = []
    for device in ("cpu", DEVICE):
        problem = tiny(torch.float64, device, radius=0.7)
        solver = {"unroll": Picard(), "reverse": Reversible()}.get(name, Broyden(window=80))
        # Another order of summing moves the gradient of 80 reversed steps by 1e-2, and Shine's of a solve to 1e-10 by 1e-6.
        stop = {"reverse": Stop(rtol=None, max_steps=10), "shine": Stop(rtol=1e-6, max_steps=80)}.get(
            name, Stop(rtol=1e-10, max_steps=80)
        )
        z = ADJOINTS[name]()(problem.f, problem.z0, solver, stop, lambda phase, solution: None)
        z.sin().sum().backward()
        found.append([leaf.grad for leaf in problem.leaves])
    for there, here in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-8)


def test_a_solve_of_a_fixed_length_never_makes_the_host_wait() -> None:
    problem = block(device=DEVICE)
    for name, make in SOLVERS.items():
        with torch.no_grad():
            assert cuda_syncs(lambda make=make: solve(problem.f, problem.z0, make(), Stop(rtol=None, max_steps=8))) == 0, name


def test_float32_products_are_not_rounded_to_tf32() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(256, 256), nn.LSTM(256, 256, batch_first=True), nn.Conv1d(256, 256, 3)):
        layer, x = layer.to(DEVICE), torch.randn(8, 256, 256, device=DEVICE)
        with torch.no_grad():
            single, double = layer(x), layer.double()(x.double())
        single, double = (y[0] if isinstance(y, tuple) else y for y in (single, double))
        error = (single - double).norm() / double.norm()
        assert error < 3e-6, f"{type(layer).__name__}: {error:.1e}"  # TF32: about 3e-4


def test_a_solve_under_autocast_keeps_its_state_in_float32() -> None:
    problem = block(device=DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        solution = solve(problem.f, problem.z0, SOLVERS["anderson"](), Stop(rtol=2e-2, max_steps=40))
    assert solution.z.dtype == torch.float32
    assert solution.converged.all()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_captured_map_gives_the_same_solution(name: str) -> None:
    """A CUDA graph writes each result to the same memory."""
    problem = tiny(device=DEVICE, radius=0.7)
    argument = torch.zeros_like(problem.z0)
    with torch.no_grad():
        for _ in range(3):
            problem.f(argument)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = problem.f(argument)

        def replayed(z: torch.Tensor) -> torch.Tensor:
            argument.copy_(z)
            graph.replay()
            return result

        stop = Stop(rtol=1e-5, max_steps=60)
        plain, captured = (solve(f, problem.z0, SOLVERS[name](), stop) for f in (problem.f, replayed))
    torch.testing.assert_close(captured.z, plain.z, rtol=1e-5, atol=1e-6)
    assert captured.nfe == plain.nfe


@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "propagation"])
@pytest.mark.parametrize("cell", ["mlp", "transformer", "transformer-xl", "trellis", "state-space"])
def test_a_layer_with_cuda_graphs_trains_as_one_without(cell: str, adjoint: str) -> None:
    dropout = {"transformer-xl": {"dropout": 0.2, "attention_dropout": 0.2}, "trellis": {"dropout": 0.2, "weight_dropout": 0.2}}
    solver = {"unroll": Picard(), "reverse": Reversible()}.get(adjoint, Broyden(window=40))
    found = []
    for graphs in (False, True):
        torch.manual_seed(0)
        stop = Stop(rtol=1e-3, max_steps=12)
        own = CELLS[cell](width=32, **dropout.get(cell, {}))
        layer = DEQ(own, solver=solver, stop=stop, adjoint=ADJOINTS[adjoint](), cuda_graphs=graphs).to(DEVICE)
        memory, results = None, []
        for _ in range(4):
            x = torch.randn(4, 24, 32, device=DEVICE, requires_grad=True)
            output = layer.train()(x, memory)
            output.y.sin().mean().backward()
            with torch.no_grad():
                results += [output.y.clone(), x.grad, layer.eval()(x, memory).y]
            memory = output.memory
        found.append([*results, *(parameter.grad for parameter in layer.parameters())])
    assert layer._graphed is not None
    assert layer._graphed._recordings
    for other, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-6)


def test_cuda_graphs_launch_less() -> None:
    counts = []
    for graphs in (False, True):
        layer = DEQ(CELLS["transformer"](width=32), solver=Picard(), stop=Stop(rtol=None, max_steps=8), cuda_graphs=graphs)
        layer = layer.to(DEVICE)
        x = torch.randn(4, 24, 32, device=DEVICE)
        for _ in range(3):
            layer(x).y.sum().backward()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            layer(x).y.sum().backward()
            torch.cuda.synchronize()
        names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
        counts.append(sum(event.count for event in profile.key_averages() if event.key in names))
    assert counts[1] < counts[0] / 2, counts


def test_nvml_sees_what_the_allocator_reserves() -> None:
    cuda, nvml = CudaMemory(DEVICE), Nvml(DEVICE)
    cuda.start()
    nvml.start()
    held = torch.empty(512 * MIB, dtype=torch.uint8, device=DEVICE)
    nvml.sample()
    measures = {**cuda.read(), **nvml.read()}
    del held
    assert measures["cuda_allocated_peak_bytes"].value - measures["cuda_baseline_bytes"].value == 512 * MIB
    process = measures["nvml_process_bytes"]
    if process.value is None:  # in a container NVML may not know this process
        assert process.reason
    else:
        assert process.value >= measures["cuda_reserved_peak_bytes"].value


def test_workspaces_of_cublas_are_apart_from_the_tensors() -> None:
    cuda = CudaMemory(DEVICE)
    x = torch.ones(256, 256, device=DEVICE, requires_grad=True)
    cuda.start()
    (x @ x).sum().backward()  # backward has a thread, and a workspace, of its own
    measures = cuda.read()
    tensors = measures["cuda_allocated_peak_bytes"].value - measures["cuda_baseline_bytes"].value
    assert 2 * 2**18 <= tensors <= 6 * 2**18
    assert measures["cublas_workspace_bytes"].value > 6 * 2**18


def on_gpu(spec: RunSpec, **train: Any) -> RunSpec:
    return spec.model_copy(update={"device": "cuda", "role": "final", "train": spec.train.model_copy(update=train)})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_is_measured(name: str) -> None:
    record = run(on_gpu(dict(cases())[f"{name} on copy"]), suite="s")
    assert record.status == "ok", record.reason
    assert record.value("cuda_allocated_peak_bytes") > 0
    assert record.environment["gpu"]["name"]


def test_a_run_out_of_memory_leaves_room_for_the_next() -> None:
    attention = {"width": 64, "depth": 16, "cell": "transformer-xl", "cell.heads": 16}  # 65 GB a layer
    model, train = ComponentConfig(name="tied", settings=attention), TrainConfig(steps=1, batch=256, learning_rate=1e-3)
    task = ComponentConfig(name="copy", settings={"T": 2000, "samples": 256, "test_samples": 8})
    record = run(RunSpec(group="g", label="l", model=model, task=task, train=train, seed=0, device="cuda"), suite="s")
    assert record.status == "oom", record.reason
    assert torch.cuda.memory_reserved() < 1024 * MIB
    assert run(on_gpu(dict(cases())["gru on copy"]), suite="s").status == "ok"
