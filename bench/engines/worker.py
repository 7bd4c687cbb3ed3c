"""What a worker process does: one run, its progress and its record sent up a pipe."""

import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch._dynamo  # noqa: F401  the optimiser imports it lazily, two seconds a process; the fork server holds it for all

from bench.errors import UserError
from bench.run import run
from bench.spec import Spec

__all__ = ["work"]
_EVERY_S = 0.2


def work(pipe: Connection, spec_json: str, suite: str, data: Mapping[str, Path], beside: int) -> None:
    """Run one spec; send ("step", done, total, loss) now and then and ("record", json) or ("error", message) at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    last = 0.0

    def progress(done: int, total: int, loss: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY_S:
            last = time.monotonic()
            _send(pipe, ("step", done, total, loss))

    try:
        record = run(Spec.model_validate_json(spec_json), suite=suite, data=data, beside=beside, progress=progress)
    except UserError as error:
        _send(pipe, ("error", str(error)))
    else:
        _send(pipe, ("record", record.model_dump_json()))


def _send(pipe: Connection, message: tuple[object, ...]) -> None:
    try:
        pipe.send(message)
    except OSError:
        os._exit(1)  # the coordinator is gone: nobody wants the result
