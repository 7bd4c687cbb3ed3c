"""The command line, one file for each group of commands.

Imports every other package; nothing imports it.
"""
