"""Benchmark deep equilibrium models against explicit networks: a suite becomes records, records become tables, figures and a page.

    from bench import Comparison, ComponentConfig, ModelEntry, TrainConfig     # to write a suite
    import bench; bench.run("suite.py"); runs = bench.load(); bench.write_report()

A run exists if and only if its record exists; running a suite executes only what is missing; reports are functions of the records.
Each package imports those after its arrow, and what these import:

    records                                   specs, records, identities, the results folder; no torch
    suites       <- records                   the suites of this package
    tasks        <- records                   copy memory, languages of known entropy, text
    instruments  <- records                   meters of time, memory and energy; probes; the machine lock
    training     <- tasks, instruments        one run: model, trainer, evaluation, checkpoint
    execution    <- training, suites          many runs: plan, coordinator, engines
    analysis     <- records                   data frames, statistics, tables
    report       <- analysis                  Markdown, LaTeX, CSV, figures
    memory       <- training, suites, report  a training step's bytes on fake tensors
    peers        <- training                  comparison with other libraries
    perf_gate    <- execution                 comparison with accepted counts and an older revision
    conformance  <- memory                    the contract of a user's cell, model, solver or task
    studies      <- execution, report         measurements of small trained models
    claims       <- memory                    the paper's claims, judged
    report.html  <- claims, peers             one page of all results
    cli          <- all                       the command line
    examples     <- this module, tasks        a cell, solver, model, task and suite to copy
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.records.kernels import use_common_kernels
from bench.records.source_code import install

if TYPE_CHECKING:
    from bench.analysis.frame import load
    from bench.execution.run_suite import run
    from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Recipe, RunSpec, TrainConfig
    from bench.report.report import write_report

use_common_kernels()
install()

__all__ = ["Comparison", "ComponentConfig", "ModelEntry", "Recipe", "RunSpec", "TrainConfig", "load", "run", "write_report"]
_MODULES = {"load": "bench.analysis.frame", "run": "bench.execution.run_suite", "write_report": "bench.report.report"}


def __getattr__(name: str) -> Any:  # `import bench` stays fast: pandas takes half a second, torch more
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "bench.records.spec")), name)
