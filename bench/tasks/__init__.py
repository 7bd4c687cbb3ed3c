"""Tasks: data with a known chance level and, where it can be derived, the optimum. Imports bench.records only.

task.py       base class; copy.py: copy memory
generated.py  base classes of tasks drawn at random: recall.py; of several difficulties: maze.py, state_tracking.py, sudoku.py
language.py   base class of agreement.py and markov.py: languages of known entropy
text.py       any text; corpora.py: published corpora, download.py and unzip.py: their files
splits.py     which file is which split; tokens.py: tokenisation
"""
