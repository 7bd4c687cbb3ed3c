"""The harness: suites of specs become records, records become tables and figures.

    suite (list of RunSpec, Comparison) -> Plan -> run(spec) -> Record (one JSON file) -> tables, figures

    bench -> baselines -> deq -> torch        each imports what is to its right, never to its left

Nothing flows back. A run exists if and only if its record exists; running a suite again does only what is missing; reports are pure
functions of records.

    spec.py         RunSpec: all that decides a run's numbers, its id the hash of that; Comparison: models on equal terms
    catalog.py      the literal registries of models and tasks; settings checked against signatures
    model.py        embedding, Core and head, with dropout, tied or adaptive (adaptive.py) where a model asks for it
    recipe.py       applies a training recipe: shallow pre-training, schedules of tolerance, cap and Jacobian weight
    presets.py      recipes with a name;
    budget.py       equal parameters: the width (or another size) that comes nearest to a count
    params.py       how many parameters the models of a suite have, beside what the paper prints
    suite_loading.py  a suite by its name or from a file
    plan.py         a suite's specs: learning-rate trials, then final runs at the rate the trials chose
    coordinator.py  executes the runs that have no record, writes each record as it comes
    engines/        where runs execute: local (a process each), inline, ray (many machines); spread.py: torchrun
    sources.py identity.py  the code as imported, and its digest in a run's id: an edit during a matrix makes no id false
    run.py          one run: build, train, evaluate, probe, record; context.py: what these steps share
    loop.py evaluation.py  the training loop, and the score of a split
    tasks/          copy memory, languages of known entropy, any text: published.py fetches, splits.py, tokens.py read it
    meters.py nvml.py telemetry.py    passive: clocks, memory, energy, what the solvers did
    probes.py flops.py measuring.py   intrusive, on steps of their own after training: bytes, FLOPs, step times
    machine.py      timings have the machine to themselves
    record.py       the record and its file; compact.py: many of them in little memory
    startup.py      the command line's streams and exits
    frame.py        records as pandas data frames: `bench.load(results)`
    report.py       tables, figures and results/README.md from records; columns.py grid.py tables.py probe_tables.py
                    figures.py plots.py statistics.py: its parts
    escape.py console.py    text of records and users made safe to show, in every format and on the terminal
    side_file.py    records next to the runs: read and written with a digest
    quality.py      time to the tied network's final loss, from the curves; quality_table.py: its table and figure
    peers/          solvers beside other implementations', baselines and harness beside plain torch
    memory/         a training step's bytes on fake tensors: the paper's memory column, laws, cost; on a GPU for real
    claims/         the paper's claims, judged by records; studies/: trained models measured closely, for them
    page/           one self-contained HTML page of all results, and explain: where a number comes from
    check/          the contract that a user's own cell, model, solver or task is held to
    gate/           whether a change made anything worse: counts against accepted ones, times against the code before
    corpora.py      NAME=PATH of the command line
    doctor.py       which instruments work here
"""

from typing import TYPE_CHECKING, Any

from bench.records.source_code import install

if TYPE_CHECKING:
    from bench.analysis.frame import load

install()

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported when it is asked for: pandas takes half a second
        from bench.analysis.frame import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
