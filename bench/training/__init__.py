"""One run: registry, language model, trainer, evaluation, final probes, checkpoint.

Imports records, tasks and instruments.
"""
