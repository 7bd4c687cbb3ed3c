"""Execute jobs: `local` in processes of this machine, `ray` on the machines of a cluster, `inline` in this process.

engine.py    the interface of an engine, and its events
process.py   one run's process, seen from the coordinator; preload.py: imports of the
             server that forks it
worker.py    what that process does with its job; torchrun.py: a job of several processes
May import what bench.execution may import.
"""
