"""What `solve` asks of f and of its caller: a map that breaks the contract is refused or made harmless, never solved wrongly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import norms
from torch import Tensor, nn

from baselines import TCN, AdaptiveLoop, NeuralODE, Recurrent, TransformerXL, TrellisNet, Unrolled
from deq import (
    CELLS,
    DEQ,
    SOLVERS,
    Anderson,
    Broyden,
    Core,
    EnergyCell,
    EquilibriumPropagation,
    Implicit,
    Jacobian,
    MLPCell,
    Phantom,
    Picard,
    Status,
    Stop,
    TransformerCell,
    TrellisCell,
    Unroll,
    jacobian_penalty,
    solve,
    spectral_radius,
)
from deq.adjoints.adjoint import normalised
from deq.adjoints.shine import InverseEstimate, Shine

NAMES = sorted(SOLVERS)
STOP = Stop(rtol=1e-4, max_steps=60)


def tanh_map(size: int = 20, seed: int = 0, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = (0.9 * torch.randn(size, size, generator=random) / (2 * size**0.5)).to(dtype)
    b = torch.randn(size, generator=random).to(dtype)
    return lambda z: torch.tanh(z @ weight + b)


def in_place(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: z.copy_(f(z))


def writes_and_returns_another(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def g(z: Tensor) -> Tensor:
        fz = f(z)
        z.mul_(0.5)
        return fz

    return g


def writes_past_the_version(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def g(z: Tensor) -> Tensor:
        fz = f(z)
        z.data.mul_(0.5)
        return fz

    return g


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("wrong", [in_place, writes_and_returns_another, writes_past_the_version])
@pytest.mark.parametrize("name", NAMES)
def test_a_map_that_writes_to_its_argument_is_refused_and_the_start_is_untouched(name: str, wrong: Any, inference: bool) -> None:
    """It used to be called converged after one step, at a true residual of 0.29."""
    with torch.inference_mode(inference):
        z0 = torch.full((3, 20), 0.5)
        with pytest.raises(ValueError, match="f wrote to its argument z"):
            solve(wrong(tanh_map()), z0, SOLVERS[name](), STOP)
        assert torch.equal(z0, torch.full((3, 20), 0.5))


def static(f: Callable[[Tensor], Tensor], results: int = 1) -> Callable[[Tensor], Tensor]:
    """f into the same memory at every call, as a CUDA graph does; the argument is copied first, as there."""
    buffers: list[Tensor] = []
    calls = [0]

    def g(z: Tensor) -> Tensor:
        taken = z.clone()
        if len(buffers) < results:
            buffers.append(torch.empty_like(z))
        calls[0] += 1
        return buffers[calls[0] % len(buffers)].copy_(f(taken))

    return g


@pytest.mark.parametrize("relaxation", [1.0, 0.8])
@pytest.mark.parametrize("name", NAMES)
def test_a_map_with_a_static_result_is_solved_as_any_other(name: str, relaxation: float) -> None:
    make = (lambda: Picard(relaxation=relaxation)) if name == "picard" else SOLVERS[name]
    plain = solve(tanh_map(), torch.zeros(3, 20), make(), STOP)
    f = static(tanh_map())
    solution = solve(f, torch.zeros(3, 20), make(), STOP)
    assert torch.equal(solution.z, plain.z)
    assert torch.equal(solution.gaps, plain.gaps)
    kept = solution.z.clone()
    f(torch.ones(3, 20))
    assert torch.equal(solution.z, kept)  # no part of the map's memory


class Static(MLPCell):
    """A cell whose map has a static result where no gradient is asked for."""

    def bind(self, x: Tensor, memory: Any = None) -> Any:
        f, g = super().bind(x), None

        def either(z: Tensor) -> Tensor:
            nonlocal g
            if torch.is_grad_enabled() and z.requires_grad:
                return f(z)
            g = g or static(f)
            return g(z)

        return either


def test_an_output_is_no_part_of_a_static_result() -> None:
    layer = DEQ(Static(width=4), solver=Picard(), stop=STOP).eval()
    plain = DEQ(MLPCell(width=4), solver=Picard(), stop=STOP).eval()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).y, plain(x).y)
    found, wanted = (torch.autograd.grad(core(x).y.sum(), core.cell.inner.weight) for core in (layer, plain))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda z: z[:, :1], ValueError, r"shape of its argument, \(2, 20\), got \(2, 1\)"),
        (lambda z: z[:1], ValueError, r"shape of its argument, \(2, 20\), got \(1, 20\)"),
        (lambda z: z.unsqueeze(0), ValueError, r"got \(1, 2, 20\)"),
        (lambda z: z.double(), TypeError, "dtype, torch.float32, or a narrower float, got torch.float64"),
        (lambda z: z.long(), TypeError, "got torch.int64"),
        (lambda z: z.to(torch.complex64), TypeError, "got torch.complex64"),
        (lambda z: (z, z), TypeError, "f must return a tensor, got tuple"),
        (lambda z: z.to("meta"), ValueError, "a tensor on cpu, where its argument is, got meta"),
    ],
    ids=["last", "first", "more", "double", "long", "complex", "tuple", "device"],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_result_of_another_shape_dtype_or_device_is_refused(name: str, f: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        solve(f, torch.zeros(2, 20), SOLVERS[name](), STOP)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_start_that_is_not_floating_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"floating-point tensor, got {dtype}"):
        solve(lambda z: z, torch.zeros(2, 3, dtype=dtype), Picard(), STOP)
    with pytest.raises(TypeError, match="floating-point tensor, got list"):
        solve(lambda z: z, [[0.0]], Picard(), STOP)  # type: ignore[arg-type]


@pytest.mark.parametrize("adjoint", [Implicit(), Phantom(), Unroll()])
def test_function_transforms_are_refused_by_name(adjoint: Any) -> None:
    f, zeros = tanh_map(), torch.zeros(2, 20)

    def layer(x: Tensor) -> Tensor:
        out: Tensor = adjoint(lambda z: f(z) + x, zeros, Picard(), STOP, lambda *_: None)
        return out.sum()

    x = torch.zeros(2, 20)
    for transform in (torch.func.grad(layer), torch.func.vmap(layer), lambda x: torch.func.jvp(layer, (x,), (x,))):
        with pytest.raises(NotImplementedError, match=r"torch.func transforms"):
            transform(x)


@pytest.mark.parametrize("adjoint", [Implicit(), Phantom(), Unroll()])
def test_a_forward_mode_derivative_is_refused(adjoint: Any) -> None:
    import torch.autograd.forward_ad as forward_ad

    f, x = tanh_map(), torch.zeros(2, 20)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            adjoint(lambda z: f(z) + dual, x, Picard(), STOP, lambda *_: None)


@pytest.mark.parametrize("name", NAMES)
def test_atol_alone_stops_a_solve(name: str) -> None:
    f = tanh_map(dtype=torch.float64)
    solution = solve(f, torch.zeros(3, 20, dtype=torch.float64), SOLVERS[name](), Stop(rtol=0, atol=1e-6, max_steps=60))
    assert solution.converged.all()
    assert (norms(f(solution.z) - solution.z) < 1e-6).all()
    assert solution.nfe < 60


@pytest.mark.parametrize("name", ["picard", "anderson"])
@pytest.mark.parametrize("gap", [1e-9, 1e-12])
def test_leaving_an_unstable_point_for_a_stable_one_is_no_divergence(name: str, gap: float) -> None:
    """z -> tanh 2z from next to zero: the gap grows by eight orders of magnitude on its way to 0.9575."""
    z0 = torch.full((2, 1), gap, dtype=torch.float64)
    solution = solve(lambda z: torch.tanh(2 * z), z0, SOLVERS[name](), Stop(rtol=1e-6, max_steps=300))
    if name == "picard":
        assert solution.converged.all()
        torch.testing.assert_close(solution.z.abs(), torch.full_like(z0, 0.9575040240772687), rtol=1e-5, atol=0)
    assert (solution.status != Status.DIVERGED).all()


def test_a_map_that_runs_away_has_diverged_from_a_small_start_too() -> None:
    solution = solve(lambda z: 3 * z, torch.full((2, 3), 1e-9), Picard(), Stop(max_steps=60))
    assert (solution.status == Status.DIVERGED).all()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("adjoint", ["anderson", "broyden", "picard", "shine", "propagation"])
def test_the_gradient_is_right_at_every_scale_of_the_loss_that_float32_has(adjoint: str, scale: float) -> None:
    """It used to be called converged below 1e-20, 5 to 71 % off."""
    torch.manual_seed(0)
    made = {"shine": Shine(), "propagation": EquilibriumPropagation(stop=STOP)}.get(adjoint)
    made = made or Implicit(solver=SOLVERS[adjoint](), stop=STOP)
    layer = DEQ(EnergyCell(width=6), solver=Broyden(window=60), stop=STOP, adjoint=made)
    x, v, found = torch.randn(2, 3, 6), torch.randn(2, 3, 6), []
    for factor in (1.0, scale):
        y = layer(x).y
        found.append(torch.autograd.grad(y, list(layer.parameters()), factor * v))
    tolerance = 1e-4 if adjoint == "propagation" else 1e-5  # a difference of two solves: rounding counts for more
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled.double() / scale, plain.double(), rtol=1e-4, atol=tolerance * plain.abs().max().item())


def test_a_power_of_two_on_the_loss_changes_no_digit() -> None:
    torch.manual_seed(0)
    layer = DEQ(MLPCell(width=6), solver=Anderson(), stop=STOP)
    x, found = torch.randn(2, 3, 6), []
    for factor in (1.0, 2.0**-60, 2.0**70):
        (gradient,) = torch.autograd.grad(layer(x).y.sum() * factor, layer.cell.inner.weight)
        found.append(gradient / factor)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_unit_scaling_is_by_powers_of_two_and_leaves_what_is_not_finite() -> None:
    v = torch.tensor([[3.0, -1.0], [0.0, 0.0], [1e-44, 0.0], [torch.inf, 1.0], [torch.nan, 1.0], [3e38, 1.0]])
    unit, power = normalised(v)
    assert torch.equal((unit * power).nan_to_num(nan=7), v.nan_to_num(nan=7))
    assert power.flatten().log2().frac().abs().max() == 0
    assert ((unit.abs().amax(1) >= 1) & (unit.abs().amax(1) < 2)).tolist() == [True, False, True, False, False, True]


def test_an_absolute_tolerance_of_an_adjoint_is_in_the_units_of_the_loss() -> None:
    seen: list[int] = []
    layer = DEQ(MLPCell(width=6), solver=Anderson(), stop=STOP, adjoint=Implicit(stop=Stop(rtol=0, atol=1e-3, max_steps=60)))
    layer.watch(lambda phase, solution: seen.append(solution.nfe) if phase == "backward" else None)
    x = torch.randn(2, 3, 6)
    for factor in (1e3, 1.0, 1e-3):
        (layer(x).y.sum() * factor).backward()
    assert seen[0] > seen[1] > seen[2]


def test_the_estimate_leaves_out_an_update_that_broyden_skipped_as_singular() -> None:
    """Residuals 1, 1, 0.3 on a line: the second makes the first update singular (1 - <s, g> / <s, s> = 0), the third sees a slope
    of 0.3. So u = v / 0.7 = 1.429 v; with the skipped factor in the product it would be 2.857 v."""
    z, solver = torch.zeros(1, 1, dtype=torch.float64), Broyden(window=5)
    memory = solver.init(z, 4)
    for residual in (1.0, 1.0, 0.3):
        z, memory = solver.step(lambda z: z, z, z + residual, memory)
    assert memory.divisors[0, :3].isinf().tolist() == [True, False, False]
    estimate = InverseEstimate.of(memory, torch.tensor([3]))
    u = estimate.apply_transposed(torch.ones(1, 1, dtype=torch.float64), limit=10)
    assert u.item() == pytest.approx(1 / 0.7)


@pytest.mark.parametrize(
    ("solver", "stop", "error", "message"),
    [
        (Anderson(), Stop(), TypeError, "estimate of Broyden's method, which Anderson does not make"),
        (Picard(), Stop(), TypeError, "which Picard does not make"),
        (Broyden(), Stop(max_steps=60), ValueError, "a window for all 59 steps of the solve, got 30"),
    ],
)
def test_shine_with_another_solver_or_too_small_a_window_is_refused_when_it_is_made(
    solver: Any, stop: Stop, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        DEQ(MLPCell(width=4), solver=solver, stop=stop, adjoint=Shine())


def test_the_evaluation_stop_follows_a_stop_that_is_replaced_unless_it_is_set() -> None:
    layer, other = DEQ(MLPCell(width=4), solver=Picard(), stop=Stop(max_steps=3)), Stop(max_steps=9)
    layer.stop = other
    assert layer.evaluation_stop == other
    layer.evaluation_stop = Stop(max_steps=5)
    layer.stop = Stop(max_steps=7)
    assert layer.evaluation_stop == Stop(max_steps=5)
    layer.evaluation_stop = None
    assert layer.evaluation_stop == Stop(max_steps=7)


CORES: dict[str, Callable[[], Core]] = {
    **{
        cell: lambda make=make: DEQ(make(width=8), solver=Picard(), stop=Stop())  # type: ignore[misc]
        for cell, make in CELLS.items()
    },
    "tied": lambda: Unrolled(TransformerCell(width=4, heads=2, memory_length=2), depth=2),
    "adaptive loop": lambda: AdaptiveLoop(MLPCell(width=4), depth=2),
    "trellisnet": lambda: TrellisNet(TrellisCell(width=4), depth=2),
    "transformer-xl": lambda: TransformerXL(inputs=4, width=4, heads=2, layers=2, memory_length=2),
    "tcn": lambda: TCN(inputs=4, width=4),
    "lstm": lambda: Recurrent(kind="lstm", inputs=4, width=4),
    "gru": lambda: Recurrent(kind="gru", inputs=4, width=4, layers=2, hidden_dropout=0.1),
    "ode": lambda: NeuralODE(MLPCell(width=4), time=1.0),
}


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (0, 0, 4)], ids=["no sample", "no position", "nothing"])
@pytest.mark.parametrize("name", CORES)
def test_every_core_refuses_an_empty_batch_or_sequence_alike(name: str, shape: tuple[int, int, int]) -> None:
    core = CORES[name]()
    with pytest.raises(ValueError, match="features must have at least one sample, position and channel, got the shape"):
        core(torch.randn(shape))


@pytest.mark.parametrize("f", [lambda z: torch.ones_like(z), lambda z: z.detach() * 2, nn.Parameter(torch.ones(2, 3)).expand])
def test_the_jacobian_of_a_map_that_ignores_its_argument_is_zero(f: Any) -> None:
    g = (lambda z: f(2, 3)) if getattr(f, "__name__", "") == "expand" else f
    z = torch.randn(2, 3)
    assert jacobian_penalty(g, z).item() == 0
    assert spectral_radius(g, z).max() < 1e-30


@pytest.mark.parametrize(
    "make",
    [
        lambda: Phantom(steps=True),
        lambda: Anderson(window=True),
        lambda: Broyden(window=2.0),  # type: ignore[arg-type]
        lambda: Jacobian(weight=1.0, probes=True),
        lambda: MLPCell(width=True),
        lambda: TransformerCell(width=4.0, heads=2),  # type: ignore[arg-type]
        lambda: TrellisCell(width=4, hidden=4.5),  # type: ignore[arg-type]
        lambda: EnergyCell(width=4, hidden=True),
        lambda: Unrolled(MLPCell(width=4), depth=True),
        lambda: TCN(inputs=4, width=4, kernel=2.5),  # type: ignore[arg-type]
        lambda: Recurrent(kind="gru", inputs=4, width=4, layers=True),
        lambda: TransformerXL(inputs=4, width=4, heads=2, memory_length=1.5),  # type: ignore[arg-type]
    ],
)
def test_a_count_that_is_no_integer_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least"):
        make()
