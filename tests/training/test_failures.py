"""A run that fails, is interrupted or runs out of memory has a record with the reason."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import misfit, numbers, own_locks, spec
from torch import Tensor, nn

import bench.training.run
from bench.records.errors import UserError, failure
from bench.records.record import Record
from bench.records.spec import ComponentConfig, RunSpec
from bench.training.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.training.context import RunControl
from bench.training.distributed import Ranks
from bench.training.run import run

__all__ = ["own_locks"]  # a fixture
USERS = Path(__file__).parents[1] / "user_models.py"


class TestFailures:
    def test_a_diverged_run_keeps_its_curve(self) -> None:
        train = {"steps": 12, "learning_rate": 1e38, "clip": None}
        record = run(spec("user_models:Averages", {"width": 6}, role="trial", train=train), suite="s")
        assert record.status == "diverged"
        assert 0 < len(record.curve) < 12
        assert f"at step {len(record.curve) + 1} of 12" in str(record.reason) or "validation" in str(record.reason)
        assert all(math.isfinite(point.train_loss or 0.0) for point in record.curve)

    @pytest.mark.parametrize("at", [1, 3])
    def test_a_nan_at_a_step_names_the_step(self, at: int) -> None:
        record = run(misfit("nan", at), suite="s")
        assert record.status == "diverged"
        assert record.reason == f"training loss nan at step {at} of 4"
        assert [point.step for point in record.curve] == list(range(1, at))
        assert record.value("parameters_total")
        assert record.value("warmup_s") is not None

    @pytest.mark.parametrize(
        ("how", "status", "reason"),
        [
            ("raise", "crashed", "RuntimeError: a user's mistake"),
            ("build", "crashed", "cannot be"),
            ("allocate", "oom", "out of memory"),
            ("memory", "oom", "out of memory"),
            ("chained", "oom", "out of memory"),
            ("ode", "diverged", "the ODE solver gave up: non-finite values"),
            ("surrogate", "crashed", "a byte that is no character"),
        ],
    )
    def test_a_failing_model_has_a_record_with_the_reason(self, how: str, status: str, reason: str) -> None:
        record = run(misfit(how), suite="s")
        assert record.status == status
        assert reason in str(record.reason)
        assert "\n" not in str(record.reason)
        assert len(record.curve) == (0 if how == "build" else 1)
        Record.model_validate_json(record.model_dump_json())

    def test_a_crash_names_the_line_of_the_users_code_and_keeps_the_traceback(self) -> None:
        record = run(misfit("raise"), suite="s")
        line = next(number for number, text in enumerate(USERS.read_text().splitlines(), 1) if "a user's mistake" in text)
        assert record.reason == f"RuntimeError: a user's mistake (user_models.py:{line})"
        assert f'user_models.py", line {line}, in _raise' in record.provenance["traceback"]
        assert "traceback" not in run(misfit("nan"), suite="s").provenance

    def test_a_failure_keeps_what_was_measured_and_names_the_data(self) -> None:
        record = run(misfit("raise", 3), suite="s")
        for name in ("parameters_total", "build_s", "warmup_s", "train_s", "host_peak_bytes"):
            assert name in record.measures
        assert record.identity.data == "echo 5 6"
        assert record.environment["torch"] == torch.__version__

    def test_a_run_after_a_failed_one_is_not_changed_by_it(self) -> None:
        first = numbers(run(spec("deq", role="trial"), suite="s"))
        run(misfit("raise"), suite="s")
        assert numbers(run(spec("deq", role="trial"), suite="s")) == first

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (spec(task=ComponentConfig(name="copi")), "did you mean 'copy'"),
            (spec(train={"carry": True}), "carry"),
            (spec("gru", {"width": 4, "layer": 2}), "did you mean 'layers'"),
        ],
        ids=["task", "carry", "setting"],
    )
    def test_an_invalid_spec_is_a_user_error(self, wrong: RunSpec, message: str) -> None:
        with pytest.raises(UserError, match=message):
            run(wrong, suite="s")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_missing_gpu_is_a_user_error(self) -> None:
        with pytest.raises(UserError, match="CUDA"):
            run(spec(device="cuda"), suite="s")

    def test_concurrent_runs_make_the_clocks_none(self) -> None:
        record = run(spec(role="trial"), suite="s", concurrent_runs=2)
        assert "2 runs side by side" in record.measures["train_s"].method
        assert record.provenance["runs_side_by_side"] == 2
        assert record.value("train_s") is None


class TwoAlike(Ranks):
    """One process that stands for two with the same state."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 2

    def share(self, part: Tensor) -> Tensor:
        return part

    def owns_batch(self, number: int) -> bool:
        return True

    def wrap_ddp(self, loss: nn.Module) -> nn.Module:
        return loss

    def sum(self, values: Tensor) -> Tensor:
        return values

    def total(self, value: float) -> float:
        return value

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        return [state, state]


@pytest.mark.parametrize("at", ["causality", "as_trained"])
def test_several_processes_are_interrupted_between_the_probes(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt, timed = Interrupt(), []
    probe = getattr(bench.training.run, at)

    def asking(*arguments: Any) -> Any:
        interrupt.ask("time is up", "timeout")
        return probe(*arguments)

    monkeypatch.setattr(bench.training.run, at, asking)
    monkeypatch.setattr(bench.training.run, "step_measures", lambda *arguments: timed.append(1) or {})
    record = run(spec("deq"), suite="test", control=RunControl(interrupt=interrupt, ranks=TwoAlike()))
    assert (record.status, record.reason, timed) == ("timeout", "time is up", [])
    assert "test_loss" in record.measures
    assert ("residual_by_nfe" in record.probes) == (at == "as_trained")


def test_several_processes_exchange_one_message_a_step_besides_gradients_and_losses() -> None:
    class Counting(TwoAlike):
        messages = 0

        def sum(self, values: Tensor) -> Tensor:
            self.messages += values.dtype == torch.float32  # losses are summed in float64, once a point of the curve
            return values

    counts = []
    for steps in (4, 9):
        ranks = Counting()
        assert run(spec(role="trial", train={"steps": steps}), suite="test", control=RunControl(ranks=ranks)).status == "ok"
        counts.append(ranks.messages)
    assert counts[1] - counts[0] == 5


def test_the_message_of_a_step_has_any_ranks_request_and_the_first_ranks_flag() -> None:
    ranks, asked = TwoAlike(), Interrupt()
    assert ranks.raise_if_interrupted(Interrupt(), True)
    assert not ranks.raise_if_interrupted(Interrupt(), False)
    ranks.rank = 1
    assert not ranks.raise_if_interrupted(Interrupt(), True)
    with asked.deferred(raising=False):
        asked.ask("time is up")
    with pytest.raises(Interrupted, match="time is up"):
        ranks.raise_if_interrupted(asked)
    ranks.sum = lambda values: values + torch.tensor([1.0, 0.0])  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="another rank was asked to stop"):
        ranks.raise_if_interrupted(Interrupt())


def test_all_processes_start_over_where_the_checkpoint_fits_one_and_not_another(tmp_path: Path) -> None:
    class Unlike(TwoAlike):
        unfit = 0

        def any(self, flag: bool) -> bool:  # the other one's restoring fails, once
            self.unfit += 1
            return flag or self.unfit == 2

    kept = Checkpoint(tmp_path / "kept", every_s=0.0)
    run(spec(role="trial"), suite="test", control=RunControl(checkpoint=kept))
    again = Checkpoint(tmp_path / "kept")
    record = run(spec(role="trial"), suite="test", control=RunControl(checkpoint=again, ranks=Unlike()))
    assert record.provenance["checkpoint"] == "does not fit this run: the run started over"
    assert [point.step for point in record.curve] == [1, 2, 3, 4]


class OutOfMemoryError(RuntimeError):
    """As torch's own, wherever it is defined."""


def during(error: BaseException) -> BaseException:
    """Another exception, raised while that one was handled."""
    try:
        try:
            raise error
        finally:
            int("x")
    except ValueError as other:
        return other


class TestOutOfMemory:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
            OutOfMemoryError("no room"),
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
            RuntimeError("std::bad_alloc"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154, please'),
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            RuntimeError("unable to mmap 1024 bytes from file </dev/shm/x>: Cannot allocate memory (12)"),
            RuntimeError("HIP out of memory. Tried to allocate"),
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes"),
            ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"),
            ExceptionGroup("both", [ValueError("x"), MemoryError()]),
            during(MemoryError()),
            during(during(RuntimeError("std::bad_alloc"))),
        ],
        ids=lambda error: f"{type(error).__name__} {str(error)[:40]}",
    )
    def test_every_form_of_it_is_detected(self, error: BaseException) -> None:
        status, reason = failure(error)
        assert status == "oom"
        assert reason.startswith("out of memory: ")
        assert "\n" not in reason

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("out of memory"),
            RuntimeError("a user's mistake"),
            ImportError("libx.so: cannot allocate memory in static TLS block"),
            OSError(errno.ENOSPC, "No space left on device"),
            RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
            RuntimeError('captures_underway.empty() INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":3'),
        ],
        ids=str,
    )
    def test_other_errors_are_crashes(self, error: BaseException) -> None:
        assert failure(error)[0] == "crashed"

    def test_a_checkpoint_that_does_not_fit_in_memory_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The machine is at fault, not the file."""
        kept = Checkpoint(tmp_path / "kept", every_s=0.0)
        run(spec(role="trial"), suite="test", control=RunControl(checkpoint=kept))

        def exhausted(*_: Any, **__: Any) -> None:
            raise MemoryError

        for where in ("bench.training.trainer.Trainer.restore", "bench.training.checkpoint.torch.load"):
            with monkeypatch.context() as patch:
                patch.setattr(where, exhausted)
                record = run(spec(role="trial"), suite="test", control=RunControl(checkpoint=Checkpoint(tmp_path / "kept")))
            assert record.status == "oom"
            assert (tmp_path / "kept").is_file()
