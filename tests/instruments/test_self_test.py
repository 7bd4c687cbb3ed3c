"""The self-test and the environment report what is broken without raising, and contain nothing private."""

import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.instruments import nvml, self_test
from bench.instruments.environment import cpu_name, driver, environment, gpu, revision, use_float32
from bench.instruments.flops import Flops
from bench.instruments.self_test import Instrument, examine


def by_name() -> dict[str, Instrument]:
    return {instrument.name: instrument for instrument in examine()}


class TestExamine:
    def test_what_must_work_everywhere_works(self) -> None:
        found = by_name()
        for name in ("torch", "saved bytes", "live bytes", "FLOPs"):
            assert found[name].works, found[name].detail
        assert "1024, known: 1024" in found["saved bytes"].detail
        assert not found["RAPL"].works
        assert all(instrument.detail for instrument in found.values())

    @pytest.mark.skipif(platform.system() != "Linux", reason="VmHWM is Linux only")
    @pytest.mark.alone  # a process that has freed much reads no high-water mark for a while
    def test_the_high_water_mark_works_on_linux(self) -> None:
        assert by_name()["VmHWM"].works

    def test_every_measure_has_one_instrument(self) -> None:
        measures = [measure for instrument in examine() for measure in instrument.measures]
        assert len(measures) == len(set(measures))
        assert {"saved_bytes", "peak_live_bytes", "train_step_flops", "host_peak_bytes", "energy_J", "train_s"} <= set(measures)

    def test_a_wrong_count_is_detected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self_test, "saved_bytes", lambda forward, exclude: 4096)
        monkeypatch.setattr(self_test, "flops", lambda step: Flops(total=0))
        monkeypatch.setattr(self_test, "peak_live_bytes", lambda step, held: SimpleNamespace(peak=1))
        found = by_name()
        assert not any(found[name].works for name in ("saved bytes", "FLOPs", "live bytes"))
        assert found["saved bytes"].detail.endswith("4096, known: 1024")

    def test_flops_without_a_total_give_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self_test, "flops", lambda step: Flops(total=None, reason="aten.rnn has no formula"))
        assert by_name()["FLOPs"] == Instrument("FLOPs", False, "aten.rnn has no formula", ("train_step_flops", "forward_flops"))

    def test_nothing_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("broken")

        for name in ("saved_bytes", "peak_live_bytes", "flops", "HostMemory", "CudaMemory"):
            monkeypatch.setattr(self_test, name, broken)
        monkeypatch.setattr(nvml, "load_library", broken)
        monkeypatch.setattr(self_test, "version", broken)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        for instrument in examine():
            assert instrument.name in ("torch", "RAPL") or instrument.detail == "RuntimeError: broken"

    def test_a_gpu_with_nvml_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        library = SimpleNamespace(
            NVMLError=RuntimeError,
            nvmlInit=lambda: None,
            nvmlSystemGetDriverVersion=lambda: "580.1",
            nvmlDeviceGetCount=lambda: 2,
            nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: 7_000,
        )
        monkeypatch.setattr(nvml, "load_library", lambda: library)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1"))
        found = by_name()
        assert found["NVML"].detail == "driver 580.1, 2 devices"
        assert found["energy"].works
        assert found["energy"].detail == "counter at 7 J"

    def test_the_clash_of_bindings_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.metadata, "version", {"pynvml": "11.5.0"}.__getitem__)
        found = by_name()["one NVML binding"]
        assert not found.works
        assert "pip uninstall pynvml" in found.detail


class TestEnvironment:
    def test_it_is_json_without_private_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
        found = environment("cpu", threads=2)
        text = json.dumps(found)
        for private in (socket.gethostname(), str(Path.home()), os.getcwd(), f'"{getpass.getuser()}"'):
            assert private not in text
        assert found["threads"] == 2
        assert found["device"] == "cpu"
        assert found["gpu"] is None
        assert found["torch"] == torch.__version__
        variables: Any = found["variables"]
        assert (variables["OMP_NUM_THREADS"], variables["PYTHONHASHSEED"]) == ("3", None)
        assert found["python"] == platform.python_version()
        assert {"CUDA_LAUNCH_BLOCKING", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"} <= {*variables}

    def test_the_processor_is_read_from_the_kernel(self, tmp_path: Path) -> None:
        listing = tmp_path / "cpuinfo"
        listing.write_text("processor\t: 0\nmodel name\t: Wonder 9000: Pro\nmodel name\t: other\n")
        assert cpu_name(listing) == "Wonder 9000: Pro"
        assert cpu_name(tmp_path / "absent") == (platform.processor() or None)

    def test_all_float32_products_are_in_float32_when_a_run_asks(self) -> None:
        products = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
        before, older = [one.fp32_precision for one in products], torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("high")  # by which alone torch would refuse every product on a GPU
            products[2].fp32_precision = "tf32"  # torch's default rounds an LSTM's products, and not a DEQ's
            use_float32()
            assert {one.fp32_precision for one in products} == {"ieee"}
            assert not torch._C._get_cublas_allow_tf32()  # asked by every product
            assert torch.get_float32_matmul_precision() == "highest"
        finally:
            torch.set_float32_matmul_precision(older)
            for one, was in zip(products, before, strict=True):
                one.fp32_precision = was

    def test_the_gpu_is_named_when_used(self) -> None:
        properties = SimpleNamespace(name="Card", total_memory=8, major=9, minor=0)
        cuda = SimpleNamespace(is_available=lambda: True, get_device_properties=lambda device: properties)
        library = SimpleNamespace(nvmlInit=lambda: None, nvmlSystemGetDriverVersion=lambda: "580.1")
        found = gpu("cuda", cuda, library)
        assert found is not None
        assert found.items() >= {"name": "Card", "memory_bytes": 8, "capability": "9.0", "driver": "580.1"}.items()
        assert {"math", "flash"} <= set(found["attention"])
        assert gpu("cpu", cuda, library) is None
        assert driver(SimpleNamespace()) is None

        def lost(device: object) -> object:
            raise RuntimeError("lost")

        assert gpu("cuda", SimpleNamespace(is_available=lambda: True, get_device_properties=lost), library) is None


class TestRevision:
    def git(self, folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        self.git(tmp_path, "init", "--quiet")
        (tmp_path / "bench").mkdir()
        (tmp_path / "bench" / "run.py").write_text("1\n")
        self.git(tmp_path, "add", ".")
        self.git(tmp_path, "commit", "--quiet", "-m", "First")
        return tmp_path

    def test_a_clean_tree(self, repository: Path) -> None:
        assert revision(repository) == {"revision": self.git(repository, "rev-parse", "HEAD"), "dirty": False}

    @pytest.mark.parametrize(("path", "dirty"), [("bench/run.py", True), ("bench/new.py", True), ("results.json", False)])
    def test_code_makes_it_dirty_and_results_do_not(self, repository: Path, path: str, dirty: bool) -> None:
        (repository / path).write_text("2\n")
        found = revision(repository)
        assert found is not None
        assert found["dirty"] is dirty

    def test_a_folder_inside_another_repository_has_none(self, repository: Path) -> None:
        assert revision(repository / "bench") is None

    def test_outside_a_repository_or_before_the_first_commit_there_is_none(self, tmp_path: Path) -> None:
        assert revision(tmp_path) is None
        self.git(tmp_path, "init", "--quiet")
        assert revision(tmp_path) is None

    def test_a_hooks_variables_do_not_mislead(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
        assert revision(repository) is not None

    def test_without_git_there_is_none(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert revision(repository) is None
