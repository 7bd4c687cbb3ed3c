"""`python -m bench check FILE.py`: test a user's cell, model, solver or task against the contract of its kind.

A contract is a list of checks: `cells.CELL`, `models.MODEL`, `solvers.SOLVER`, `tasks.TASK`; those that cells and models share are
in common.py. A check is a function of a Subject that returns a Result, and its docstring is the rule and the usual remedy.
"""
