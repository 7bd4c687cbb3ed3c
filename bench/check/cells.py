"""The contract of a cell: bind gives one causal map a solve, which has a fixed point, whose gradient the implicit one is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.check import contract
from bench.check.contract import BATCH, TIME, Subject
from bench.check.differences import drawn, furthest
from bench.check.finding import Check, Outcome, after, told
from bench.check.memory import CONSTANT, FOLLOWED, Followed
from bench.check.models import SOLVED, TIGHT
from bench.spec import Named
from deq import DEQ, SOLVERS, Anderson, Cell, Core, Implicit, Map, Picard, Solution, Stop, Unroll, solve, spectral_radius
from deq.adjoint import Adjoint

_SHAPES = ((BATCH, TIME), (1, 1), (1, 5), (4, 1))
_SEEDS = (0, 1, 2)  # initialisations that fixed points are looked for at
_LONG = Stop(rtol=1e-10, max_steps=600)


@dataclass(frozen=True, kw_only=True)
class CellMap(Subject, Followed):
    """A cell as `make()` makes it, its map seen at random states; `named` is the DEQ over it, as a suite names that."""

    make: Callable[[], Cell]
    inputs: int
    named: Named | None = None

    def made(self, seed: int = 0) -> Cell:
        """The cell as it is initialised."""
        torch.manual_seed(seed)
        return self.make().double().eval()

    def given(self, module: nn.Module, *, batch: int = BATCH, time: int = TIME, seed: int = 0) -> tuple[Tensor, ...]:
        """Features, and a random state."""
        assert isinstance(module, Cell)
        x = drawn(batch, time, self.inputs, seed=seed)
        return x, drawn(*module.start(x).shape, seed=seed + 500)

    def seen(self, module: nn.Module, given: tuple[Tensor, ...], memory: Any = None) -> tuple[Tensor, ...]:
        """f(z), and what it shows where that is something else."""
        assert isinstance(module, Cell)
        x, z = given
        fz = module.bind(x, memory)(z)
        shown = module.features(fz)
        return (fz,) if shown is fz else (fz, shown)

    def memory(self, module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        """What the state is remembered as."""
        assert isinstance(module, Cell)
        x, z = given
        return module.remember(z, x)

    def equilibrium(self) -> Core:
        """The DEQ over it, by plain iteration, which stores nothing."""
        solver = Picard()
        return DEQ(self.make(), solver=solver, stop=SOLVED, adjoint=Implicit(solver=solver, stop=SOLVED))


def shapes(subject: CellMap) -> Outcome:
    """State, map and features at several batches and lengths, single and double precision, training and evaluation."""
    for dtype in (torch.float32, torch.float64):
        cell = subject.make().to(dtype)
        for training, (batch, time) in [(True, _SHAPES[0]), *((False, shape) for shape in _SHAPES)]:
            wrong = _misshapen(cell.train(training), drawn(batch, time, subject.inputs, seed=0, dtype=dtype))
            if wrong:
                return told(False, wrong)
    return told(True, f"z (B, T, {z_width(subject)}), features (B, T, {cell.width}), float32 and float64")


def z_width(subject: CellMap) -> int:
    """The last dimension of the state."""
    return int(subject.make().start(torch.zeros(1, 1, subject.inputs)).shape[-1])


def _misshapen(cell: Cell, x: Tensor) -> str | None:
    """What is wrong with the shapes and dtypes that a cell makes of features, in words."""
    z = cell.start(x)
    fz = cell.bind(x)(z)
    for name, part, wanted in (
        ("start(x)", z, (*x.shape[:2], z.shape[-1])),
        ("f(z)", fz, tuple(z.shape)),
        ("features(z)", cell.features(fz), (*x.shape[:2], cell.width)),
    ):
        if not isinstance(part, Tensor):
            return f"{name} is a {type(part).__name__}, not a tensor"
        if part.shape != wanted:
            return f"{name} is {tuple(part.shape)} for x {tuple(x.shape)}, not {wanted}"
        if part.dtype != x.dtype:
            return f"{name} is {part.dtype} for features in {x.dtype}".replace("torch.", "")
    return None


def one_map(subject: CellMap) -> Outcome:
    """In training mode too, a bind's map gives the same at the same z, in new memory, and writes to nothing that it is given."""
    cell = subject.made().train()
    x, z = subject.given(cell)
    kept = x.clone(), z.clone()
    f = cell.bind(x)
    results, shared = [], False
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(seed == 0):  # a static result may be there for inference alone
            result = f(z)
            results.append(result.detach().clone())
            other = f(kept[1] + 1)
            shared = shared or (result is not z and result.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())
        if not (torch.equal(x, kept[0]) and torch.equal(z, kept[1])):
            return told(False, "it writes to the z or x that it is given")
    if shared:
        return told(False, "every call returns the same memory, so that a result changes at the next call")
    if not torch.equal(results[0], results[1]):
        return told(False, f"f(z) at the same z differs by {furthest([results[0]], [results[1]]):.2g}")
    return told(True, "the same bytes")


def causality(subject: CellMap) -> Outcome:
    """Of the map, as contract.causality; and of its equilibrium, solved tightly, where that is reached."""
    outcome = contract.causality(subject)
    if outcome.verdict != "pass":
        return outcome
    cell = subject.made()
    x, other = subject.given(cell)[0], subject.given(cell, seed=99)[0]
    changed = torch.cat((x[:, :3], other[:, 3:]), dim=1)
    with torch.no_grad():
        before, after_ = (solve(cell.bind(each), cell.start(each), Anderson(), TIGHT) for each in (x, changed))
    if not bool((before.residual.max() < 1e-10) & (after_.residual.max() < 1e-10)):
        return outcome
    off = furthest([cell.features(after_.z)[:, :3]], [cell.features(before.z)[:, :3]])
    return told(off <= subject.tolerance, f"{outcome.found}; at the equilibrium, solved to 1e-10, by {off:.2g}")


@torch.no_grad()
def equilibria(subject: CellMap) -> tuple[str, list[Solution], float]:
    """The solver that solves most samples in the fewest evaluations, its solutions over seeds, and the spectral radius there."""
    solutions: dict[str, list[Solution]] = {name: [] for name in SOLVERS}
    radius = 0.0
    for seed in _SEEDS:
        cell = subject.made(seed)
        x, _ = subject.given(cell, batch=8, time=12, seed=seed)
        f = cell.bind(x)
        for name, make in SOLVERS.items():
            solutions[name].append(solve(f, cell.start(x), make(), SOLVED))
        nearest = min((found[-1] for found in solutions.values()), key=lambda one: one.residual.max().nan_to_num(math.inf).item())
        torch.manual_seed(seed)
        radius = max(radius, spectral_radius(f, nearest.z).max().item())
    best = max(solutions, key=lambda name: (_count(solutions[name]), -sum(one.nfe for one in solutions[name])))
    return best, solutions[best], radius


def _count(solutions: list[Solution]) -> int:
    return sum(int(solution.converged.sum()) for solution in solutions)


def fixed_point(subject: CellMap) -> Outcome:
    """What a solve from the cell's own start comes to, at three initialisations; anything that is not solved is told."""
    name, found, radius = equilibria(subject)
    solved, samples = _count(found), sum(len(solution.status) for solution in found)
    residual = max(solution.residual.max().nan_to_num(math.inf).item() for solution in found)
    contracts = f"spectral radius {radius:.2g}" + ("" if radius < 1 else ", so that plain iteration does not converge")
    if solved == samples:
        steps = max(solution.nfe for solution in found)
        return told(True, f"{solved} of {samples} samples, by {name} in {steps} evaluations; {contracts}")
    first = "no fixed point found: " if solved == 0 else ""
    return told(
        False,
        f"{first}{solved} of {samples} samples solved at best ({name}, {SOLVED.max_steps} evaluations), residual {residual:.1g}; "
        f"spectral radius {radius:.2g}",
    )


def implicit(subject: CellMap) -> Outcome:
    """The implicit gradient beside that through every step of a long plain iteration to the same point."""
    cell = subject.made()
    x, _ = subject.given(cell)
    plain = _plain(cell.bind(x), cell.start(x))
    if plain is None:
        return Outcome(
            "skip", "", f"no plain iteration converges in {_LONG.max_steps} steps, so that there is none to compare with"
        )
    pair = [
        _gradient(cell, x, adjoint, solver)
        for adjoint, solver in ((Implicit(solver=Anderson(), stop=TIGHT), Anderson()), (Unroll(), plain))
    ]
    found, wanted = pair
    size = wanted.norm().item()
    if size == 0:
        return told(found.norm().item() == 0, "both zero")
    error = ((found - wanted).norm() / size).item()
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=0).item()
    return told(error <= 1e-5, f"relative error {error:.1g}, cosine {cosine:.6f}")


def _plain(f: Map, z0: Tensor) -> Picard | None:
    """The least relaxed plain iteration that converges."""
    with torch.no_grad():
        for share in (1.0, 0.5, 0.2):
            if bool(solve(f, z0, Picard(relaxation=share), _LONG).converged.all()):
                return Picard(relaxation=share)
    return None


def _gradient(cell: Cell, x: Tensor, adjoint: Adjoint, solver: Any) -> Tensor:
    x = x.detach().requires_grad_()
    layer = DEQ(cell, solver=solver, stop=_LONG if isinstance(adjoint, Unroll) else TIGHT, adjoint=adjoint)
    y = layer(x).y
    leaves = [x, *(parameter for parameter in cell.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad((y * drawn(*y.shape, seed=8)).sum(), leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


CELL: tuple[Check[CellMap], ...] = (
    Check(
        name="shapes",
        expected="f(z) like z, features (B, T, width), in the dtype of x",
        cause="start(x) (B, T, N), bind(x, memory=None) -> f and features(z) (B, T, self.width) belong together, for any B and "
        "T. New tensors need x's dtype and device: x.new_zeros(...), torch.arange(..., device=x.device); constants are buffers.",
        run=shapes,
    ),
    after(contract.FINITE, "shapes"),
    Check(
        name="one map",
        expected="bind gives one map for the whole solve",
        cause="Something is drawn, counted or written in the map: dropout at every evaluation, a step counter, an in-place "
        "operation on z, or a result in a static buffer (a CUDA graph's), which the next call overwrites. A solve then chases a "
        "moving point. Draw masks in bind (deq.dropout.variational_mask), write to nothing in f, and return a new tensor.",
        run=one_map,
        needs=("shapes", "finite"),
    ),
    after(contract.EVALUATION, "shapes"),
    after(contract.SAME_SEED, "shapes"),
    after(contract.SAMPLES, "shapes"),
    Check(
        name="causality",
        expected=contract.CAUSALITY.expected,
        cause=contract.CAUSALITY.cause,
        run=causality,
        needs=("shapes", *contract.CAUSALITY.needs),
    ),
    after(contract.GRADIENT, "shapes"),
    after(contract.ARRIVAL, "shapes"),
    after(contract.STATE, "shapes"),
    after(contract.DETACHED, "shapes"),
    Check(
        name="fixed point",
        expected="every sample's, to 1e-6 in 200 evaluations, by some solver",
        cause="z -> z + g(x) has no fixed point, and a map that expands has one that no solver reaches: a DEQ over it trains on "
        "states that solve nothing. Leave out the residual connection or put a normalisation after it, bound the state (tanh), "
        "or start recurrent weights below one (the factor `gain` of the cells here).",
        run=fixed_point,
        needs=("shapes", "finite", "one map", "evaluation"),
    ),
    Check(
        name="implicit gradient",
        expected="that of a long unroll, to 1e-5",
        cause="The map's vector-Jacobian product is not the same each time it is asked for, and the backward solve asks many "
        "times: a Function that frees or changes what it saved, or a backward that is not linear in what it is given (clipping). "
        "Save with ctx.save_for_backward, and clip the gradient of the loss instead.",
        run=implicit,
        needs=("shapes", "gradient", "fixed point"),
    ),
    after(FOLLOWED, "shapes"),
    after(CONSTANT, "shapes"),
)
