"""Studies: measurements of small trained models that no suite makes, for claims about solvers and gradients.

config.py sizes; study.py what a study is; models.py trained models; store.py the record; figures.py; every other module is a study.
May import all of bench except claims, report.html and cli.
"""
