"""The loop: every sample ends on its own, with a status that is true, at the best iterate seen."""

import itertools
import math
from contextlib import nullcontext

import problems
import pytest
import torch
from cases import few
from hypothesis import given
from hypothesis import strategies as st
from problems import Counted, Problem, norms
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from deq import CELLS, DEQ, SOLVERS, Anderson, Implicit, Map, Picard, Solver, Status, Stop, solve
from deq.solve import force_device_path

NAMES = sorted(SOLVERS)
FATES = {
    problems.halving: Status.CONVERGED,
    problems.slow: Status.MAX_STEPS,
    problems.translation: Status.MAX_STEPS,
    problems.tripling: Status.DIVERGED,
    problems.rootless: Status.DIVERGED,
    problems.nan_at_once: Status.NONFINITE,
    problems.inf_at_once: Status.NONFINITE,
    problems.nan_later: Status.NONFINITE,
}


def make(name: str) -> Solver:
    return SOLVERS[name]()


def zeros(batch: int, size: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(batch, size, dtype=dtype)


@pytest.mark.parametrize("f", FATES, ids=lambda f: f.__name__)
def test_every_fate_has_its_status(f: Map) -> None:
    solution = solve(f, zeros(1, 3), Picard(), Stop(rtol=1e-6, max_steps=100))
    assert solution.status.tolist() == [FATES[f]]
    assert solution.converged.tolist() == [FATES[f] == Status.CONVERGED]


def test_a_batch_of_all_fates_gives_each_its_own() -> None:
    solution = solve(problems.rows(*FATES), zeros(len(FATES), 3), Picard(), Stop(rtol=1e-6, max_steps=100))
    assert solution.status.tolist() == list(FATES.values())
    assert solution.status.dtype == torch.int8
    assert solution.nfe == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [3, 5000])  # shorter and longer than the rows that are copied one by one
def test_the_quick_way_and_the_plain_one_are_the_same_to_the_last_bit(name: str, size: int, dtype: torch.dtype) -> None:
    """On a CPU values are looked at to skip work; elsewhere masks do all of it, whatever the values are."""
    turn = torch.linspace(-2.0, 0.9, size, dtype=dtype)
    f = problems.rows(*FATES, lambda z: turn * z.roll(1) + 1, lambda z: torch.cos(z + turn), problems.explosive)
    z0 = torch.rand(len(FATES) + 3, size, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def outcome() -> list[Tensor]:
        found = [solve(f, z0, make(name), stop) for stop in (Stop(rtol=1e-5, max_steps=40), Stop(rtol=None, max_steps=12))]
        return [part for s in found for part in (s.z, s.status, s.gap, s.residual, s.steps, s.gaps, torch.tensor(s.nfe))]

    quick, seen = outcome(), 0
    with force_device_path():
        plain = outcome()
    for a, b in zip(quick, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        seen += 1
    assert seen == 14


@pytest.mark.parametrize("every", [1, 2, 5, 7])
@pytest.mark.parametrize("name", NAMES)
def test_looking_less_often_changes_the_evaluations_alone(name: str, every: int) -> None:
    problem = problems.tanh()
    often, rarely = (solve(problem.f, problem.z0, make(name), Stop(rtol=1e-6, max_steps=60, check_every=k)) for k in (1, every))
    assert rarely.nfe == every * math.ceil(often.nfe / every)
    for a, b in ((often.z, rarely.z), (often.steps, rarely.steps), (often.status, rarely.status), (often.gap, rarely.gap)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("neighbour", [*FATES, problems.explosive], ids=lambda f: f.__name__)
def test_a_sample_does_not_notice_its_neighbour(name: str, neighbour: Map, dtype: torch.dtype) -> None:
    one = problems.tanh(batch=1, dtype=dtype)
    stop = Stop(rtol=1e-5, max_steps=40)
    alone = solve(one.f, one.z0, make(name), stop)
    f = problems.rows(neighbour, lambda z: one.f(z[None])[0], neighbour)
    batched = solve(f, zeros(3, 8, dtype), make(name), stop)
    assert batched.steps[1] == alone.steps[0]
    assert batched.status[1] == alone.status[0] == Status.CONVERGED
    rounding = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(batched.z[1], alone.z[0], rtol=rounding, atol=rounding)
    torch.testing.assert_close(batched.gap[1], alone.gap[0], rtol=1e-2, atol=rounding)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_and_size_of_the_batch_change_nothing(name: str) -> None:
    whole = problems.affine(size=12, batch=5, low=-0.95, high=0.95)
    stop = Stop(rtol=1e-8, max_steps=60)
    together = solve(whole.f, whole.z0, make(name), stop)
    for b in range(5):

        def f(z: Tensor, b: int = b) -> Tensor:
            return whole.f(z.expand(5, -1))[b : b + 1]

        alone = solve(f, whole.z0[b : b + 1], make(name), stop)
        assert alone.steps[0] == together.steps[b]
        torch.testing.assert_close(alone.z[0], together.z[b], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "f", [*FATES, problems.explosive, problems.negative_spectrum(size=3, batch=2).f], ids=lambda f: getattr(f, "__name__", "?")
)
@pytest.mark.parametrize("rtol", [None, 1e-2, 1e-15])
def test_the_reported_gap_is_the_gap_of_the_returned_iterate(name: str, f: Map, rtol: float | None) -> None:
    solution = solve(f, zeros(2, 3), make(name), Stop(rtol=rtol, max_steps=23))
    fz = f(solution.z)
    torch.testing.assert_close(norms(fz - solution.z), solution.gap, rtol=1e-10, atol=1e-14, equal_nan=True)
    torch.testing.assert_close(solution.gap / norms(fz), solution.residual, rtol=1e-10, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_iterate_of_a_sample_that_did_not_converge_is_kept(name: str) -> None:
    f = problems.rows(problems.nan_later, problems.tripling, problems.rootless, problems.explosive)
    solution = solve(f, zeros(4, 2), make(name), Stop(rtol=1e-14, max_steps=30))
    for b, end in enumerate(solution.steps.tolist()):
        seen = solution.gaps[:end, b]
        assert solution.gap[b] == seen[seen.isfinite()].min()
    assert solution.z.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("f", [problems.translation, lambda z: 1.0005 * z + 1, problems.rootless, problems.tripling])
def test_a_sample_called_converged_meets_the_tolerance_it_was_asked_for(name: str, f: Map) -> None:
    """The smallest gap and the smallest relative gap can belong to different iterates of a runaway map."""
    stop = Stop(rtol=1e-2, max_steps=150, growth=math.inf)
    solution = solve(f, zeros(1), make(name), stop)
    if solution.converged.item():
        fz = f(solution.z)
        assert norms(fz - solution.z) <= stop.rtol * norms(fz)


def test_a_relative_residual_cannot_hide_divergence() -> None:
    solution = solve(problems.tripling, zeros(1), Picard(), Stop(rtol=0.6, max_steps=100))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert solution.z.item() == 0
    assert solution.gap.item() == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("atol", [0.0, 1e300])
def test_infinity_is_never_convergence(name: str, atol: float) -> None:
    solution = solve(problems.inf_at_once, zeros(2), make(name), Stop(rtol=0.5, atol=atol, max_steps=5))
    assert solution.status.tolist() == [Status.NONFINITE] * 2
    assert solution.nfe == 1


def test_growth_is_judged_against_the_first_gap() -> None:
    assert solve(problems.tripling, zeros(1), Picard(), Stop(growth=10, max_steps=99)).steps.item() == 4  # gaps 1 3 9 27
    assert solve(problems.tripling, zeros(1), Picard(), Stop(growth=26, max_steps=99)).steps.item() == 4
    assert solve(problems.tripling, zeros(1), Picard(), Stop(growth=28, max_steps=99)).steps.item() == 5


def test_a_gap_that_fell_may_rise_again_to_the_first_one_and_beyond() -> None:
    # Gaps |0.001^k| + |1e-4 * 2^k|: down to 1e-3 at once, then up; a hundred times the first is passed at 2^k = 1e6, k = 20.
    slopes = torch.tensor([[0.001, 2.0]], dtype=torch.float64)
    z0 = torch.tensor([[1 / 0.999, 1e-4]], dtype=torch.float64)
    solution = solve(lambda z: slopes * z, z0, Picard(), Stop(rtol=1e-9, growth=100, max_steps=99))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert solution.steps.tolist() == [21]
    assert solution.gap == solution.gaps.min()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rtol", [None, 1e-6])
def test_calls_steps_and_gaps_are_counted_right(name: str, rtol: float | None) -> None:
    problem = problems.tanh(batch=4)
    f = Counted(problem.f)
    solution = solve(f, problem.z0, make(name), Stop(rtol=rtol, max_steps=25))
    assert f.calls == solution.nfe == solution.gaps.shape[0]
    assert solution.gaps.shape == (solution.nfe, 4)
    assert solution.steps.shape == solution.gap.shape == solution.residual.shape == solution.status.shape == (4,)
    assert solution.steps.max() == solution.nfe
    torch.testing.assert_close(solution.gaps[0], norms(problem.f(problem.z0)))


def test_steps_count_the_evaluations_until_a_sample_was_done() -> None:
    # From zero, z -> z/2 + 1 has gap 2^-k and image 2 - 2^-k at evaluation k + 1: at most 1e-3 of it first at k = 9.
    f = problems.rows(problems.halving, problems.slow)
    solution = solve(f, zeros(2), Picard(), Stop(rtol=1e-3, max_steps=50))
    assert solution.steps.tolist() == [10, 50]
    assert solution.z[0].item() == 2 - 2 * 2.0**-9
    torch.testing.assert_close(solution.gaps[:, 0], 2.0 ** -torch.arange(50, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_without_rtol_exactly_max_steps_are_made(name: str) -> None:
    problem = problems.affine(size=4)
    f = Counted(problem.f)
    solution = solve(f, problem.solution, make(name), Stop(rtol=None, max_steps=17))
    assert f.calls == solution.nfe == 17
    assert solution.steps.tolist() == [17] * 3
    assert problem.error(solution.z) < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_without_rtol_a_sample_that_ends_badly_still_says_so(name: str) -> None:
    f = problems.rows(problems.nan_at_once, problems.inf_at_once, problems.halving)
    solution = solve(f, zeros(3), make(name), Stop(rtol=None, max_steps=9))
    assert solution.status.tolist() == [Status.NONFINITE, Status.NONFINITE, Status.MAX_STEPS]
    assert solution.z.isfinite().all()


FAKE = [("anderson", "transformer-xl"), ("broyden", "mlp"), ("picard", "state-space"), ("reversible", "mlp")]


@pytest.mark.parametrize(("name", "cell"), few(itertools.product(NAMES, sorted(CELLS)), FAKE))
def test_a_training_step_without_rtol_runs_on_fake_tensors(name: str, cell: str) -> None:
    stop = Stop(rtol=None, max_steps=9)
    with FakeTensorMode():
        layer = DEQ(CELLS[cell](width=8), solver=make(name), stop=stop, adjoint=Implicit(solver=make(name), stop=stop))
        watched: list[tuple[str, int]] = []
        layer.watch(lambda phase, solution: watched.append((phase, solution.nfe)))
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.randn(2, 5, 8)).y.square().mean().backward()
        optimizer.step()
    assert watched == [("forward", 9), ("backward", 9)]


@pytest.mark.parametrize("name", NAMES)
def test_one_step_is_one_evaluation_at_the_start(name: str) -> None:
    problem = problems.affine(batch=2)
    solution = solve(problem.f, problem.z0, make(name), Stop(rtol=1e-6, max_steps=1))
    assert solution.nfe == 1
    assert torch.equal(solution.z, problem.z0)
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reversible"])  # which takes a share of the step
def test_two_steps_move_from_the_start(name: str) -> None:
    problem = problems.affine(batch=2)
    solution = solve(problem.f, problem.z0, make(name), Stop(rtol=1e-9, max_steps=2))
    assert torch.equal(solution.z, problem.f(problem.z0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("problem", [problems.affine(), problems.tanh(), problems.cosine(), problems.negative_spectrum()])
def test_a_start_at_the_solution_costs_one_evaluation(name: str, problem: Problem) -> None:
    solution = solve(problem.f, problem.solution, make(name), Stop(rtol=1e-12))
    assert solution.nfe == 1
    assert solution.converged.all()
    assert torch.equal(solution.z, problem.solution)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_the_tolerance_asked_for_is_met_in_every_dtype(name: str, dtype: torch.dtype, rtol: float) -> None:
    exact = problems.tanh(norm=0.6, batch=4)
    problem = problems.tanh(norm=0.6, batch=4, dtype=dtype)
    solution = solve(problem.f, problem.z0, make(name), Stop(rtol=rtol, max_steps=80))
    assert solution.z.dtype == dtype
    assert solution.converged.all()
    z = solution.z.double()
    fz = exact.f(z)
    slack = 2 * torch.finfo(dtype).eps * math.sqrt(8)  # what f itself is wrong by in the dtype
    assert (norms(fz - z) <= (rtol + slack) * norms(fz)).all()
    assert exact.error(solution.z) <= 2 * (rtol + slack) / (1 - 0.6)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_spoil_the_solver(name: str) -> None:
    """The tolerance is the map's to reach: the solver's own products must not be rounded to bfloat16."""
    problem = problems.affine(dtype=torch.float32)

    def f(z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return problem.f(z.float())

    stop = Stop(rtol=1e-5, max_steps=200)
    plain = solve(f, problem.z0, make(name), stop)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = solve(f, problem.z0, make(name), stop)
    assert plain.converged.all()
    assert cast.steps.tolist() == plain.steps.tolist()
    torch.testing.assert_close(cast.z, plain.z)


@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 10_000),
    size=st.integers(1, 20),
    batch=st.integers(1, 4),
    bound=st.floats(0.05, 0.9),
    rtol=st.sampled_from([1e-2, 1e-5, 1e-9]),
)
def test_any_contraction_is_solved_to_the_tolerance(name: str, seed: int, size: int, batch: int, bound: float, rtol: float) -> None:
    problem = problems.affine(size=size, batch=batch, low=-bound, high=bound, seed=seed)
    solution = solve(problem.f, problem.z0, make(name), Stop(rtol=rtol, max_steps=400))
    fz = problem.f(solution.z)
    assert solution.converged.all()
    assert (norms(fz - solution.z) <= rtol * norms(fz)).all()
    distance = norms(solution.z - problem.solution)
    assert (distance <= solution.gap / (1 - bound) * (1 + 1e-6) + 1e-12).all()  # Banach's bound


@pytest.mark.parametrize("name", NAMES)
def test_atol_ends_what_rtol_cannot(name: str) -> None:
    b = torch.tensor([[1.0], [1e-6]], dtype=torch.float64)
    sign = torch.tensor([[0.5], [-0.9]], dtype=torch.float64)
    solution = solve(lambda z: sign * z + b, torch.zeros_like(b), make(name), Stop(rtol=1e-12, atol=1e-5, max_steps=100))
    assert solution.converged.all()
    assert solution.steps[1] == 1  # its first gap is 1e-6 already
    assert (solution.gap <= 1e-5).all()
    assert solution.steps[0] > 1


@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 0.0), (1e-12, 2e-3), (1e-3, 2e-3), (1e-3, 1e-9), (1e-3, 0.1)])
def test_the_tolerance_is_atol_and_rtol_together(rtol: float, atol: float) -> None:
    z, steps = zeros(1), 1
    while not (gap := (problems.halving(z) - z).abs().item()) < atol + rtol * problems.halving(z).abs().item():
        z, steps = problems.halving(z), steps + 1
    assert gap > 0
    assert solve(problems.halving, zeros(1), Picard(), Stop(rtol=rtol, atol=atol, max_steps=99)).steps.item() == steps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 6), (2, 2, 3), (2, 1, 3, 2)])
def test_any_shape_behind_the_batch_is_one_vector(name: str, shape: tuple[int, ...]) -> None:
    problem = problems.affine(size=6, batch=2)
    flat = solve(problem.f, problem.z0, make(name), Stop(rtol=1e-8, max_steps=60))
    solution = solve(
        lambda z: problem.f(z.reshape(2, 6)).view(shape), problem.z0.view(shape), make(name), Stop(rtol=1e-8, max_steps=60)
    )
    assert solution.z.shape == shape
    torch.testing.assert_close(solution.z.view(2, 6), flat.z)


@pytest.mark.parametrize("name", NAMES)
def test_a_transposed_map_is_no_trouble(name: str) -> None:
    problem = problems.affine(size=6, batch=2, low=-0.6, high=0.6)
    z0 = problem.z0.view(2, 2, 3).mT  # not contiguous, as is all that f returns
    solution = solve(lambda z: problem.f(z.mT.reshape(2, 6)).view(2, 2, 3).mT, z0, make(name), Stop(rtol=1e-8, max_steps=60))
    assert problem.error(solution.z.mT.reshape(2, 6)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_was_given_is_written_to(name: str) -> None:
    problem = problems.affine()
    z0, constant = torch.randn_like(problem.z0), torch.randn_like(problem.z0)
    kept_z0, kept_constant = z0.clone(), constant.clone()
    outputs: list[tuple[Tensor, Tensor]] = []

    def f(z: Tensor) -> Tensor:
        fz = problem.f(z)
        outputs.append((fz, fz.clone()))
        return fz

    solve(f, z0, make(name), Stop(rtol=1e-9, max_steps=12))
    solve(lambda z: constant, z0, make(name), Stop(rtol=None, max_steps=12))
    assert torch.equal(z0, kept_z0)
    assert torch.equal(constant, kept_constant)
    assert all(torch.equal(fz, copy) for fz, copy in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_package_runs_in_grad_mode(name: str) -> None:
    """`solve` on a bound cell, whose parameters need a gradient, as the first lines that a reader tries."""
    cell = CELLS["mlp"](width=4)
    f = cell.bind(torch.randn(2, 3, 4))
    solution = solve(f, torch.zeros(2, 3, 4), make(name), Stop(rtol=1e-3, max_steps=30))
    assert solution.converged.all()


def test_one_dimension_is_refused_by_shape() -> None:
    with pytest.raises(ValueError, match="image or attached, not both"):
        solve(torch.cos, torch.zeros(2, 3), Picard(), Stop(), image=True, attached=torch.cos)
    with pytest.raises(ValueError, match=r"at least two dimensions, got \(3,\)"):
        solve(torch.cos, torch.zeros(3), Picard(), Stop())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rtol": 0.0}, "rtol and atol cannot both be 0"),
        ({"rtol": math.inf}, "rtol .* got inf"),
        ({"rtol": True}, "rtol .* got True"),
        ({"rtol": None, "atol": 1e-3}, "rtol=None .* atol must be 0, got 0.001"),
        ({"rtol": -1.0}, "rtol .* got -1.0"),
        ({"rtol": math.nan}, "rtol .* got nan"),
        ({"atol": -1.0}, "atol .* got -1.0"),
        ({"atol": math.nan}, "atol .* got nan"),
        ({"atol": math.inf}, "atol .* got inf"),
        ({"max_steps": 0}, "max_steps .* got 0"),
        ({"max_steps": True}, "max_steps .* got True"),
        ({"check_every": True}, "check_every .* got True"),
        ({"max_steps": 2.5}, "max_steps .* got 2.5"),
        ({"growth": 1.0}, "growth .* got 1.0"),
        ({"growth": math.nan}, "growth .* got nan"),
    ],
    ids=str,
)
def test_a_wrong_stop_is_refused_by_name_and_value(settings: dict[str, float], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Stop(**settings)  # type: ignore[arg-type]


def test_stop_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(AttributeError):
        Stop().rtol = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Stop(1e-3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="tolerance"):
        Stop(tolerance=1e-3)  # type: ignore[call-arg]


def test_the_solve_of_a_peer_that_returned_its_start_moves() -> None:
    problem = problems.tanh()
    first = solve(problem.f, problem.z0, Anderson(), Stop(rtol=None, max_steps=2))
    assert (first.gap < first.gaps[0]).all()


def test_the_callers_tensor_stays_the_callers() -> None:
    z0 = zeros(2)
    solution = solve(problems.halving, z0, Picard(), Stop(rtol=1e-6, max_steps=1))
    solution.z.add_(1)
    assert z0.eq(0).all()


@pytest.mark.parametrize("looking", [True, False])
def test_a_size_that_overflows_is_not_finite_whether_or_not_anybody_looks(looking: bool) -> None:
    z0 = torch.full((1, 4), 3e38)  # its norm is more than float32 holds, and the map leaves it where it is
    with nullcontext() if looking else force_device_path():
        found = [solve(lambda z: z * 1, z0, Picard(), stop) for stop in (Stop(rtol=None, max_steps=3), Stop(max_steps=3))]
    assert [solution.status.tolist() for solution in found] == [[Status.NONFINITE]] * 2


def test_no_bound_on_growth_is_none_from_an_exact_start_either() -> None:
    there = solve(lambda z: z * 1, zeros(1, 3), Picard(), Stop(rtol=1e-6, max_steps=3, growth=math.inf))
    assert there.status.tolist() == [Status.CONVERGED]
    slow = solve(problems.slow, zeros(1, 3), Picard(), Stop(rtol=1e-6, max_steps=3, growth=math.inf))
    assert slow.status.tolist() == [Status.MAX_STEPS]


@pytest.mark.parametrize("name", NAMES)
def test_a_solve_of_nobody_takes_no_more_than_a_look(name: str) -> None:
    solution = solve(problems.halving, zeros(0, 3), make(name), Stop(rtol=1e-6, max_steps=50))
    assert (solution.nfe, solution.z.shape) == (1, (0, 3))


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_state_keeps_its_own_precision(name: str) -> None:
    weight = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # One falls all the way and one does not: kept by reference, and row by row.
        solution = solve(lambda z: torch.tanh(z @ weight + 1), torch.zeros(2, 8), make(name), Stop(rtol=1e-2, max_steps=20))
    assert solution.z.dtype == torch.float32
