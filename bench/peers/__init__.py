"""This library's solvers compared with other implementations, on the same maps in the same process.

problems.py and libraries.py: the maps and the adapters; measure.py: solvers; explicit.py: baselines and harness against plain
torch; show.py: the tables. Imports records, instruments and training.
"""
