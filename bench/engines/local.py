"""Runs on this machine: a fresh process each, forked from a server that has torch imported and has computed nothing."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from bench.engines.worker import work
from bench.environment import environment
from bench.errors import UserError
from bench.record import Record
from bench.spec import Spec

Watch = Callable[[Spec, int, int, float | None], None]


def execute(
    specs: Sequence[Spec], *, suite: str, data: Mapping[str, Path], jobs: int, watch: Watch = lambda *_: None
) -> Generator[Record, None, None]:
    """Run the specs, `jobs` at a time, and yield each Record as it is done; a process that dies is a Record too.

    Timings take the machine to themselves (`bench.machine`), whatever `jobs` is. Closing the iterator ends the runs under way.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.engines.worker"])
    waiting = list(specs)
    running: dict[Connection, tuple[Spec, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, spec.model_dump_json(), suite, dict(data), min(jobs, len(specs)))
                process: BaseProcess = context.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                running[ours] = (spec, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                record = _listen(ready, *running[ready], suite, watch)
                if record is not None:
                    spec, process = running.pop(ready)
                    process.join()
                    ready.close()
                    yield record
    finally:
        for _, process in running.values():
            process.kill()
        for pipe, (_, process) in running.items():
            process.join()
            pipe.close()


def _listen(pipe: Connection, spec: Spec, process: BaseProcess, suite: str, watch: Watch) -> Record | None:
    """Take one message; the Record if it was the last, None if the run goes on."""
    try:
        kind, *content = pipe.recv()
    except (EOFError, OSError):
        process.join()
        return _dead(spec, process.exitcode, suite)
    if kind == "step":
        watch(spec, *content)
        return None
    if kind == "error":
        raise UserError(content[0])
    return Record.model_validate_json(content[0])


def _dead(spec: Spec, code: int | None, suite: str) -> Record:
    why = f"the process ended with status {code} and no record"
    if code is not None and code < 0:
        name = str(-code)
        with suppress(ValueError):
            name = signal.Signals(-code).name
        why = f"killed by {name}" + (" (the kernel does this when memory runs out)" if code == -signal.SIGKILL else "")
    return Record(
        run_id=spec.run_id, suite=suite, spec=spec, status="crashed", why=why, environment=environment("cpu", spec.threads)
    )
