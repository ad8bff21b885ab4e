# make demo | test | test-all | test-faults | check | bench: each complete on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-all test-faults check audit format options schemas results bench clean

demo: $(VENV)/.installed
	$(BIN)/weitiao compare recipes/reviews-compare.yaml

# Three processes for two cores (WORKERS), a thread each: most of a test is starting things and waiting for them.
# FAULTS=few: some of the kills; test-faults tries them all. test-all: the long ones too.
test: $(VENV)/.installed-dev
	FAULTS=few HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long"

test-all: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Kills, full disks, broken files, doubled runs: minutes, and a table of what was tried and what was lost.
test-faults: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m fault

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src
	$(MAKE) audit
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow and not long"

# Known vulnerabilities in the pinned versions. Its service is on the network: where that is out of reach it says so and
# passes, and a finding fails.
audit: $(VENV)/.installed-dev
	$(BIN)/python tests/audit.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

options: $(VENV)/.installed
	$(BIN)/python -m weitiao.config.options > docs/options.md

schemas: $(VENV)/.installed
	$(BIN)/python -m weitiao.schemas docs/schemas

results: $(VENV)/.installed
	$(BIN)/python benchmarks/page.py > docs/RESULTS.md

# Hours on two cores; stopped and started again, it goes on. Parts of it: make bench BENCH="--only article tuned"
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py $(BENCH)

# torch first and alone: its pinned release takes the CPU build where an index offers one.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) runs
