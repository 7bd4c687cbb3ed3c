"""The performance gate: does a change make anything worse? Counts are compared exactly, times with the code before it, in one job.

counts.py     what is counted: parameters, bytes, FLOPs, operators, host syncs, evaluations, data
accepted.py   the accepted counts, and how they differ from those found
timing.py     base and head timed alternately, in fresh processes, by pytest-benchmark, and when a difference is significant
show.py       tables for a terminal, Markdown, JSON
cli.py        `python -m bench gate`
"""
