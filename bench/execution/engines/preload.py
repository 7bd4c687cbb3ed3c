"""Imports of the fork server: all that a run needs, and the digests of the project's code, which every record holds.

None of the user's code, which may raise or hang: that must end one run and not the server. SIGHUP and SIGTERM to the
coordinator's group are ignored here: without the server the coordinator could not tell how its runs end.
"""

import signal

import bench.execution.engines.worker  # noqa: F401
from bench.records.identity import project_code

for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
project_code()
