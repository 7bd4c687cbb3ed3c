"""Engines execute jobs: `local` on this machine, each run in a process of its own; `ray` on many; `inline` in this process.

engine.py    the interface: submit, wait, stop, close
worker.py    what a process does with a job; spread.py: a job of several processes, by torchrun
preload.py   what the server that forks such processes imports: none of the user's code
process.py   one such process: its messages, its limits, its end
"""
