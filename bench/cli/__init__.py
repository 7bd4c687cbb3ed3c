"""The command line, one file for each group of commands.

main.py  the commands and the exit statuses; run.py, inspect.py, report.py, share.py, develop.py, gpu.py  the commands; options.py  what they share
May import every package; only `bench.__main__` imports it.
"""
