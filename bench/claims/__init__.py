"""The paper's claims, each with the evidence for it and a verdict.

entries*.py the lists of claims; judges_*.py functions from evidence to parts; claim.py parts to verdicts; hypothesis_tests.py and
parts.py statistics over seeds; copying.py table 1; gradients.py the table of adjoints; cases.py what guide and sentences argue
from; guide.py when to use a DEQ; quotes.py sentences to quote; audit.py fairness of comparisons; tables.py the text.
Imports records, analysis, memory and report's Markdown.
"""
