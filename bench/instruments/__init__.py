"""Passive meters (clocks, memory, energy, solver statistics) and intrusive probes.

Imports records.
"""
