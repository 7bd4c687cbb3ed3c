"""A long temporary folder does not keep the fork server from starting."""

import tempfile
from multiprocessing.connection import Listener
from multiprocessing.process import current_process
from pathlib import Path

import pytest

from bench.execution.engines.process import _shorten_socket_path


@pytest.mark.parametrize("length", [40, 90, 150])
def test_the_fork_servers_socket_can_be_bound_whatever_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = tmp_path / ("x" * max(1, length - len(str(tmp_path))))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(current_process(), "_config", {"authkey": b"", "semprefix": "/mp"})
    _shorten_socket_path()
    with Listener(family="AF_UNIX") as listener:  # where the fork server's is
        assert len(str(listener.address)) <= 107
