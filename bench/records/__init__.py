"""Plain data: specs, records, identities and the folder they lie in.

Imports no torch and no other package of bench.
"""
