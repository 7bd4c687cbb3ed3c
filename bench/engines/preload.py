"""What the fork server imports: all that a run needs, and the digests of the project's code, which every record holds.

None of the user's code: it may raise or hang, which must be one run's fate and not the server's. A hang-up of the terminal, or a
polite kill of the coordinator's group, is the coordinator's to pass on: without the server it could not tell how its runs end.
"""

import signal

import bench.engines.worker  # noqa: F401
from bench.identity import project_code

for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
project_code()
