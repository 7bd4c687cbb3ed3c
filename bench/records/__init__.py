"""Plain data: specs, records, identities and the results folder.

spec.py  RunSpec, Comparison; record.py  Record and its file; identity.py, source_code.py  what a run id is a hash of; store.py  the
results folder; compact.py  many records in little memory; side_file.py  other JSON results; errors.py, escape.py, file_lock.py
Imports no torch and no other package of bench.
"""
