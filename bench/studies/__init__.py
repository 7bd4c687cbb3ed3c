"""Studies: measurements of small trained models that no suite holds, for the claims of the paper about solvers and gradients.

study.py what a study is; config.py sizes of all; models.py their trained models; store.py the record; every other module is a
study. May import anything of bench but claims, report's page and the command line.
"""
