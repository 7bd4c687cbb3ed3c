"""`python -m bench check FILE.py`: test a user's cell, model, solver or task against the contract of its kind.

A contract is a list of checks: `cells.CELL`, `models.MODEL`, `solvers.SOLVER`, `tasks.TASK`; common.py has those that cells and
models share. A check returns what it found of a Subject, or raises Broken; its docstring is the rule and, below, the remedy.
Imports records, analysis, tasks, training and memory.
"""
