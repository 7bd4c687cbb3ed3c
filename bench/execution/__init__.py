"""Execute many runs: the plan of a suite, the coordinator, the engines, and what is known of runs that have no record yet.

plan.py, coordinator.py          which runs a suite needs; execute those that have no record
job.py, attempts.py              one run to execute; its files, and the record of one whose process died
engines/                         where runs execute: local, inline, ray
parameter_matching.py, parameter_table.py  models of equal size; the paper's counts against ours
May import records, tasks, instruments, training and suites.
"""
