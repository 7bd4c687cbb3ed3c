"""Measuring instruments.

Passive meters read clocks, memory, energy and solver statistics around training; probes run steps of their own after it.
`self_test` tries each on a known answer. `machine_lock` and `contention` keep timings apart from other work.
Imports deq, baselines and records.
"""
