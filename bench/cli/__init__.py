"""The command line, one file for each group of commands.

main.py  the commands and the exit statuses; options.py  what they share; the other files: the commands
May import every package; only `bench.__main__` imports it.
"""
