"""Memory of a training step by purpose and phase, on fake tensors: nothing is allocated, so any size fits.

storage_tracker.py, step.py  track the storages of one step
paper.py, scaling.py, cost.py, device.py  the paper's figures, growth with size, arithmetic and traffic, a GPU's own numbers
record.py, tables.py, figures.py  the record and its outputs

Imports records, analysis, tasks, instruments, training, suites.paper and report (figures and formats).
"""
