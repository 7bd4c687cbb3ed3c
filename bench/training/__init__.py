"""One run, from spec to record: registry, language model, trainer, evaluation, final probes, checkpoint.

`run` builds, trains, evaluates and probes one model; `run_identity` computes what its id depends on; `registry` turns names and
settings into models and tasks. Imports deq, baselines, records, tasks and instruments.
"""
