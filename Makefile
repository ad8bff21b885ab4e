# make demo | lint | check | test | test-all | test-faults | bench | docs: each complete on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo lint check test test-all test-faults audit format options schemas results bench clean gpu docs reference tutorials notebooks

demo: $(VENV)/.installed
	$(BIN)/weitiao compare recipes/demo.yaml

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src

# Three processes for two cores (WORKERS), a thread each: most of a test is starting things and waiting for them.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SPREAD := -n $(WORKERS) --dist worksteal

# While one writes: what neither trains nor starts a process.
check: lint
	$(PYTEST) $(SPREAD) -m "not beyond_check and not beyond_test"

# FAULTS=few: some of the kills; test-faults tries them all.
test: $(VENV)/.installed-dev
	FAULTS=few $(PYTEST) $(SPREAD) -m "not beyond_test"

test-all: $(VENV)/.installed-dev $(VENV)/.installed-docs
	$(PYTEST) $(SPREAD)

# Kills, full disks, broken files, doubled runs: minutes, and a table of what was tried and what was lost.
test-faults: $(VENV)/.installed-dev
	FAULTS_TO=benchmarks/results/faults.json $(PYTEST) -m fault
	$(BIN)/python benchmarks/faults_page.py

# Known vulnerabilities in the pinned versions. Its service is on the network: where that is out of reach it says so and
# passes, and a finding fails.
audit: $(VENV)/.installed-dev
	$(BIN)/python tests/audit.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

options: $(VENV)/.installed
	$(BIN)/python tools/options_pages.py
	$(BIN)/python -m weitiao.converting.page > docs/migrate.md

schemas: $(VENV)/.installed
	$(BIN)/python -m weitiao.schemas docs/schemas

# The documentation as a site in site/, which opens from the folder.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.installed-dev
	$(BIN)/python tools/reference_pages.py

# make tutorials TUTORIALS="reviews chat" runs these anew; without it the kept output is put into the pages.
tutorials: $(VENV)/.installed-dev
	$(BIN)/python tools/tutorials.py $(TUTORIALS)

# Executes the notebooks and keeps their output.
notebooks: $(VENV)/.installed-docs
	$(BIN)/python tools/notebooks.py

results: $(VENV)/.installed
	$(BIN)/python benchmarks/readme.py
	$(BIN)/python benchmarks/page.py > docs/RESULTS.md

# On a machine with a CUDA GPU, within 8 minutes; elsewhere it says so. GPU_PYTHON=python3 where torch is installed already.
GPU_PYTHON ?= $(BIN)/python
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.installed)
	$(GPU_PYTHON) benchmarks/gpu.py $(GPU)

# Hours on two cores; stopped and started again, it goes on. Parts of it: make bench BENCH="--only article tuned"
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py $(BENCH)

# Without bytecode: of 19,000 files a run imports a tenth, and Python compiles what it imports.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# torch first and alone: its pinned release takes the CPU build where an index offers one.
$(VENV)/.torch: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch
	$(INSTALL) --editable ".[dev]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.torch
	$(INSTALL) --editable ".[bench]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.torch
	$(INSTALL) --editable ".[docs]"
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) runs site
