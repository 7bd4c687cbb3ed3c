"""The performance gate: compare counts with the accepted ones exactly, and times with those of another revision.

counts.py    parameters, bytes, FLOPs, operators, host syncs, evaluations, data
accepted.py  the accepted counts and their differences
timing.py    base and head timed alternately by pytest-benchmark, and which difference is significant
golden.py    accepted float64 training curves
show.py      the result for a terminal, as Markdown and as JSON

Imports records, tasks, instruments, training and execution.
"""
