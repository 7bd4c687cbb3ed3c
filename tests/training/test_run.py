"""A run follows its spec, measures without changing the numbers, and has a record whatever the model does."""

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import exhaustive, few
from torch import Tensor, nn

import bench.training.evaluation
import bench.training.run
import bench.training.trainer
from bench.analysis import columns
from bench.instruments.flops import flops
from bench.instruments.self_test import examine
from bench.records.record import Record
from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.training.distributed import Ranks
from bench.training.language_model import LanguageModel, build_model
from bench.training.registry import build_task
from bench.training.run import run
from bench.training.trainer import make_optimiser, training_step
from deq import DEQ as DEQ_LAYER

ECHO = ComponentConfig(name="user_models:Echo")
COPY = ComponentConfig(name="copy", settings={"T": 2, "samples": 64, "test_samples": 20})
DEQ: Settings = {"cell": "mlp", "width": 6, "steps": 6, "backward_steps": 5}
MODELS: dict[str, Settings] = {
    "deq": DEQ,
    "tied": {"cell": "transformer", "cell.heads": 1, "width": 6, "depth": 3},
    "lstm": {"width": 6},
    "gru": {"width": 6},
}


@pytest.fixture(autouse=True, scope="module")
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A lock folder of this module's own, and clocks that are never contended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.instruments.contention.Contention.read", lambda *_, **__: None)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("locks")))
        yield


def spec(
    name: str = "gru", settings: Settings | None = None, task: ComponentConfig = ECHO, seed: int = 0, **changes: Any
) -> RunSpec:
    train = {"steps": 4, "batch": 4, "learning_rate": 0.01, "evaluation_batch": 8} | changes.pop("train", {})
    model = ComponentConfig(name=name, settings=settings or MODELS[name])
    return RunSpec(group="g", label="l", model=model, task=task, train=TrainConfig(**train), seed=seed, **changes)


def misfit(how: str, at: int = 2, **changes: Any) -> RunSpec:
    return spec("user_models:FailingModel", {"width": 6, "how": how, "at": at}, role="trial", **changes)


def numbers(record: Record) -> Any:
    """Everything of a record but clocks, what depends on the process, and where it ran."""
    clocks = ("_s", "_ms_median", "_ms_p10", "_ms_p90", "tokens_per_s", "host_peak_bytes")
    data = record.model_dump(mode="json")
    for point in data["curve"]:
        del point["seconds"]
    data["measures"] = {name: one for name, one in data["measures"].items() if not name.endswith(clocks)}
    return {key: data[key] for key in ("run_id", "status", "reason", "curve", "measures", "probes", "metrics", "headline")}


class Spy:
    """Records the model that `run` builds, its weights after training, and each step's learning rate and gradient norm."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.models: list[LanguageModel] = []
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.inputs: list[Tensor] = []
        self.modes: list[tuple[bool, bool, bool]] = []
        self.after_training: dict[str, Tensor] = {}
        self._build, self._step, self._evaluate = (
            bench.training.run.build_model,
            bench.training.trainer.training_step,
            bench.training.evaluation.evaluate,
        )
        patch.setattr(bench.training.run, "build_model", self.build)
        patch.setattr(bench.training.trainer, "training_step", self.step)
        patch.setattr(bench.training.trainer, "evaluate", self.evaluate)
        patch.setattr(bench.training.run, "evaluate", self.evaluate)

    def build(self, *arguments: Any) -> LanguageModel:
        self.models.append(self._build(*arguments))
        return self.models[-1]

    def step(self, model: LanguageModel, optimiser: Any, clip: float | None, inputs: Tensor, *more: Any) -> Any:
        self.rates.append(optimiser.param_groups[0]["lr"])
        self.inputs.append(inputs)
        out = self._step(model, optimiser, clip, inputs, *more)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        self.norms.append(torch.stack(norms).norm().item())
        self.after_training = {name: value.clone() for name, value in model.state_dict().items()}
        return out

    def evaluate(self, model: LanguageModel, *arguments: Any) -> dict[str, float]:
        modes: list[bool] = []
        before = model.training
        handle = model.core.register_forward_pre_hook(lambda module, _: modes.append(module.training))
        out = self._evaluate(model, *arguments)
        handle.remove()
        self.modes.append((before, any(modes), model.training))
        return out


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@pytest.mark.end_to_end
class TestMeasures:
    @pytest.mark.alone
    @pytest.mark.parametrize("name", few(MODELS, ["deq", "lstm"]))
    def test_every_measure_is_a_value_or_null_with_a_reason(self, name: str) -> None:
        record = run(spec(name, task=COPY), suite="s")
        assert (record.status, record.reason) == ("ok", None)
        tables = (columns.PARAMETERS, columns.COST, columns.COST_MORE, columns.MEMORY, columns.MEMORY_MORE)
        known = {column.name for table in (*tables, columns.SOLVER, columns.SOLVER_MORE) for column in table}
        known |= {measure for instrument in examine() for measure in instrument.measures}
        known |= {f"{split}_{metric}" for split in ("valid", "test") for metric in record.metrics}
        assert known - set(record.measures) == set()
        here = {"parameters_total", "saved_bytes", "peak_live_bytes", "train_step_flops", "forward_flops", "step_ms_median"}
        assert all(record.value(measure) is not None for measure in here)
        for measure in record.measures.values():
            assert measure.unit
            assert measure.method
            assert measure.scope
            assert (measure.value is None) == bool(measure.reason)
        assert record.value("cuda_allocated_peak_bytes") is None
        solves = record.value("train_forward_nfe_mean")
        assert (solves is not None) == (name == "deq")
        assert record.run_id == record.identity.run_id(record.spec.key)
        assert len(record.curve) == 4
        assert all(point.train_loss is not None for point in record.curve)

    def test_a_looped_network_is_counted_at_one_depth(self) -> None:
        """It draws its depth in each pass: what it saves is among the bytes of its peak, and a step takes three forward passes."""
        looped = ComponentConfig(name="looped", settings={"cell": "mlp", "width": 8, "depth": 12, "backward_depth": 40})
        for seed in range(3):
            record = run(spec("lstm", task=COPY, seed=seed).model_copy(update={"model": looped}), suite="s")
            value = {
                name: record.value(name) or 0.0 for name in ("saved_bytes", "peak_live_bytes", "train_step_flops", "forward_flops")
            }
            assert 0 < value["saved_bytes"] < value["peak_live_bytes"]
            assert value["train_step_flops"] == pytest.approx(3 * value["forward_flops"], rel=0.1)

    @pytest.mark.parametrize("name", ["deq", *exhaustive("lstm")])
    def test_the_same_spec_gives_the_same_numbers_and_another_seed_others(self, name: str) -> None:
        first, second = run(spec(name, task=COPY), suite="s"), run(spec(name, task=COPY), suite="s")
        assert numbers(first) == numbers(second)
        other = run(spec(name, task=COPY, seed=1, role="trial"), suite="s")
        assert other.curve[0].train_loss != first.curve[0].train_loss
        assert other.value("valid_loss") != first.value("valid_loss")

    def test_the_state_of_the_process_does_not_leak_into_a_run(self) -> None:
        first = run(spec("gru", role="trial"), suite="s")
        torch.manual_seed(99)
        torch.randn(3)
        assert numbers(run(spec("gru", role="trial"), suite="s")) == numbers(first)

    def test_probes_do_not_change_the_training(self) -> None:
        final, trial = run(spec("deq"), suite="s"), run(spec("deq", role="trial"), suite="s")
        assert [p.train_loss for p in final.curve] == [p.train_loss for p in trial.curve]
        assert final.value("valid_loss") == trial.value("valid_loss")

    @pytest.mark.parametrize("name", ["deq", *exhaustive("tied")])
    def test_the_probes_leave_the_weights_bitwise_unchanged(self, spy: Spy, name: str) -> None:
        record = run(spec(name, depths=(2, 3), train={"weight_decay": 0.5}), suite="s")
        assert record.status == "ok"
        assert record.probes["depth"]
        (model,) = spy.models
        assert set(model.state_dict()) == set(spy.after_training)
        for key, value in model.state_dict().items():
            assert torch.equal(value, spy.after_training[key]), key

    @pytest.mark.parametrize("task", [ECHO, COPY], ids=lambda task: task.name)
    def test_the_scores_are_those_of_the_models_own_logits(self, spy: Spy, task: ComponentConfig) -> None:
        record = run(spec("lstm", task=task), suite="s")
        (model,) = spy.models
        model.eval()
        made = bench.training.run.build_task(task, {})
        for split in ("valid", "test"):
            losses, hits, last = [], [], []
            for inputs, targets in made.batches(split, 3, seed=5):  # type: ignore[arg-type]
                with torch.no_grad():
                    logits = model.head(model.core(model.embedding(inputs)).y).double()
                chosen = logits - logits.logsumexp(-1, keepdim=True)
                losses.append(-chosen.gather(-1, targets[..., None])[..., 0])
                hits.append(logits.argmax(-1) == targets)
                last.append(hits[-1][:, -10:])
            if task is COPY:  # Echo's held-out batches depend on their size: another size is other data
                assert record.value(f"{split}_loss") == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
                assert record.value(f"{split}_accuracy_last10") == pytest.approx(torch.cat(last).double().mean().item(), rel=1e-6)
            else:
                assert record.metrics["hits"].better == "higher"
                assert 0 <= (record.value(f"{split}_hits") or 0.0) <= 1

    def test_the_curve_is_validated_when_due_and_at_the_end(self) -> None:
        record = run(spec("gru", role="trial", train={"steps": 7, "evaluate_every": 3}), suite="s")
        assert [point.step for point in record.curve if point.valid] == [3, 6, 7]
        assert record.value("valid_hits") == record.curve[-1].valid["hits"]
        assert [point.step for point in record.curve] == list(range(1, 8))

    def test_a_long_run_keeps_a_short_curve(self) -> None:
        record = run(spec("gru", role="trial", train={"steps": 250, "evaluate_every": 100, "batch": 1}), suite="s")
        assert record.curve[-1].step == 250
        assert 100 <= len(record.curve) <= 130
        assert len([point for point in record.curve if point.valid]) == 3

    def test_saved_bytes_are_flat_in_a_deqs_steps_and_linear_in_a_tied_nets_depth(self) -> None:
        def saved(name: str, depths: tuple[int, ...]) -> dict[str, list[int]]:
            record = run(spec(name, task=COPY, depths=depths, train={"steps": 1}), suite="s")
            rows: dict[str, list[int]] = {}
            for row in record.probes["depth"]:
                rows.setdefault(row["method"], []).append(row["saved_bytes"])
            return rows

        for method, found in saved("deq", (2, 5, 9)).items():
            assert found[0] == found[1] == found[2] > 0, method
        (tied,) = saved("tied", (2, 4, 6)).values()
        assert tied[1] - tied[0] == tied[2] - tied[1] > 0

    @pytest.mark.parametrize(
        ("adjoint", "methods", "flat"),
        [
            ({"solver": "anderson", "adjoint": "phantom"}, {"anderson", "broyden", "picard", "reversible"}, True),
            ({"solver": "picard", "adjoint": "unroll"}, {"picard", "reversible"}, False),
            ({"solver": "broyden", "adjoint": "shine"}, {"broyden"}, False),
        ],
    )
    def test_memory_by_depth_is_that_of_the_models_own_adjoint(self, adjoint: Settings, methods: set[str], flat: bool) -> None:
        settings: Settings = {"cell": "mlp", "width": 6, "steps": 6, "rtol": 1e-12, **adjoint}
        record = run(spec("deq", settings, task=COPY, depths=(6, 20), train={"steps": 1}), suite="s")
        rows = record.probes["depth"]
        assert {row["method"] for row in rows} == {f"DEQ, {method}" for method in methods}
        own = {row["depth"]: row["saved_bytes"] for row in rows if row["method"] == f"DEQ, {adjoint['solver']}"}
        assert own[6] == record.value("saved_bytes")
        assert (own[20] == own[6]) == flat

    def test_a_step_is_probed_with_the_memory_that_training_carries(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("abcdefgh" * 60)
        task = ComponentConfig(name="text", settings={"data": "a", "length": 4})
        settings: Settings = {"width": 6, "layers": 2, "heads": 1, "memory_length": 4}
        found = {}
        for carry in (False, True):
            one = spec("transformer-xl", settings, task=task, train={"carry": carry, "batch": 2, "steps": 1})
            record = run(one, suite="s", data={"a": tmp_path / "a.txt"})
            found[carry] = record.value("forward_flops") or 0, record.value("saved_bytes") or 0, record.value("held_bytes") or 0
            assert ("with the memory" in record.measures["step_ms_median"].scope) == carry
        model, tokens = build_model(one.model, 8), torch.zeros(2, 4, dtype=torch.int64)
        with torch.no_grad():
            memory = model(tokens)[1].memory
            counts = [flops(lambda given=given: model(tokens, given)).total or 0 for given in (None, memory)]  # type: ignore[misc]
        assert found[True][0] - found[False][0] == counts[1] - counts[0] > 0
        assert found[True][1] > found[False][1]
        assert found[True][2] - found[False][2] == sum(part.nbytes for part in memory)

    def test_step_times_are_percentiles_and_tokens_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.training.final_probes.step_times", lambda *_: [k / 1000 for k in range(1, 21)])
        record = run(spec("gru"), suite="s")
        found = [record.value(name) for name in ("step_ms_p10", "step_ms_median", "step_ms_p90", "tokens_per_s")]
        assert found == pytest.approx([2.1, 10.5, 18.9, 4 * 6 / 0.0105])  # a batch of 4 sequences of 6 tokens

    def test_a_test_by_the_stops_of_the_training_changes_no_other_score(self, spy: Spy) -> None:
        tight: Settings = {"cell": "mlp", "width": 6, "rtol": 1e-9, "backward_steps": 5, "solver": "picard", "steps": 2}
        short, both = (run(spec("deq", {**tight, **more}, task=COPY), suite="s") for more in ({}, {"evaluation_steps": 40}))
        assert short.value("test_loss_as_trained") is None
        assert both.value("test_loss_as_trained") == short.value("test_loss")
        assert both.value("test_loss") != short.value("test_loss")
        core = spy.models[-1].core
        assert isinstance(core, DEQ_LAYER)
        assert (core.stop.max_steps, core.evaluation_stop.max_steps) == (2, 40)

    def test_a_solve_that_reaches_the_fixed_point_keeps_its_residuals(self) -> None:
        """An exact fixed point has gap 0; the curve ends there."""
        settings: Settings = {**DEQ, "cell.gain": 0.01, "solver": "picard"}
        record = run(spec("deq", settings=settings), suite="s")
        assert record.status == "ok"
        curve = record.probes["residual_by_nfe"]["picard"]
        assert len(curve) > 3
        assert curve[0][1] > curve[2][1]
        json.dumps(record.probes, allow_nan=False)


@pytest.mark.end_to_end
class TestTraining:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_simple_task_is_learned(self, name: str) -> None:
        record = run(spec(name, role="trial", train={"steps": 60, "batch": 16, "learning_rate": 0.03, "warmup": 5}), suite="s")
        chance = math.log(5)
        assert record.curve[0].train_loss == pytest.approx(chance, rel=0.4)
        assert (record.value("valid_loss") or 9) < 0.6 * chance
        assert (record.value("valid_hits") or 0) > 0.6

    @pytest.mark.parametrize(("steps", "warmup"), [(8, 0), (8, 3), (5, 5), (1, 0), (1, 1)])
    def test_the_learning_rate_is_a_warm_up_and_a_cosine_to_zero(self, spy: Spy, steps: int, warmup: int) -> None:
        run(spec("gru", role="trial", train={"steps": steps, "warmup": warmup, "learning_rate": 0.1}), suite="s")
        ramp = [0.1 * (n + 1) / warmup for n in range(warmup)]
        cosine = [0.05 * (1 + math.cos(math.pi * n / (steps - warmup))) for n in range(steps - warmup)]
        assert spy.rates[:steps] == pytest.approx(ramp + cosine)
        assert max(spy.rates[:steps]) == pytest.approx(0.1)

    def test_the_learning_rate_is_halved_at_regular_steps(self, spy: Spy) -> None:
        halved = {"steps": 8, "learning_rate": 0.4, "optimiser": "sgd", "halve_from": 3, "halve_every": 2}
        run(spec("gru", role="trial", train=halved), suite="s")
        assert spy.rates[:8] == pytest.approx([0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05])

    def test_sgd_moves_along_the_gradient_by_the_rate(self) -> None:
        layer = nn.Linear(2, 2)
        optimiser, _ = make_optimiser(layer, TrainConfig(steps=4, batch=1, learning_rate=0.2, optimiser="sgd", halve_every=4))
        before = layer.weight.detach().clone()
        layer.weight.sum().backward()
        optimiser.step()
        assert torch.allclose(layer.weight, before - 0.2 * 0.5)  # its first interval is a half

    def test_gradients_are_clipped_after_backward_or_not_at_all(self, spy: Spy) -> None:
        for clip in (1e-3, None):
            run(spec("gru", role="trial", train={"clip": clip}), suite="s")
        assert spy.norms[:4] == pytest.approx([1e-3] * 4, rel=1e-3)
        assert min(spy.norms[4:]) > 0.01

    def test_a_clipped_step_is_the_step_of_the_clipped_gradient(self) -> None:
        """SGD shows the gradient that was applied; Adam would hide its length."""
        torch.manual_seed(0)
        model = build_model(ComponentConfig(name="gru", settings={"width": 4}), 5)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        inputs = torch.randint(5, (2, 3))
        training_step(model, optimiser, 1e-2, inputs, inputs)
        moved = torch.stack([(p - q).norm() for p, q in zip(model.parameters(), before, strict=True)]).norm()
        assert moved.item() == pytest.approx(1e-2, rel=1e-2)

    def test_the_optimiser_is_adamw_with_the_given_decay(self) -> None:
        optimiser, _ = make_optimiser(nn.Linear(2, 2), TrainConfig(steps=4, batch=1, learning_rate=0.2, weight_decay=0.3))
        assert isinstance(optimiser, torch.optim.AdamW)
        assert optimiser.param_groups[0]["weight_decay"] == 0.3

    def test_all_models_see_the_same_batches_and_another_seed_sees_others(self, spy: Spy) -> None:
        for name in MODELS:
            run(spec(name, task=COPY, role="trial"), suite="s")
        run(spec("gru", task=COPY, role="trial", seed=1), suite="s")
        *same, other = torch.stack(spy.inputs).split(4)
        assert len(same) == 4
        assert all(torch.equal(same[0], each) for each in same)
        assert not torch.equal(same[0][0], same[0][1])
        assert not torch.equal(same[0], other)

    def test_validation_is_in_evaluation_mode_and_restores_the_mode(self, spy: Spy) -> None:
        run(spec("gru", role="trial", train={"evaluate_every": 2}), suite="s")
        assert spy.modes == [(True, False, True)] * 2

    def test_memory_is_carried_in_order_and_only_if_asked(self, tmp_path: Path, spy: Spy) -> None:
        (tmp_path / "a.txt").write_text("abcdefgh" * 60)
        task = ComponentConfig(name="text", settings={"data": "a", "length": 4})
        losses = {}
        for carry in (False, True):
            record = run(
                spec("gru", task=task, role="trial", train={"carry": carry, "batch": 2}), suite="s", data={"a": tmp_path / "a.txt"}
            )
            assert record.status == "ok"
            losses[carry] = [point.train_loss for point in record.curve]
        assert losses[True][0] == losses[False][0]
        assert losses[True][1] != losses[False][1]

    def test_a_carried_memory_ends_with_its_epoch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("abcdefgh" * 60)
        data, starts, step = {"a": tmp_path / "a.txt"}, list[bool](), bench.training.trainer.training_step

        def watched(model: Any, optimiser: Any, clip: Any, inputs: Any, targets: Any, memory: Any, loss: Any) -> Any:
            starts.append(memory is None)
            return step(model, optimiser, clip, inputs, targets, memory, loss)

        monkeypatch.setattr(bench.training.trainer, "training_step", watched)
        one = spec("gru", role="trial", train={"carry": True, "batch": 2, "steps": 120})
        one = one.model_copy(update={"task": ComponentConfig(name="text", settings={"data": "a", "length": 4})})
        assert run(one, suite="s", data=data).status == "ok"
        task = build_task(one.task, data)
        assert starts == [task.begins(number, 2) for number in range(120)]
        assert sum(starts) > 1

    def test_each_process_takes_its_own_block_of_a_batch(self) -> None:
        ranks = Ranks()
        ranks.size, ranks.rank = 2, 1
        assert ranks.share(torch.arange(4)).tolist() == [2, 3]
        assert [ranks.owns_batch(number) for number in range(4)] == [False, True, False, True]
