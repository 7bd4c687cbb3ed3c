"""The comparison with peers counts and divides as documented, and shows a library that misses its tolerance."""

import importlib.metadata
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.instruments.machine_lock import MachineLock
from bench.peers import explicit, graphs, measure, show
from bench.peers import record as peers_record
from bench.peers.libraries import METHODS, Layer, Library, Ours, installed
from bench.peers.problems import PROBLEMS, block, in_bfloat16, medium
from bench.peers.record import write
from bench.records.errors import UserError
from bench.records.side_file import PEERS
from bench.records.spec import ComponentConfig
from bench.training.language_model import LanguageModel, build_model
from deq import DEQ, Map

pytestmark = pytest.mark.end_to_end

CHEAP = ("tiny", "oscillating")


class Idle:
    """Returns the initial state."""

    name = "idle"
    version = "1"

    def solve(self, f: Map, z0: Tensor, method: str, rtol: float, cap: int) -> Tensor:
        return z0

    def layer(self, f: Map, method: str, steps: int) -> Layer:
        return f


def test_the_floor_is_evaluations_products_and_the_attached_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 2.0, 5.0, 90.0, 91.0, 92.0] * 2)
    monkeypatch.setattr(measure, "seconds_of", lambda do, repeats=1, device="cpu": next(clock))
    rows = measure.overhead([Ours()], "tiny", rounds=2)
    assert [row["method"] for row in rows] == [*METHODS]
    for row in rows:
        assert (row["evaluations"], row["products"]) == (20, 20)  # the attached evaluation is one of them
        assert row["floor_s"] == [19 * 1.0 + 20 * 2.0 + 5.0] * 2
    assert [row["step_s"] for row in rows] == [[92.0, 90.0], [91.0, 91.0], [90.0, 92.0]]  # there and back


def test_a_stopping_solve_is_timed_over_its_own_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([2.0, 90.0, 91.0, 92.0] * 2)
    monkeypatch.setattr(measure, "seconds_of", lambda do, repeats=1, device="cpu": next(clock))
    rows = measure.stopping([Ours()], "tiny", rounds=2)
    assert [row["solve_s"] for row in rows] == [[92.0, 90.0], [91.0, 91.0], [90.0, 92.0]]
    steps = {row["method"]: row["evaluations"] for row in measure.steps_to([Ours()], "tiny") if row["rtol"] == measure.STOPPING}
    for row in rows:
        assert row["evaluations"] == steps[row["method"]]
        assert row["floor_s"] == [2.0 * row["evaluations"]] * 2


@pytest.mark.parametrize("name", CHEAP)
def test_a_solve_stops_at_the_first_evaluation_below_its_tolerance(name: str) -> None:
    for row in measure.steps_to([Ours()], name):
        if row["method"] == "picard" and name == "oscillating":
            assert row["residual"] > 1
            assert row["first_below"] is None
            assert row["evaluations"] == row["cap"]
            continue
        assert row["residual"] <= row["rtol"] * (1.5 if row["rtol"] < 1e-5 else 1.01)
        assert abs(row["evaluations"] - row["first_below"]) <= (1 if row["dtype"] == "float32" else 0)  # roundings of the judge


def test_a_missed_tolerance_is_shown() -> None:
    libraries: list[Library] = [Ours(), Idle()]
    lines = show.pipe(show.steps(measure.steps_to(libraries, "tiny"))).splitlines()
    assert [line for line in lines if "idle" in line and "left at 1e+00" in line]
    assert not [line for line in lines if "| deq" in line and "left" in line]


def test_memory_is_flat_in_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, "block", partial(block, times=32))
    found = {}
    for steps in (5, 20):
        monkeypatch.setattr(measure, "STEPS", steps)
        found[steps] = {row["method"]: row for row in measure.memory([Ours()], "block")}
    one = found[20]["one evaluation"]
    gaps = 2 * 15 * 8 * 4 * 2  # fifteen more gaps of eight samples, listed and stacked, forward and backward
    assert abs(found[20]["picard"]["peak_bytes"] - found[5]["picard"]["peak_bytes"]) <= gaps
    assert found[20]["unrolled"]["peak_bytes"] > 3 * found[5]["unrolled"]["peak_bytes"]
    assert found[20]["picard"]["peak_bytes"] <= 1.3 * (one["peak_bytes"] + one["state_bytes"])
    # Anderson's history is 2 x window states.
    history = 2 * 6 * one["state_bytes"]
    assert found[20]["anderson"]["peak_bytes"] - found[20]["picard"]["peak_bytes"] <= history + one["state_bytes"]


@pytest.mark.parametrize("name", CHEAP)
def test_no_more_evaluations_than_torchdeq(name: str) -> None:
    pytest.importorskip("torchdeq", reason="the extra `peers` is not installed")
    from bench.peers.libraries import TorchDEQ

    rows = measure.steps_to([Ours(), TorchDEQ()], name)
    for mine, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert (mine["library"], theirs["library"]) == ("deq", "torchdeq")
        assert mine["evaluations"] <= theirs["evaluations"]


def test_an_evaluation_launches_fewer_operators_than_torchdeq() -> None:
    pytest.importorskip("torchdeq", reason="the extra `peers` is not installed")
    from bench.peers.libraries import TorchDEQ

    for name in ("tiny", "block"):
        rows = measure.launches([Ours(), TorchDEQ()], name)
        for mine, theirs in zip(rows[::2], rows[1::2], strict=True):
            assert mine["launches"] - mine["f"] < theirs["launches"] - theirs["f"], mine
            assert mine["waits"] == 1 <= theirs["waits"]


def test_a_map_in_bfloat16_keeps_the_state_in_float32() -> None:
    problem, low = (make() for make in (block, lambda: in_bfloat16(block())))
    z = torch.randn(problem.z0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, found = problem.f(z), low.f(z)
    assert found.dtype == torch.float32
    assert 1e-4 < ((found - exact).norm() / exact.norm()).item() < 2e-2
    Ours().layer(low.f, "anderson", 5)(low.z0).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in low.leaves)


def test_the_cell_of_the_paper_can_be_trained_on_twice() -> None:
    problem = medium(batch=1, times=4)
    for _ in range(2):
        problem.f(problem.z0).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in problem.leaves[-2:])


def test_the_version_is_none_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert Ours().version is None


def test_problems_are_the_same_in_both_precisions() -> None:
    for name, make in PROBLEMS.items():
        if name == "large":
            continue
        single, double = make(torch.float32), make(torch.float64)
        z = torch.randn(double.z0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(single.f(z.float()).double(), double.f(z), rtol=1e-4, atol=1e-4)


def test_baselines_and_harness_are_timed_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "_STEPS", {"cpu": 3})
    monkeypatch.setattr(explicit, "SHAPES", ((2, 8, 8),))
    rows = explicit.baselines(rounds=2)
    assert {row["reference"] for row in rows} == {"GPT", "nn.LSTM", "nn.GRU"}
    assert all(len(row["model_s"]) == len(row["reference_s"]) == 2 and min(row["model_s"]) > 0 for row in rows)
    rows = explicit.harness(rounds=2)
    assert all(len(row["harness_s"]) == len(row["bare_s"]) == 2 and min(row["bare_s"]) > 0 for row in rows)


def test_inference_is_timed_against_as_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "SHAPES", ((2, 8, 8),))
    evaluations: list[int] = []
    build = explicit.build_model

    def counted(model: ComponentConfig, vocabulary: int) -> LanguageModel:
        made = build(model, vocabulary)
        if isinstance(made.core, DEQ):
            made.core.watch(lambda phase, solution: evaluations.append(solution.nfe))
        return made

    monkeypatch.setattr(explicit, "build_model", counted)
    rows = explicit.inference(rounds=1)
    assert [(row["evaluations"], row["solver"]) for row in rows] == [(n, method) for n in explicit.INFERENCE for method in METHODS]
    assert all(len(row[name]) == 1 and row[name][0] > 0 for row in rows for name in ("deq_s", "more_s", "tied_s"))
    assert {*evaluations} == {cap for n in explicit.INFERENCE for cap in (n, n + 1)}


def test_steps_with_and_without_cuda_graphs_are_timed_in_pairs() -> None:
    rows = graphs.graphs(rounds=1, device="cpu", sizes=("small",))
    assert [row["model"] for row in rows] == ["DEQ-Transformer", "DEQ-Transformer, SHINE", "DEQ-TrellisNet"]
    kinds = [f"{kind}_{what}_s" for kind in ("eager", "graphs") for what in ("step", "evaluation")]
    assert all(len(row[kind]) == 1 and row[kind][0] > 0 for row in rows for kind in kinds)


def test_the_peak_of_a_step_leaves_out_workspaces_and_drops_the_recordings_that_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    workspaces, diary = 64, []

    def free() -> None:
        nonlocal workspaces
        workspaces = 0
        diary.append("free")

    monkeypatch.setattr(graphs, "free_workspaces", free)
    monkeypatch.setattr(DEQ, "forget_recordings", lambda layer: diary.append("forget"))
    for name, value in {
        "reset_peak_memory_stats": lambda: diary.append("reset"),
        "memory_allocated": lambda: 20 + workspaces,
        "max_memory_allocated": lambda: 100 + workspaces,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    model = build_model(ComponentConfig(name="deq", settings={"width": 8, "cell.heads": 2}), 5)
    assert graphs._peak(model, lambda: diary.append("step")) == 100
    assert diary == ["reset", "step", "free", "forget"]


def test_the_interval_of_a_median_is_of_order_statistics() -> None:
    values = [float(value) for value in range(1, 22)]
    assert show.median(values) == (11.0, 6.0, 16.0)
    assert show.median([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def record() -> dict[str, Any]:
    def timed(library: str, step: float) -> dict[str, Any]:
        return {
            "problem": "tiny", "method": "picard", "library": library, "evaluations": 21, "products": 20,
            "step_s": [step] * 7, "floor_s": [1.0] * 7,
        }  # fmt: skip

    rows = [timed("deq", 1.5) | {"method": method} for method in METHODS]
    rows += [timed("torchdeq", 3.0) | {"method": method} for method in METHODS]
    return {
        "libraries": {"deq": "1", "torchdeq": "0.1.0"},
        "overhead": rows,
        "stopping": [{name: value for name, value in row.items() if name != "step_s"} | {"solve_s": row["step_s"]} for row in rows],
        "steps": [],
        "memory": [
            {"problem": "p", "method": "one evaluation", "library": "torch", "saved_bytes": 0, "peak_bytes": 3, "state_bytes": 1},
            {"problem": "p", "method": "picard", "library": "deq", "saved_bytes": 0, "peak_bytes": 5, "state_bytes": 1},
        ],
        "launches": [
            {"problem": "tiny", "method": "picard", "library": library, "launches": count, "f": 3, "waits": waits}
            for library, count, waits in (("deq", 7.5, None), ("torchdeq", 39, 1.0))
        ],
        "baselines": [{"shape": "s", "model": "LSTM", "reference": "nn.LSTM", "model_s": [1.02] * 7, "reference_s": [1.0] * 7}],
        "harness": [{"model": "GRU", "steps": 3, "harness_s": [1.01] * 7, "bare_s": [1.0] * 7}],
        "inference": [{"evaluations": 4, "solver": "picard", "deq_s": [0.011] * 7, "more_s": [0.013] * 7, "tied_s": [0.01] * 7}],
        "graphs": [
            {"model": "DEQ", "size": "small", "eager_bytes": 2**20, "graphs_bytes": 3 * 2**20}
            | {f"{kind}_{what}_s": [s] * 7 for what in ("step", "evaluation") for kind, s in (("eager", 0.04), ("graphs", 0.01))}
        ],
    }


def test_tables_hold_what_the_record_holds(tmp_path: Path) -> None:
    write(record(), tmp_path)
    assert PEERS.read(tmp_path / "peers.json") == record()
    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.md")}
    assert {*texts} == {"overhead", "stopping", "steps", "launches", "memory", "baselines", "harness", "inference", "graphs"}
    assert "1.50 [1.50, 1.50]" in texts["overhead"]
    assert "2.00 [2.00, 2.00]" in texts["overhead"]
    assert "21 + 20" in texts["overhead"]
    assert "1.50 [1.50, 1.50]" in texts["stopping"]
    assert "2.00 [2.00, 2.00]" in texts["stopping"]
    assert "1.25" in texts["memory"]
    assert texts["launches"].splitlines()[-1].replace(" ", "").split("|")[3:-1] == ["3", "7.5", "n/a", "39", "1"]
    assert "1.02 [1.02, 1.02]" in texts["baselines"]
    assert "+1.0 [+1.0, +1.0]" in texts["harness"]
    cells = texts["inference"].splitlines()[-1].replace(" ", "").split("|")[1:-1]
    assert cells == ["4", "Picard", "11", "10", "1.10[1.10,1.10]", "1.30[1.30,1.30]"]
    cells = texts["graphs"].splitlines()[-1].replace(" ", "").split("|")[3:-1]
    assert cells == ["40", "10", "0.25[0.25,0.25]", "40", "10", "0.25[0.25,0.25]", "1", "3"]


def test_a_failure_costs_its_own_rows_alone_and_what_is_done_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = record(), {}

    def rows(section: str) -> Callable[..., list[dict[str, Any]]]:
        def measured(*arguments: Any) -> list[dict[str, Any]]:
            seen[section] = PEERS.read(tmp_path / "peers.json")
            if section in ("launches", "inference"):
                raise torch.OutOfMemoryError("CUDA out of memory") if section == "inference" else RuntimeError("no kernel")
            return list(whole[section])

        return measured

    for module, names in {
        measure: {"memory": "memory", "steps_to": "steps", "launches": "launches", "overhead": "overhead", "stopping": "stopping"},
        explicit: {name: name for name in ("baselines", "inference", "harness")},
    }.items():
        for name, section in names.items():
            monkeypatch.setattr(module, name, rows(section))
    other = Idle()
    other.name = "torchdeq"
    monkeypatch.setattr(peers_record, "installed", lambda: [Ours(), other])
    monkeypatch.setattr(peers_record, "MachineLock", lambda: MachineLock(tmp_path / "lock"))
    monkeypatch.setattr(peers_record.Contention, "read", lambda contention: None)
    monkeypatch.setattr(peers_record.Nvml, "busy_others", lambda nvml, since_us: "another" if "stopping" in seen else None)
    made = peers_record.make(tmp_path, 1, 1, "cpu", ["tiny"])
    assert made["failures"] == {"launches tiny": "RuntimeError: no kernel", "inference": "out of memory: CUDA out of memory"}
    assert made["contended"] == "another"
    assert (made["launches"], made["inference"], made["harness"]) == ([], [], whole["harness"])
    assert seen["harness"]["baselines"] == whole["baselines"]  # written before
    assert PEERS.read(tmp_path / "peers.json") == json.loads(json.dumps(made))


def test_notes_say_what_spoils_the_times_or_was_not_checked() -> None:
    found = show.tables({**record(), "contended": "another process used the GPU", "unchecked": "the sole use is unchecked"})
    notes = ("These times are unreliable: meanwhile another process used the GPU.", "Of these times the sole use is unchecked.")
    assert found["overhead"].notes == notes
    assert not found["steps"].notes
    assert not show.tables(record())["overhead"].notes


def test_the_harness_takes_fewer_steps_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "time_in_turns", lambda *_, **__: None)
    assert {row["steps"] for row in explicit.harness(1, "cuda")} == {60}
    assert {row["steps"] for row in explicit.harness(1, "cpu")} == {200}


@pytest.mark.parametrize("name", ["peers", "gpu/peers"])
def test_the_published_tables_are_those_of_the_published_record(name: str) -> None:
    folder = Path(__file__).resolve().parents[2] / "results" / name
    made = show.tables(json.loads((folder / "peers.json").read_text(encoding="utf-8")))
    for name, table in made.items():
        assert (folder / f"{name}.md").read_text(encoding="utf-8") == show.pipe(table)


def test_missing_peers_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"deq-bench\[peers\]"):
        installed()
