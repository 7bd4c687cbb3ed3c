"""The kernels that torch uses on the CPU: the same on old and new processors, chosen once for a process and its children."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.identity import numeric_environment
from bench.records.kernels import ONEDNN, VARIABLE, use_common_kernels

NEW = "model name\t: one\nflags\t\t: fpu avx2 avx512f avx512bw\n"
OLD = "model name\t: one\nflags\t\t: fpu avx2\n"


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No choice made, and no torch imported."""
    for name in (VARIABLE, ONEDNN):
        monkeypatch.setenv(name, "")  # so that the value after the test is restored
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch")
    return monkeypatch


@pytest.mark.parametrize(("flags", "chosen"), [(NEW, "avx2"), (OLD, None)])
def test_a_processor_with_avx512_uses_avx2(tmp_path: Path, unset: pytest.MonkeyPatch, flags: str, chosen: str | None) -> None:
    """Others have nothing newer to leave out."""
    listing = tmp_path / "cpuinfo"
    listing.write_text(flags)
    use_common_kernels(listing)
    assert os.environ.get(VARIABLE) == chosen
    assert os.environ.get(ONEDNN) == (chosen and chosen.upper())


def test_a_system_without_the_listing_keeps_its_default(tmp_path: Path, unset: pytest.MonkeyPatch) -> None:
    """Such as macOS."""
    use_common_kernels(tmp_path / "absent")
    assert VARIABLE not in os.environ


def test_the_users_choice_of_one_library_holds(tmp_path: Path, unset: pytest.MonkeyPatch) -> None:
    """Of oneDNN, where torch's own kernels are not chosen."""
    listing = tmp_path / "cpuinfo"
    listing.write_text(NEW)
    unset.setenv(ONEDNN, "SSE41")
    use_common_kernels(listing)
    assert (os.environ[VARIABLE], os.environ[ONEDNN]) == ("avx2", "SSE41")


def test_the_users_choice_holds(tmp_path: Path, unset: pytest.MonkeyPatch) -> None:
    """Even the kernels that are not the common ones."""
    listing = tmp_path / "cpuinfo"
    listing.write_text(NEW)
    unset.setenv(VARIABLE, "avx512")
    use_common_kernels(listing)
    assert os.environ[VARIABLE] == "avx512"


@pytest.mark.parametrize("before", ["pass", "torch.ones(3).sum()"])
def test_child_processes_use_the_kernels_of_their_parent(tmp_path: Path, before: str) -> None:
    """Torch chooses at its first sum; a parent that computed before the choice must not have children with other digits."""
    code = f"import os, torch; {before}; import bench; print(torch.backends.cpu.get_cpu_capability(), os.environ.get({VARIABLE!r}))"
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, ONEDNN)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    used, passed_on = done.stdout.split()
    if passed_on == "None":
        pytest.skip("the processor has no AVX512")
    assert passed_on == used.lower()
    assert used == ("AVX2" if before == "pass" else "AVX512")


def test_a_new_processor_with_old_kernels_is_the_same_environment_as_an_old_one() -> None:
    """A run's id must not tell them apart, but must where kernels differ."""
    old = {"cpu_capability": "AVX2", "variables": {ONEDNN: None}}
    new = {"cpu_capability": "AVX2", "variables": {ONEDNN: "AVX2"}}
    mixed = {"cpu_capability": "AVX512", "variables": {ONEDNN: "AVX2"}}
    assert numeric_environment(old) == numeric_environment(new)
    assert numeric_environment(mixed)[ONEDNN] == "AVX2"
