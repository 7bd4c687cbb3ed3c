# Everything a user types. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
REF    ?= HEAD~1
# Ten benchmarks: short enough for 20 rounds in the gate's time
ONLY   ?= training_step and transformer-xl or cheap_map and 64 or explicit_network and (lstm or tcn)
PY     := $(VENV)/bin/python
# pytest keeps its rewritten tests in bytecode files: 10 seconds a process
PYTEST := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(PY) -m pip install --progress-bar on --constraint constraints.txt --editable
# What is installed: to run, to change code, and with Ray
READY  := $(VENV)/.ready
DEV    := $(VENV)/.dev
RAY    := $(VENV)/.ray

.DEFAULT_GOAL := help
.PHONY: help setup reproduce reproduce-small reproduce-speed reproduce-copy reproduce-memory reproduce-gpu params report test test-fast test-all check format perf-check compare-peers bench doctor clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY)  ## create .venv with the pinned packages that running needs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing torch and what running needs into $(VENV): 1 to 4 minutes'
	$(INSTALL) .
	touch $@

$(DEV): $(READY)
	$(INSTALL) '.[dev]'
	touch $@

$(RAY): $(DEV)
	$(INSTALL) '.[dev,ray]'
	touch $@

reproduce: $(READY)  ## train three of suite smoke's five seeds into results/reproduced/ and print the tables (5 to 8 minutes)
	$(PY) -m bench run smoke --seeds 0-2 --device cpu --results results/reproduced

reproduce-small: $(READY)  ## train the whole family into results/reproduced/ (5 hours); without a network: DATA="--data tinyshakespeare=FILE"
	$(PY) -m bench run small --device cpu --results results/reproduced $(DATA)

reproduce-speed: $(READY)  ## time to equal quality, DEQ and explicit networks, into results/reproduced/ (5 hours, one run at a time); DATA as above
	$(PY) -m bench run speed --device cpu --jobs 1 --results results/reproduced $(DATA)

reproduce-copy: $(READY)  ## copy memory at the size of the paper's table 1, T=400, into results/reproduced/ (6 hours by estimate)
	$(PY) -m bench run copy --device cpu --results results/reproduced

reproduce-memory: $(READY)  ## the paper's memory figures on fake tensors, into results/reproduced/memory/ (6 minutes, no GPU)
	$(PY) -m bench memory --suite paper --out results/reproduced/memory

reproduce-gpu: $(READY)  ## what only a GPU can measure, into results/reproduced/gpu/ (a budget of 9 minutes, resumable); DATA as above for ptb
	$(INSTALL) '.[dev,peers]'
	$(PY) -m bench gpu --results results/reproduced/gpu $(DATA)

params: $(READY)  ## count the parameters of the paper's models, next to what it prints
	$(PY) -m bench params paper

report: $(READY)  ## write tables, figures, claims and results/report.html from the records in results/runs
	$(PY) -m bench report
	$(PY) -m bench claims
	$(PY) -m bench page

test: $(RAY)  ## run the tests, two files at a time, then those that measure time (4 to 8 minutes on two cores)
	$(PYTEST) $(PARALLEL) -m 'not alone and not exhaustive'
	$(PYTEST) -m 'alone and not exhaustive'

test-fast: $(RAY)  ## run the unit tests: no processes, no training, no traces of whole models
	$(PYTEST) $(PARALLEL) -m 'not alone and not exhaustive and not end_to_end'

test-all: $(RAY)  ## run every test whole: all combinations, 400 examples of each fuzzed property, 50 kills
	DEQ_BENCH_KILLS=50 $(PYTEST) $(PARALLEL) --hypothesis-profile=whole -m 'not alone'
	$(PYTEST) -m alone

check: $(DEV)  ## check format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(DEV)  ## format, and fix what lint can fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

perf-check: $(DEV)  ## fail if this code counts or takes more than REF (default: the commit before); more options: GATE="..."
	$(PY) -m bench gate --against $(REF) --only '$(ONLY)' $(GATE) || test $$? -eq 3  # 3: the times do not decide

compare-peers: $(READY)  ## compare our solvers with TorchDEQ's in one process: time, steps, memory (12 minutes)
	$(INSTALL) '.[dev,peers]'
	$(PY) -m bench peers

bench: $(DEV)  ## run the micro-benchmarks of solvers, cells and training steps
	$(PY) -m pytest tests/benchmarks --benchmark-enable --benchmark-only

doctor: $(READY)  ## show which instruments work on this machine
	$(PY) -m bench doctor

clean:  ## remove .venv and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
