"""The performance gate: what a change does to counted quantities (exactly) and to times (against the code before it, in one job).

counts.py     the exact tier's quantities: parameters, bytes, FLOPs, operators, host syncs, evaluations, data
expected.py   the quantities as they were accepted, compared with those that are found
timing.py     the timing tier: base and head in turns, in fresh processes, from pytest-benchmark's JSON
decide.py     when a difference of times is one
show.py       tables for a terminal, Markdown, JSON, Bencher
cli.py        `python -m bench gate`
"""
