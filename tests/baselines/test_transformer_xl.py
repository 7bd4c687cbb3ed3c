"""Relative attention against two nested loops; the cell and the explicit network that share it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines import TransformerXL
from deq import DEQ, Anderson, Broyden, Implicit, Picard, Solution, Solver, Stop, TransformerXLCell
from deq.cells.attention import RelativeAttention, by_distance, sinusoids

D, H, T, B, M = 6, 2, 5, 2, 3  # heads of an odd width


def attention(**settings: Any) -> RelativeAttention:
    return RelativeAttention(**{"width": D, "heads": H, **settings}).double()


def cell(**settings: Any) -> TransformerXLCell:
    return TransformerXLCell(**{"width": D, "heads": H, **settings}).double()


def net(**settings: Any) -> TransformerXL:
    return TransformerXL(**{"inputs": D, "width": D, "heads": H, "layers": 3, **settings}).double()


def features(time: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, time, D, dtype=torch.float64)


def naive(
    module: RelativeAttention, z: Tensor, injection: Tensor, memory: Tensor | None = None, remembered: Tensor | None = None
) -> Tensor:
    """Dai et al. (2019), section 3.3, one query and one key at a time."""
    past = 0 if memory is None else memory.shape[1]
    if memory is not None:
        z = torch.cat((memory, z), dim=1)
        injection = torch.cat((torch.zeros_like(memory.repeat(1, 1, 3)) if remembered is None else remembered, injection), dim=1)
    E = D // H
    out = torch.zeros(len(z), z.shape[1] - past, D, dtype=z.dtype)
    for b in range(len(z)):
        q, k, v = (z[b] @ module.qkv.weight.T + injection[b]).chunk(3, dim=-1)
        for h in range(H):
            part = slice(h * E, (h + 1) * E)
            for i in range(past, z.shape[1]):
                first = 0 if module.local is None else max(0, i - module.local + 1)
                scores = []
                for j in range(first, i + 1):
                    frequencies = [module.position_base ** (-2 * n / D) for n in range(D // 2)]
                    R = torch.tensor([f((i - j) * w) for f in (math.sin, math.cos) for w in frequencies], dtype=z.dtype)
                    r = (module.position.weight @ R)[part]
                    content = (q[i, part] + module.content_bias[h, 0]) @ k[j, part]
                    scores.append((content + (q[i, part] + module.position_bias[h, 0]) @ r) / math.sqrt(E))
                weights = torch.stack(scores).softmax(0)
                out[b, i - past, part] = sum(w * v[first + n, part] for n, w in enumerate(weights))
    out = out @ module.project.weight.T
    return out if module.project.bias is None else out + module.project.bias


@pytest.mark.parametrize("local", [None, 1, 3])
@pytest.mark.parametrize("past", [0, 1, M])
def test_attention_is_that_of_two_nested_loops(local: int | None, past: int) -> None:
    module, z, injection = attention(local=local), features(), torch.randn(B, T, 3 * D, dtype=torch.float64)
    memory = features(past) if past else None
    remembered = torch.randn(B, past, 3 * D, dtype=torch.float64) if past else None
    got = module.bind(z, injection=injection, memory=memory, remembered=remembered)(z)
    torch.testing.assert_close(got, naive(module, z, injection, memory, remembered))
    got = module.bind(z, memory=memory)(z)
    torch.testing.assert_close(got, naive(module, z, torch.zeros_like(injection), memory))


def test_scores_by_distance_stand_at_their_keys() -> None:
    scores = torch.arange(5.0).flip(0).expand(2, 3, 5)  # five keys, the last query at the last: each score is its distance
    moved = by_distance(scores)
    for i in range(3):
        for j in range(3 + i):
            assert moved[1, i, j] == 2 + i - j


@pytest.mark.parametrize("width", [1, 4, 7])
def test_sinusoids_are_sines_and_cosines_of_the_distance(width: int) -> None:
    table = sinusoids(9, width, torch.empty(0, dtype=torch.float64), 100.0)
    assert table.shape == (9, width)
    half = (width + 1) // 2
    for n in range(width):
        f, w = (math.sin, n) if n < half else (math.cos, n - half)
        assert table[7, n].item() == pytest.approx(f(7 * 100.0 ** (-2 * w / width)), abs=1e-12)


MAPS: dict[str, Callable[[], TransformerXLCell]] = {
    "post": lambda: cell(memory_length=M),
    "pre": lambda: cell(memory_length=M, normalisation="pre"),
    "local": lambda: cell(memory_length=M, local=2),
    "weight norm": lambda: cell(memory_length=M, weight_norm=True),
    "std": lambda: cell(memory_length=M, initial_std=0.05),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_map_is_the_published_block(name: str) -> None:
    made, z, x = MAPS[name](), features(), features()
    with torch.no_grad():
        made.attention.project.bias.normal_()
    a, pre, norm = made.attention, made.normalisation == "pre", lambda y: F.layer_norm(y, (D,))
    injection = x @ made.inject.weight.T + made.inject.bias
    y = z + naive(a, norm(z) if pre else z, injection)
    y = norm(y)
    inner = y @ made.expand.weight.T + made.expand.bias
    out = y + inner.clamp(min=0) @ made.contract.weight.T + made.contract.bias
    torch.testing.assert_close(made(z, x), out if pre else norm(out))


@pytest.mark.parametrize("name", MAPS)
def test_the_map_with_a_memory_is_that_of_the_whole_sequence(name: str) -> None:
    """What the whole map makes of its last positions, given the first ones' z and injection."""
    made, z, x = MAPS[name](), features(M + T), features(M + T)
    memory = made.remember(z[:, :M], x[:, :M])
    torch.testing.assert_close(made.bind(x[:, M:], memory)(z[:, M:]), made(z, x)[:, M:])


def test_the_memory_holds_the_last_positions_detached() -> None:
    made, z, x = cell(memory_length=M), features().requires_grad_(), features()
    first = made.remember(z[:, :2], x[:, :2])
    second = made.remember(z[:, 2:], x[:, 2:], first)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(second.z, z[:, -M:])
    torch.testing.assert_close(second.injection, made.inject(x[:, -M:]))
    assert not second.z.requires_grad
    assert not second.injection.requires_grad
    later = made.remember(z[:, :1], x[:, :1], second)
    assert later is not None
    torch.testing.assert_close(later.z, torch.cat((z[:, -M + 1 :], z[:, :1]), dim=1))
    assert cell().remember(z, x) is None


@pytest.mark.parametrize("name", MAPS)
def test_the_cell_passes_gradcheck_with_a_memory(name: str) -> None:
    made, x = MAPS[name](), features(3, 1)
    memory = made.remember(features(M, 1), features(M, 1))
    assert torch.autograd.gradcheck(lambda z, x: made.bind(x, memory)(z), (features(3, 1).requires_grad_(), x.requires_grad_()))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("F_", [None, 5])
def test_the_cells_parameters_are_counted(F_: int | None) -> None:
    F1 = 4 * D if F_ is None else F_
    assert count(cell(feedforward=F_)) == 8 * D**2 + 7 * D + F1 * (2 * D + 1)
    assert count(cell(feedforward=F_, weight_norm=True)) == 8 * D**2 + 13 * D + F1 * (2 * D + 2)


def test_the_output_bias_is_asked_for_starts_at_zero_and_draws_nothing() -> None:
    torch.manual_seed(3)
    plain = attention()
    torch.manual_seed(3)
    made = attention(output_bias=True)
    assert plain.project.bias is None
    assert torch.equal(made.project.bias, torch.zeros(D, dtype=torch.float64))
    assert count(made) == count(plain) + D == 5 * D**2 + 3 * D
    assert torch.equal(made.position_bias, plain.position_bias)
    z, bias = features(), torch.randn(D, dtype=torch.float64)
    made.project.bias.data.copy_(bias)
    torch.testing.assert_close(made.bind(z)(z), plain.bind(z)(z) + bias)


@pytest.mark.parametrize("tied", [True, False])
def test_the_nets_parameters_are_counted(tied: bool) -> None:
    layer = 5 * D**2 + 7 * (2 * D + 1) + 5 * D
    assert count(net(feedforward=7, layers=4, tied=tied)) == (1 if tied else 4) * layer + 2 * D


@pytest.mark.parametrize("weight_norm", [False, True])
def test_the_first_solves_converge(weight_norm: bool) -> None:
    made = TransformerXLCell(width=32, weight_norm=weight_norm)
    layer = DEQ(made, solver=Anderson(), stop=Stop(rtol=1e-3, max_steps=30), adjoint=Implicit())
    watched: list[Solution] = []
    layer.watch(lambda _, solution: watched.append(solution))
    layer(torch.randn(4, 30, 32)).y.square().mean().backward()
    assert all(solution.converged.all() for solution in watched)


def test_masks_hold_through_a_solve_and_differ_between_solves() -> None:
    made = cell(dropout=0.3, attention_dropout=0.3).train()
    z, x = features(), features()
    f = made.bind(x)
    first = f(z)
    assert torch.equal(f(z), first)
    assert not torch.equal(made.bind(x)(z), first)
    made.eval()
    assert torch.equal(made.bind(x)(z), cell_without_dropout(made)(z, x))


def cell_without_dropout(made: TransformerXLCell) -> TransformerXLCell:
    other = cell()
    other.load_state_dict(made.state_dict())
    return other


def test_dropout_is_an_unbiased_estimate_of_the_attention() -> None:
    module, z = attention(dropout=0.4).train(), features(3, 1)
    many = z.expand(4000, -1, -1)  # each sample has a mask of its own
    mean = module.bind(many)(many).mean(0, keepdim=True)
    torch.testing.assert_close(mean, attention_of(module)(z), atol=0.06, rtol=0)


def attention_of(module: RelativeAttention) -> Callable[[Tensor], Tensor]:
    return lambda z: naive(module, z, torch.zeros(len(z), z.shape[1], 3 * D, dtype=z.dtype))


# the explicit network -------------------------------------------------------------------------------------------------


def test_a_net_of_one_layer_is_attention_and_a_feedforward() -> None:
    made, x = net(layers=1), features()
    layer = made.layers[0]
    first, second = layer.norms
    with torch.no_grad():
        first.weight.uniform_(0.5, 2)
        second.bias.normal_()
    y = first(x + attention_of(layer.attention)(x))
    torch.testing.assert_close(made(x).y, second(y + layer.contract(layer.expand(y).relu())))


def test_a_tied_net_is_the_untied_one_with_equal_layers() -> None:
    tied, untied, x = net(tied=True), net(), features()
    for layer in untied.layers:
        layer.load_state_dict(tied.layers[0].state_dict())
    torch.testing.assert_close(tied(x).y, untied(x).y)


@pytest.mark.parametrize("normalisation", ["post", "pre"])
@pytest.mark.parametrize("tied", [True, False])
def test_segments_with_memory_give_what_the_whole_sequence_gives(tied: bool, normalisation: str) -> None:
    made, x = net(tied=tied, memory_length=12, normalisation=normalisation).eval(), features(12)
    memory, parts = None, []
    for start in range(0, 12, 4):
        output = made(x[:, start : start + 4], memory)
        parts.append(output.y)
        memory = output.memory
    torch.testing.assert_close(torch.cat(parts, dim=1), made(x).y)
    assert [part.shape for part in memory] == [(B, 12, D)] * 3
    assert not any(part.requires_grad for part in memory)


def test_a_local_horizon_reaches_back_by_it_at_every_layer() -> None:
    made, x = net(local=3, layers=2), features(9).requires_grad_()
    (reach,) = torch.autograd.grad(made(x).y[0, -1, 0], x)
    seen = reach[0].abs().sum(-1) > 0
    assert seen.tolist() == [False] * 4 + [True] * 5


@pytest.mark.parametrize("way", ["every", "sqrt"])
def test_checkpointing_changes_no_bit_and_drops_the_same(way: str) -> None:
    plain, other = (
        net(layers=5, dropout=0.2, attention_dropout=0.2),
        net(layers=5, dropout=0.2, attention_dropout=0.2, checkpointing=way),
    )
    other.load_state_dict(plain.state_dict())
    x, found = features().requires_grad_(), []
    for made in (plain, other):
        torch.manual_seed(5)
        y = made.train()(x).y
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *made.parameters()])))
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (cell, {"heads": 4}, "width must be a multiple of heads, got width 6, heads 4"),
        (cell, {"heads": 0}, "heads must be an integer of at least 1, got 0"),
        (cell, {"feedforward": 0}, "feedforward must be an integer of at least 1, got 0"),
        (cell, {"memory_length": -1}, "memory_length must be an integer of at least 0, got -1"),
        (cell, {"local": 0}, "local must be an integer of at least 1, got 0"),
        (cell, {"normalisation": "both"}, "normalisation must be post or pre, got 'both'"),
        (cell, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (cell, {"attention_dropout": -0.1}, "attention_dropout must be"),
        (cell, {"position_base": 1.0}, "position_base must be above 1, got 1.0"),
        (net, {"layers": 0}, "layers must be an integer of at least 1, got 0"),
        (net, {"inputs": 5}, r"inputs \(5\) must equal width \(6\)"),
        (net, {"memory_length": -1}, "memory_length must be an integer of at least 0, got -1"),
        (net, {"normalisation": "x"}, "normalisation must be post or pre, got 'x'"),
        (net, {"checkpointing": "all"}, "checkpointing must be none, every or sqrt, got 'all'"),
        (net, {"dropout": 2.0}, "dropout must be"),
    ],
)
def test_a_wrong_setting_is_refused(make: Callable[..., object], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(("solver", "steps"), [(Picard(), 15), (Anderson(), 10), (Broyden(window=30), 12)], ids=str)
def test_every_solver_finds_the_first_equilibria_of_pre_norm(solver: Solver, steps: int) -> None:
    made, x = TransformerXLCell(width=32, normalisation="pre"), torch.randn(4, 30, 32)
    layer = DEQ(made, solver=solver, stop=Stop(rtol=1e-3, max_steps=steps), adjoint=Implicit())
    watched: list[Solution] = []
    layer.watch(lambda _, solution: watched.append(solution))
    layer(x).y.square().mean().backward()
    assert [bool(solution.converged.all()) for solution in watched] == [True, True]
    fz = made(watched[0].z, x)
    assert ((fz - watched[0].z).flatten(1).norm(dim=1) <= 1.01e-3 * fz.flatten(1).norm(dim=1)).all()
