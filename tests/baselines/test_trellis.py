"""TrellisNet's level and its deep net against a loop over single positions, and the equilibrium that they tend to."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baselines.trellisnet import TrellisNet
from bench.instruments.probes import peak_live_bytes
from deq import DEQ, Anderson, Implicit, Solution, Stop
from deq.cells.trellis import TrellisCell
from deq.pack import pack, unpack

B, T, D, W, H = 2, 7, 3, 4, 6
LEVELS = 5


def cell(**settings: float) -> TrellisCell:
    """A cell whose inputs, width and hidden width all differ, with weights large enough to tell levels apart."""
    return TrellisCell(**{"width": W, "inputs": D, "hidden": H, "initial_std": 0.7, **settings}).double()  # type: ignore[arg-type]


def sequence(time: int = T, width: int = D) -> Tensor:
    return torch.randn(B, time, width, dtype=torch.float64)


def sigma(a: float) -> float:
    return 1 / (1 + math.exp(-a))


State = list[tuple[list[float], list[float]]]  # h and c of every position of one sample


def naive_level(
    cell: TrellisCell, state: State, x: list[list[float]], inject: nn.Linear, last: tuple[list[float], list[float], list[float]]
) -> State:
    """One level over one sample, position by position and gate by gate, in Python's floats; `last` is the memory's h, c and x."""
    U, b, V = inject.weight.tolist(), inject.bias.tolist(), cell.mix.weight.tolist()
    h0, c0, x0 = last
    new: State = []
    for t, (h, _) in enumerate(state):
        h_before, c_before = state[t - 1] if t else (h0, c0)
        seen_x, seen_h = (x[t - 1] if t else x0) + x[t], h_before + h
        out = [
            bias + sum(u * v for u, v in zip(row_U, seen_x, strict=True)) + sum(u * v for u, v in zip(row_V, seen_h, strict=True))
            for row_U, row_V, bias in zip(U, V, b, strict=True)
        ]
        i, o, f, g = (out[k * H : (k + 1) * H] for k in range(4))
        c = [sigma(f[n]) * c_before[n] + sigma(i[n]) * math.tanh(g[n]) for n in range(H)]
        new.append(([sigma(o[n]) * math.tanh(c[n]) for n in range(H)], c))
    return new


def naive_net(cell: TrellisCell, x: Tensor, injects: list[nn.Linear], memory: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
    """The states (B, T, 2 H) after every level, one for each injection, from zero."""
    samples = []
    for b in range(len(x)):
        z, past = ([0.0] * 2 * H, [0.0] * D) if memory is None else (memory[0][b, 0].tolist(), memory[1][b, 0].tolist())
        state: State = [([0.0] * H, [0.0] * H) for _ in range(x.shape[1])]
        levels = []
        for inject in injects:
            state = naive_level(cell, state, x[b].tolist(), inject, (z[:H], z[H:], past))
            levels.append([h + c for h, c in state])
        samples.append(levels)
    return list(torch.tensor(samples, dtype=torch.float64).transpose(0, 1))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_unpack_undoes_pack() -> None:
    parts = [sequence(width=width) for width in (1, 4, 2)]
    z = pack(*parts)
    assert z.shape == (B, T, 7)
    for got, expected in zip(unpack(z, (1, 4, 2)), parts, strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(RuntimeError):
        unpack(z, (1, 4))


def test_the_level_is_the_naive_one_from_any_state() -> None:
    level, x, z = cell(), sequence(), sequence(width=2 * H)
    state: list[State] = [[(row[:H], row[H:]) for row in sample] for sample in z.tolist()]
    new = [
        naive_level(level, sample, x[b].tolist(), level.inject, ([0.0] * H, [0.0] * H, [0.0] * D)) for b, sample in enumerate(state)
    ]
    expected = torch.tensor([[h + c for h, c in sample] for sample in new], dtype=torch.float64)
    close(level(z, x), expected)
    close(level.features(z), z[:, :, H - W : H])
    assert level.initial_state(x).shape == z.shape
    assert not level.initial_state(x).any()


@pytest.mark.parametrize("injection", ["tied", "untied"])
@pytest.mark.parametrize("checkpointing", ["none", "every", "sqrt"])
@pytest.mark.parametrize("every", [0, 1, 2, 5])
def test_the_net_and_its_auxiliary_features_are_the_naive_ones(injection: str, checkpointing: str, every: int) -> None:
    net = TrellisNet(cell(), depth=LEVELS, auxiliary_every=every, injection=injection, checkpointing=checkpointing)  # type: ignore[arg-type]
    net.double()
    x = sequence()
    injects = [net.cell.inject, *net.deeper] if injection == "untied" else [net.cell.inject] * LEVELS
    states = naive_net(net.cell, x, injects)  # type: ignore[arg-type]
    output = net(x)
    close(output.y, states[-1][..., H - W : H])
    supervised = [level for level in range(1, LEVELS) if every and level % every == 0]
    assert len(output.auxiliary) == len(supervised)
    for got, level in zip(output.auxiliary, supervised, strict=True):
        close(got, states[level - 1][..., H - W : H])
    assert net.eval()(x).auxiliary == ()


def test_two_segments_with_memory_are_the_naive_ones() -> None:
    """Every level is padded by what the last level, the last input left: in the net, not the whole sequence's own numbers."""
    net, x = TrellisNet(cell(), depth=LEVELS), sequence()
    first = net(x[:, :3])
    state = naive_net(net.cell, x[:, :3], [net.cell.inject] * LEVELS)[-1]
    close(first.memory.z, state[:, -1:])
    assert torch.equal(first.memory.x, x[:, 2:3])
    second = net(x[:, 3:], first.memory)
    expected = naive_net(net.cell, x[:, 3:], [net.cell.inject] * LEVELS, (state[:, -1:], x[:, 2:3]))[-1]
    close(second.y, expected[..., H - W : H])
    assert not torch.allclose(second.y, net(x[:, 3:]).y)


def test_a_memory_is_a_detached_copy_that_does_not_keep_its_segment() -> None:
    level, x, z = cell(), sequence().requires_grad_(), sequence(width=2 * H).requires_grad_()
    memory = level.remember(z * 1, x * 1)
    assert not memory.z.requires_grad
    assert not memory.x.requires_grad
    assert memory.z.untyped_storage().nbytes() == B * 2 * H * 8
    assert memory.x.untyped_storage().nbytes() == B * D * 8


def tight(level: TrellisCell) -> DEQ:
    stop = Stop(rtol=1e-12, max_steps=300)
    return DEQ(level, solver=Anderson(), stop=stop, adjoint=Implicit(stop=stop))


def test_segments_of_an_equilibrium_are_the_equilibrium_of_the_whole() -> None:
    layer, x = tight(cell(initial_std=0.3)), sequence(time=12)
    with torch.no_grad():
        whole, first = layer(x).y, layer(x[:, :5])
        second = layer(x[:, 5:6], first.memory)
        third = layer(x[:, 6:], second.memory)
    torch.testing.assert_close(torch.cat((first.y, second.y, third.y), dim=1), whole, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("injection", ["tied", "untied"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_receptive_field_is_depth_plus_one_positions(injection: str, depth: int) -> None:
    net = TrellisNet(cell(), depth=depth, injection=injection).double()  # type: ignore[arg-type]
    x = sequence().requires_grad_()
    (reach,) = torch.autograd.grad(net(x).y[:, -1].sum(), x)
    assert reach.abs().sum((0, 2)).ne(0).tolist() == [T - 1 - t <= depth for t in range(T)]


def counted(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize(("inputs", "width", "hidden"), [(3, 4, 6), (5, 2, 2), (None, 4, None)])
def test_the_parameters_are_as_many_as_it_says(inputs: int | None, width: int, hidden: int | None, weight_norm: bool) -> None:
    level = TrellisCell(width=width, inputs=inputs, hidden=hidden, weight_norm=weight_norm)
    D, H = inputs or width, hidden or width
    count = 8 * D * H + 4 * H + 8 * H**2 + 8 * H * weight_norm
    assert counted(level) == counted(TrellisNet(level, depth=4)) == count
    untied = 3 * (8 * D * H + 4 * H + 4 * H * weight_norm)
    assert counted(TrellisNet(level, depth=4, injection="untied")) == count + untied
    assert "8 D H + 4 H + 8 H^2 for D inputs, and 8 H with `weight_norm`" in " ".join((TrellisCell.__doc__ or "").split())


@pytest.mark.parametrize(("width", "hidden", "millions"), [(400, 1400, 20.2), (512, 2112, 44.3)], ids=["ptb", "wt103"])
def test_the_paper_s_networks_have_its_parameters(width: int, hidden: int, millions: float) -> None:
    with torch.device("meta"):
        plain, normed = (TrellisNet(TrellisCell(width=width, hidden=hidden, weight_norm=norm), depth=60) for norm in (False, True))
    assert round(counted(plain) / 1e6, 1) == millions
    assert counted(normed) - counted(plain) == 8 * hidden


def test_weight_norm_changes_nothing_at_the_start_and_scales_by_its_gains() -> None:
    torch.manual_seed(1)
    plain = cell()
    torch.manual_seed(1)
    normed = cell(weight_norm=True)
    x, z = sequence(), sequence(width=2 * H)
    start = normed(z, x)
    torch.testing.assert_close(start, plain(z, x), rtol=1e-4, atol=1e-6)  # the lengths were taken in float32
    with torch.no_grad():
        for layer in (normed.inject, normed.mix):
            layer.parametrizations.weight.original1.mul_(3.0)  # type: ignore[union-attr]  # the direction: its length is no parameter
    close(normed(z, x), start)
    with torch.no_grad():
        normed.mix.parametrizations.weight.original0.mul_(2.0)  # type: ignore[union-attr]
        plain.mix.weight.mul_(2.0)
    torch.testing.assert_close(normed(z, x), plain(z, x), rtol=1e-4, atol=1e-6)


def test_weights_are_normalised_once_a_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    level, calls = cell(weight_norm=True), [0]
    for layer in (level.inject, level.mix):
        layer.parametrizations.weight[0].register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))  # type: ignore[union-attr,index]
    f, z = level.bind(sequence()), sequence(width=2 * H)
    for _ in range(4):
        z = f(z)
    assert calls == [2]


def test_dropout_drops_channels_of_h_alone_and_the_same_ones_throughout() -> None:
    level, x = cell(dropout=0.5), sequence()
    masks = []
    for _ in range(20):
        f = level.bind(x)
        z = sequence(width=2 * H).requires_grad_()
        first = f(z)
        torch.rand(3)  # moves the generator
        assert torch.equal(f(z), first)
        (reach,) = torch.autograd.grad(first[:, :, :H].sum(), z)
        alive = reach.ne(0)
        assert alive[:, :-1, H:].all()  # c goes its own way
        assert torch.equal(alive[:, :, :H], alive[:, :1, :H].expand(-1, T, -1))
        masks.append(alive[:, 0, :H])
    kept = torch.stack(masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 10
    assert 0.35 < kept.double().mean() < 0.65
    assert not torch.equal(kept[:, 0], kept[:, 1])  # each sample has its own
    level.eval()
    assert torch.equal(level(z, x), cell_like(level)(z, x))


def cell_like(level: TrellisCell, **settings: float) -> TrellisCell:
    """A cell with the same weights and other settings."""
    other = cell(**settings)
    other.load_state_dict(level.state_dict())
    return other


@pytest.mark.parametrize("memory", [False, True])
def test_a_dropped_channel_counts_as_zero_and_a_kept_one_for_more(memory: bool) -> None:
    """With a rate of a quarter, f is the plain f of h times a mask of 0 and 4/3, the memory's h included."""
    level, x, z = cell(dropout=0.25), sequence(), sequence(width=2 * H)
    past = level.remember(sequence(width=2 * H), sequence()) if memory else None
    torch.manual_seed(5)
    got = level.bind(x, past)(z)
    torch.manual_seed(5)
    mask = torch.bernoulli(torch.full((B, 1, H), 0.75, dtype=torch.float64)) / 0.75
    assert mask.eq(0).any()
    mask = torch.cat((mask, torch.ones_like(mask)), dim=-1)
    masked_past = None if past is None else past._replace(z=past.z * mask)
    close(got, cell_like(level).bind(x, masked_past)(z * mask))


@pytest.mark.parametrize("weight_norm", [False, True])
def test_weight_dropout_drops_what_meets_the_position_before_in_both_convolutions(weight_norm: bool) -> None:
    """With a rate of a quarter, f is the plain f of weights (directions, where normalised) times 0 and 4/3, U's drawn first."""
    level, x, z = cell(weight_dropout=0.25, weight_norm=weight_norm), sequence(), sequence(width=2 * H)
    torch.manual_seed(5)
    got = level.bind(x)(z)
    other = cell_like(level, weight_norm=weight_norm)
    torch.manual_seed(5)
    for layer, channels in ((other.inject, D), (other.mix, H)):
        mask = torch.ones(4 * H, 2 * channels, dtype=torch.float64)
        mask[:, :channels] = torch.nn.functional.dropout(mask[:, :channels].contiguous(), 0.25)
        assert mask[:, :channels].unique().tolist() == [0.0, 4 / 3]
        with torch.no_grad():
            (layer.parametrizations.weight.original1 if weight_norm else layer.weight).mul_(mask)  # type: ignore[union-attr]
    close(got, other(z, x))
    assert torch.equal(level.eval()(z, x), cell_like(level, weight_norm=weight_norm)(z, x))


@pytest.mark.parametrize("weight_norm", [False, True])
def test_weight_dropout_drops_the_right_share_and_nothing_of_the_own_position(weight_norm: bool) -> None:
    level = cell(weight_dropout=0.4, weight_norm=weight_norm, hidden=24, inputs=16)
    x, z = sequence(width=16), sequence(width=48)
    f, g = level.bind(x), level.bind(x)
    assert torch.equal(f(z), f(z))
    assert not torch.allclose(f(z), g(z))
    zero = level.initial_state(x)
    assert not torch.allclose(f(zero), g(zero))  # U's, as h is zero
    f(z).square().sum().backward()
    for layer, channels in ((level.inject, 16), (level.mix, 24)):
        moved = layer.parametrizations.weight.original1 if weight_norm else layer.weight  # type: ignore[union-attr]
        older, own = moved.grad.eq(0).split(channels, dim=1)  # type: ignore[union-attr]
        assert not own.any()
        assert 0.36 < older.double().mean() < 0.44
        if weight_norm:  # a row's length is its gain whatever is dropped
            weight = level._weight(layer, level._mask(layer))
            torch.testing.assert_close(weight.norm(dim=1, keepdim=True), layer.parametrizations.weight.original0)  # type: ignore[union-attr]


def test_without_weight_dropout_nothing_is_drawn() -> None:
    level, x = cell(), sequence()
    before = torch.get_rng_state()
    level.bind(x)(level.initial_state(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_level_of_untied_injection_drops_its_own() -> None:
    net, x = TrellisNet(cell(weight_dropout=0.5), depth=3, injection="untied").double(), sequence()
    net(x).y.square().sum().backward()
    rows = slice(H - W, H)  # the input gates of y's channels, which every level's gradient meets
    grads = [layer.weight.grad[rows] for layer in (net.cell.inject, *net.deeper)]
    dropped = [grad[:, :D].eq(0) for grad in grads]
    assert not torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[1], dropped[2])
    assert all(0.2 < mask.double().mean() < 0.8 for mask in dropped)
    assert not any(grad[:, D:].eq(0).any() for grad in grads)


def test_dropout_is_the_same_at_every_level_of_a_net() -> None:
    net, x = TrellisNet(cell(dropout=0.5, weight_dropout=0.3), depth=3), sequence()
    torch.manual_seed(4)
    y = net(x).y
    torch.manual_seed(4)
    f, z = net.cell.bind(x), net.cell.initial_state(x)
    assert torch.equal(y, net.cell.features(f(f(f(z)))))


def found(net: TrellisNet, x: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(9)
    output = net(x)
    loss = sum(((y * torch.randn_like(y)).sum() for y in (output.y, *output.auxiliary)), torch.zeros(()))
    return (output.y, *torch.autograd.grad(loss, (x, *net.parameters())))


@pytest.mark.parametrize("depth", [1, 5, 9])
@pytest.mark.parametrize("way", ["every", "sqrt"])
@pytest.mark.parametrize("injection", ["tied", "untied"])
@pytest.mark.parametrize("weight_norm", [False, True])
def test_checkpointing_changes_no_bit(injection: str, way: str, depth: int, weight_norm: bool) -> None:
    level, x = cell(dropout=0.3, weight_dropout=0.3, weight_norm=weight_norm), sequence().requires_grad_()
    plain = TrellisNet(level, depth=depth, auxiliary_every=2, injection=injection).double()  # type: ignore[arg-type]
    cut = TrellisNet(level, depth=depth, auxiliary_every=2, injection=injection, checkpointing=way).double()  # type: ignore[arg-type]
    cut.load_state_dict(plain.state_dict())
    for got, expected in zip(found(cut, x), found(plain, x), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("injection", ["tied", "untied"])
def test_checkpointing_stores_less(injection: str) -> None:
    level, x = TrellisCell(width=16), torch.randn(4, 12, 16)

    def peak(way: str) -> int:
        net = TrellisNet(level, depth=36, injection=injection, checkpointing=way)  # type: ignore[arg-type]
        gradients = [torch.zeros_like(parameter) for parameter in net.parameters()]
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return peak_live_bytes(lambda: net(x).y.sum().backward(), [x, *net.parameters(), *gradients]).step

    peak("none")  # the first backward allocates what torch keeps
    none, every, root = peak("none"), peak("every"), peak("sqrt")
    assert none > 3 * root
    assert none > 3 * every


def test_the_equilibrium_and_its_gradient_are_those_of_a_long_net() -> None:
    level, x = cell(initial_std=0.3), sequence(time=9).requires_grad_()
    layer, net = tight(level), TrellisNet(level, depth=120)
    solutions: list[Solution] = []
    layer.watch(lambda phase, solution: solutions.append(solution))
    v, leaves = torch.randn(B, 9, W, dtype=torch.float64), (x, *level.parameters())
    solved, deep = (torch.autograd.grad((core(x).y * v).sum(), leaves) for core in (layer, net))
    assert len(solutions) == 2
    assert all(solution.converged.all() for solution in solutions)
    torch.testing.assert_close(layer(x).y, net(x).y, rtol=1e-9, atol=1e-10)
    for got, expected in zip(solved, deep, strict=True):
        assert torch.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.9999
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("hidden", [32, 96])
@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("initial_std", [None, 0.01])
def test_the_first_solves_converge(hidden: int, weight_norm: bool, initial_std: float | None) -> None:
    level = TrellisCell(width=32, hidden=hidden, weight_norm=weight_norm, initial_std=initial_std)
    layer = DEQ(level, solver=Anderson(), stop=Stop(rtol=1e-3, max_steps=30), adjoint=Implicit(stop=Stop(rtol=1e-3, max_steps=30)))
    solutions: list[Solution] = []
    layer.watch(lambda phase, solution: solutions.append(solution))
    for _ in range(3):
        layer(torch.randn(4, 30, 32)).y.square().sum().backward()
    assert len(solutions) == 6
    assert all(solution.converged.all() for solution in solutions)


def test_initial_std_is_that_of_every_parameter() -> None:
    for name, parameter in TrellisCell(width=64, initial_std=0.02).named_parameters():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name


def test_a_net_of_another_depth_shares_the_cell() -> None:
    net = TrellisNet(cell(), depth=3, auxiliary_every=2, checkpointing="sqrt")
    other = net.at_depth(8)
    assert other.cell is net.cell
    assert (other.depth, other.auxiliary_every, other.checkpointing) == (8, 2, "sqrt")
    with pytest.raises(ValueError, match="untied"):
        TrellisNet(cell(), depth=3, injection="untied").at_depth(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrellisCell(width=0), "width must be an integer of at least 1, got 0"),
        (lambda: TrellisCell(width=4, inputs=0), "inputs must be an integer of at least 1, got 0"),
        (lambda: TrellisCell(width=4, hidden=3), "hidden must be an integer of at least 4, got 3"),
        (lambda: TrellisCell(width=4, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: TrellisCell(width=4, weight_dropout=-0.1), r"weight_dropout must be in \[0, 1\), got -0.1"),
        (lambda: TrellisCell(width=4, dropout=math.nan), "dropout .* got nan"),
        (lambda: TrellisCell(width=4, initial_std=-1.0), "initial_std must not be negative, got -1.0"),
        (lambda: TrellisNet(cell(), depth=0), "depth must be an integer of at least 1, got 0"),
        (lambda: TrellisNet(cell(), depth=2, auxiliary_every=-1), "auxiliary_every must be an integer of at least 0, got -1"),
        (lambda: TrellisNet(cell(), depth=2, auxiliary_every=1.5), "auxiliary_every .* got 1.5"),  # type: ignore[arg-type]
        (lambda: TrellisNet(cell(), depth=2, injection="shared"), "tied or untied, got 'shared'"),  # type: ignore[arg-type]
        (lambda: TrellisNet(cell(), depth=2, checkpointing="all"), "none, every or sqrt, got 'all'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_trellis_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
