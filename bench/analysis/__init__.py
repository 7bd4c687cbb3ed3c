"""Records to numbers: data frames, aggregates, statistics and tables as grids of cells.

Imports records.
"""
