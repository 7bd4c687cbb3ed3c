"""Gradients against three independent computations, and what a gradient must not cost: memory, leaks, the caller's trust."""

import gc
import weakref

import pytest
import torch
from problems import silent
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from bench.instruments.probes import peak_live_bytes, saved_bytes
from deq import DEQ, SOLVERS, Anderson, Broyden, Implicit, Map, MLPCell, Phantom, Picard, Solution, Solver, Status, Stop, Unroll
from deq.adjoints import Adjoint

NAMES = sorted(SOLVERS)
TIGHT = Stop(rtol=1e-13, max_steps=150)


def exact(name: str = "anderson") -> Implicit:
    return Implicit(solver=SOLVERS[name](), stop=TIGHT)


def tanh_map(x: Tensor, W: Tensor) -> Map:
    return lambda z: torch.tanh(z @ W + x)


def leaves(batch: int = 2, size: int = 3, norm: float = 0.8) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, size, dtype=torch.float64)
    W = torch.randn(size, size, dtype=torch.float64)
    return x.requires_grad_(), (norm * W / torch.linalg.matrix_norm(W, 2)).requires_grad_()


def equilibrium(x: Tensor, W: Tensor, adjoint: Adjoint | None = None, stop: Stop = TIGHT, solver: Solver | None = None) -> Tensor:
    return (adjoint or exact())(tanh_map(x, W), torch.zeros_like(x).detach(), solver or Picard(), stop, silent)


def solution_of(x: Tensor, W: Tensor, steps: int = 400) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(steps):
        z = torch.tanh(z @ W + x)
    return z


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_dense_linear_solve(name: str) -> None:
    x, W = leaves()
    v = torch.randn_like(x)
    z = solution_of(x, W).detach()
    J = jacobian(lambda z: tanh_map(x, W)(z.view_as(x)).flatten(), z.flatten()).detach()
    u = torch.linalg.solve((torch.eye(6, dtype=torch.float64) - J).T, v.flatten()).view_as(v)
    expected = torch.autograd.grad(tanh_map(x, W)(z), (x, W), u)
    got = torch.autograd.grad(equilibrium(x, W, exact(name)), (x, W), v)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_a_long_unroll(name: str) -> None:
    x, W = leaves()
    v = torch.randn_like(x)
    expected = torch.autograd.grad(solution_of(x, W), (x, W), v)
    torch.testing.assert_close(torch.autograd.grad(equilibrium(x, W, exact(name)), (x, W), v), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    assert torch.autograd.gradcheck(lambda x, W: equilibrium(x, W, exact(name)), leaves())


def test_gradcheck_where_the_forward_iteration_diverges() -> None:
    W = torch.diag(torch.tensor([-2.0, -1.5, 0.3], dtype=torch.float64)).requires_grad_()
    x = 0.1 * torch.randn(2, 3, dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, W: equilibrium(x, W, exact(), solver=Broyden()), (x, W))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_of_a_layer(name: str) -> None:
    layer = DEQ(MLPCell(width=3), solver=SOLVERS[name](), stop=TIGHT, adjoint=exact(name)).double()
    parameters = {key: value.detach().requires_grad_() for key, value in layer.named_parameters()}

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,)).y

    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters.values()))


def scalar(x: Tensor, adjoint: Adjoint | None = None) -> Tensor:
    return (adjoint or exact())(lambda z: torch.tanh(z * x) / 2 + x, torch.zeros_like(x).detach(), Picard(), TIGHT, silent)


def test_the_first_derivative_of_the_scalar_example_is_the_closed_form() -> None:
    x = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    z = scalar(x)
    slope = (1 - torch.tanh(z * x) ** 2) / 2
    (first,) = torch.autograd.grad(z, x)
    torch.testing.assert_close(first, ((slope * z + 1) / (1 - slope * x)).detach())


def test_unroll_gives_the_second_derivative() -> None:
    """At z = tanh(z x)/2 + x, x = 0.3 it is 1.5292, by finite differences of the implicit first derivative."""

    def first(value: float) -> Tensor:
        x = torch.full((1, 1), value, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(scalar(x), x)[0]

    differences = (first(0.3 + 1e-5) - first(0.3 - 1e-5)) / 2e-5
    assert differences.item() == pytest.approx(1.5292, abs=1e-4)
    x = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(scalar(x, Unroll()), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(slope, x)[0], differences, rtol=1e-7, atol=1e-7)


def test_two_calls_before_one_backward_add_up() -> None:
    x, W = leaves()
    v = torch.randn_like(x)
    single = [torch.autograd.grad(equilibrium(k * x, W), (x, W), v) for k in (1.0, 2.0)]
    together = torch.autograd.grad(equilibrium(x, W) + equilibrium(2.0 * x, W), (x, W), v)
    torch.testing.assert_close(together, tuple(a + b for a, b in zip(*single, strict=True)))


def test_a_layer_on_a_layer() -> None:
    x, W = leaves()
    expected = torch.autograd.grad(solution_of(solution_of(x, W), W).sum(), (x, W))
    torch.testing.assert_close(torch.autograd.grad(equilibrium(equilibrium(x, W), W).sum(), (x, W)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_backward_twice_gives_the_same(name: str) -> None:
    x, W = leaves()
    y = equilibrium(x, W, exact(name))
    v, w = torch.randn_like(x), torch.randn_like(x)
    first = torch.autograd.grad(y, (x, W), v, retain_graph=True)
    torch.autograd.grad(y, (x, W), w, retain_graph=True)
    again = torch.autograd.grad(y, (x, W), v)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    y = equilibrium(x, W, exact(name))
    for _ in range(2):
        y.backward(v, retain_graph=True)
    torch.testing.assert_close((x.grad, W.grad), tuple(2 * gradient for gradient in first))


def test_a_second_backward_without_retain_graph_raises() -> None:
    y = equilibrium(*leaves()).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [2.0**-24, 5e-8, 1e-12, 1e6])
@pytest.mark.parametrize("name", NAMES)
def test_scaling_the_loss_scales_the_gradient_and_nothing_else(name: str, scale: float, dtype: torch.dtype) -> None:
    x, W = (leaf.detach().to(dtype).requires_grad_() for leaf in leaves(size=8))
    watched: list[int] = []
    adjoint = Implicit(solver=SOLVERS[name](), stop=Stop(rtol=1e-4, max_steps=80))
    gradients = []
    for factor in (1.0, scale):
        y = adjoint(tanh_map(x, W), torch.zeros_like(x).detach(), Picard(), Stop(rtol=1e-5), lambda _, s: watched.append(s.nfe))
        gradients.append(torch.autograd.grad((factor * y).sum(), W)[0] / factor)
    assert watched[1] == watched[3] > 3
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_dies_with_its_output(name: str, backward: bool) -> None:
    """A forward without a backward, in training mode, frees everything that f made; so does one with a backward."""
    made: list[weakref.ref[Tensor]] = []
    x, W = leaves()

    def f(z: Tensor) -> Tensor:
        hidden = z @ W
        fz = torch.tanh(hidden + x)
        made.extend((weakref.ref(z), weakref.ref(hidden), weakref.ref(fz)))
        return fz

    y = exact(name)(f, torch.zeros_like(x).detach(), SOLVERS[name](), TIGHT, silent)
    if backward:
        y.sum().backward()
    assert made
    del y
    gc.collect()
    assert not [ref for ref in made if ref() is not None]


def test_a_layer_in_training_mode_leaks_nothing() -> None:
    layer = DEQ(MLPCell(width=4), solver=Anderson(), stop=Stop())
    gc.collect()

    def alive() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    layer(torch.randn(2, 3, 4))
    gc.collect()
    before = alive()
    for _ in range(5):
        layer(torch.randn(2, 3, 4))
    gc.collect()
    assert alive() <= before


def test_nothing_is_stored_in_tensors_that_nobody_sees() -> None:
    """Backward must not leave a gradient of the state behind on the linearisation point."""
    points: list[Tensor] = []
    x, W = leaves()

    def f(z: Tensor) -> Tensor:
        if z.requires_grad:
            points.append(z)
        return torch.tanh(z @ W + x)

    exact()(f, torch.zeros_like(x).detach(), Picard(), TIGHT, silent).sum().backward()
    assert [z.is_leaf for z in points] == [False]  # and so keeps none


def test_one_phantom_step_is_the_gradient_of_one_step() -> None:
    x, W = leaves()
    z = solution_of(x, W).detach()
    v = torch.randn_like(x)
    expected = torch.autograd.grad(torch.tanh(z @ W + x), (x, W), v)
    torch.testing.assert_close(torch.autograd.grad(equilibrium(x, W, Phantom()), (x, W), v), expected)


@pytest.mark.parametrize("relaxation", [1.0, 0.5])
def test_phantom_steps_converge_to_the_implicit_gradient(relaxation: float) -> None:
    x, W = leaves(norm=0.6)
    v = torch.randn_like(x)
    implicit = torch.autograd.grad(equilibrium(x, W), W, v)[0]
    errors = [
        (torch.autograd.grad(equilibrium(x, W, Phantom(steps=k, relaxation=relaxation)), W, v)[0] - implicit).norm().item()
        for k in (1, 2, 4, 8, 16, 80)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 * implicit.norm()
    assert errors[-1] < 1e-8 * implicit.norm()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 1.5}, {"relaxation": 0.0}, {"relaxation": 1.1}], ids=str)
def test_a_wrong_phantom_is_refused(settings: dict[str, float]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises((ValueError, TypeError), match=f"{name} .* got {value}"):
        Phantom(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("relaxation", [1.0, 0.7])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_unroll_is_autograd_through_the_loop(steps: int, relaxation: float) -> None:
    x, W = leaves()
    v = torch.randn_like(x)
    z = torch.zeros_like(x)
    for _ in range(steps - 1):
        z = (1 - relaxation) * z + relaxation * torch.tanh(z @ W + x)
    z = torch.tanh(z @ W + x)
    got = equilibrium(x, W, Unroll(), Stop(rtol=None, max_steps=steps), Picard(relaxation=relaxation))
    torch.testing.assert_close(got, z)
    torch.testing.assert_close(torch.autograd.grad(got, (x, W), v), torch.autograd.grad(z, (x, W), v))


@pytest.mark.parametrize("solver", [Anderson(), Broyden()])
def test_unroll_refuses_a_solver_that_writes_in_place(solver: Solver) -> None:
    with pytest.raises(
        ValueError, match=f"cannot differentiate through {type(solver).__name__}; use Picard or Reversible, or another adjoint"
    ):
        DEQ(MLPCell(width=2), solver=solver, stop=Stop(), adjoint=Unroll())
    with pytest.raises(ValueError, match="cannot differentiate"):
        Unroll()(torch.cos, torch.zeros(1, 1), solver, Stop(), silent)


@pytest.mark.parametrize("name", NAMES)
def test_implicit_saves_as_much_whatever_the_steps(name: str) -> None:
    x, W = leaves(batch=64)
    stops = [Stop(rtol=None, max_steps=steps) for steps in (1, 5, 25, 50)]
    saved = [saved_bytes(lambda stop=stop: equilibrium(x, W, exact(), stop, SOLVERS[name]()), []) for stop in stops]
    assert len(set(saved)) == 1
    assert saved[0] <= 4 * x.nbytes + W.nbytes


def test_unroll_saves_in_proportion_to_the_steps() -> None:
    x, W = leaves(batch=64)
    saved = [saved_bytes(lambda k=k: equilibrium(x, W, Unroll(), Stop(rtol=None, max_steps=k)), []) for k in (10, 20, 40)]
    assert saved[2] - saved[1] == pytest.approx(2 * (saved[1] - saved[0]), rel=0.1)
    assert saved[1] - saved[0] >= 10 * x.nbytes


def test_the_peak_of_an_implicit_step_with_picard_is_flat() -> None:
    x, W = leaves(batch=256, size=32)
    adjoint = Implicit(solver=Picard(), stop=Stop(rtol=None, max_steps=30))

    def step(adjoint: Adjoint, k: int) -> None:
        torch.autograd.grad(equilibrium(x, W, adjoint, Stop(rtol=None, max_steps=k)).sum(), W)

    flat = [peak_live_bytes(lambda k=k: step(adjoint, k), [x, W]).step for k in (3, 30, 60)]
    grown = [peak_live_bytes(lambda k=k: step(Unroll(), k), [x, W]).step for k in (3, 30, 60)]
    history = (60 - 3) * x.shape[0] * x.itemsize
    assert flat[2] - flat[0] <= 2 * history  # the gaps, listed and stacked
    assert grown[2] - grown[1] > 25 * x.nbytes


def test_a_backward_solve_that_fails_is_reported() -> None:
    x, W = leaves()
    watched: list[tuple[str, Solution]] = []
    adjoint = Implicit(solver=Picard(), stop=Stop(rtol=1e-13, max_steps=2))
    adjoint(tanh_map(x, W), torch.zeros_like(x).detach(), Picard(), TIGHT, lambda *event: watched.append(event)).sum().backward()
    assert [phase for phase, _ in watched] == ["forward", "backward"]
    assert watched[0][1].converged.all()
    assert (watched[1][1].status == Status.MAX_STEPS).all()


def test_the_backward_solve_does_not_notice_a_masked_neighbour() -> None:
    x, W = leaves(batch=3)
    v = torch.randn_like(x)
    alone = torch.autograd.grad(equilibrium(x[:1], W), x, v[:1])[0][:1]
    masked = v * torch.tensor([[1.0], [0.0], [0.0]])
    got = torch.autograd.grad(equilibrium(x, W), x, masked)[0]
    torch.testing.assert_close(got[:1], alone)
    assert got[1:].eq(0).all()


@pytest.mark.parametrize("adjoint", [exact(), Phantom()])
def test_a_sample_that_ended_in_nan_does_not_poison_the_parameters(adjoint: Adjoint) -> None:
    """Its best iterate is finite, and so is the gradient there."""
    x = torch.tensor([[0.3], [0.0]], dtype=torch.float64)
    w = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    watched: list[Solution] = []

    def f(z: Tensor) -> Tensor:
        return torch.stack((torch.tanh(w * z[0] + x[0]), z[1] + w * torch.sqrt(3 - z[1]) * 2))

    adjoint(f, torch.zeros(2, 1, dtype=torch.float64), Picard(), TIGHT, lambda _, s: watched.append(s)).sum().backward()
    assert watched[0].status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert w.grad is not None
    assert w.grad.isfinite().all()


def test_without_grad_there_is_no_graph_and_no_backward() -> None:
    x, W = leaves()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            y = equilibrium(x, W)
        assert not y.requires_grad
        torch.testing.assert_close(y.clone(), solution_of(x, W).detach())


def test_only_the_parameters_may_need_a_gradient() -> None:
    x, W = leaves()
    (expected,) = torch.autograd.grad(solution_of(x, W).sum(), W)
    torch.testing.assert_close(torch.autograd.grad(equilibrium(x.detach(), W).sum(), W)[0], expected)
    (expected,) = torch.autograd.grad(solution_of(x, W).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(equilibrium(x, W.detach()).sum(), x)[0], expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_it_works_inside_a_checkpoint(name: str, reentrant: bool) -> None:
    x, W = leaves()
    expected = torch.autograd.grad(equilibrium(x, W, exact(name)).sum(), (x, W))
    run = lambda x, W: equilibrium(x, W, exact(name))  # noqa: E731
    torch.utils.checkpoint.checkpoint(run, x, W, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close((x.grad, W.grad), expected)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_a_gradient_of_half_precision(name: str) -> None:
    x = torch.randn(4, 16)
    linear = nn.Linear(16, 16)
    with torch.no_grad():
        linear.weight.mul_(0.8 / torch.linalg.matrix_norm(linear.weight, 2))
    adjoint = Implicit(solver=SOLVERS[name](), stop=Stop(rtol=1e-2))
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = adjoint(lambda z: torch.tanh(linear(z) + x), torch.zeros_like(x), SOLVERS[name](), Stop(rtol=1e-2), silent)
            loss = y.float().square().sum()
        (gradient,) = torch.autograd.grad(loss, linear.weight)
        assert gradient.isfinite().all()
        gradients.append(gradient)
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


def test_a_map_that_does_not_look_at_its_argument_has_the_plain_gradient() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    exact()(lambda z: torch.sin(x), torch.zeros(2, 3, dtype=torch.float64), Picard(), TIGHT, silent).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
