"""Engines execute jobs: `local` on this machine, each run in a process of its own; `ray` on many; `inline` in this process.

engine.py    the contract: submit, wait, stop, close
worker.py    what a process does with a job
preload.py   what the server that forks such processes imports: none of the user's code
process.py   one such process, watched: its messages, its limits, its end
local.py     so many of them at a time
"""
