"""Worked examples to copy: a cell, a solver, a model, a task, and a suite that compares them. Imports bench and deq.

python -m bench check bench/examples/my_cell.py
python -m bench run bench/examples/my_suite.py
"""
