"""Imports of the fork server: all that a run needs, and the digests of the project's code, which every record holds.

The user's code is not imported: it may raise or hang, which must end one run and not the server. SIGHUP and SIGTERM to the
coordinator's group are ignored, as the coordinator learns from the server how its runs end. The garbage collections of the runs,
many in a probe, leave out what is imported here: it takes 0.2 s each.
"""

import gc
import signal

import bench.execution.engines.worker  # noqa: F401
from bench.records.identity import project_code

for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
project_code()
gc.collect()
gc.freeze()
