"""One line says why a machine cannot run what is asked: too few GPUs, none that torch can use, another system."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.cli import options
from bench.cli.run import _make_engine
from bench.instruments.environment import why_no_gpu
from bench.records.errors import UserError


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_each_process_of_a_run_needs_a_gpu(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    two = SimpleNamespace(processes=2, device="cuda")
    with pytest.raises(UserError, match=r"--processes 2 --device cuda: .* torch sees 1 here"):
        _make_engine(engine, [two], None, "auto", lambda specs, jobs: 1)
    for fine in (SimpleNamespace(processes=2, device="cpu"), SimpleNamespace(processes=1, device="cuda")):
        _make_engine(engine, [fine], None, "auto", lambda specs, jobs: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _make_engine(engine, [two], None, "auto", lambda specs, jobs: 1)


def test_a_system_without_a_fork_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(UserError, match="engine local needs Linux or macOS"):
        _make_engine("local", [], None, "auto", lambda specs, jobs: 1)


def test_a_cuda_build_that_finds_no_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_gpu().endswith("built without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"CUDA 13.0, which needs a GPU and a driver"):
        options.parse_device("cuda")
    monkeypatch.setattr(options, "_DRIVER", tmp_path / "none")
    assert options.parse_device("auto") == options.parse_device("cpu") == "cpu"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(options, "_DRIVER", tmp_path)
    assert options.parse_device("auto") == "cpu"
    assert "on the CPU, since torch finds no CUDA device: it is built for CUDA 13.0" in capsys.readouterr().err
