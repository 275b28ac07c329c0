# The project's door. `make help` lists what it opens.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-slow test-gpu lint format lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv from requirements.lock (once)

setup-dev: $(VENV)/.ready-dev ## the same with the tools of tests and linting

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed and $(PYTHON) is another; call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python requirements.lock pyproject.toml
	@echo "Installing the packages of requirements.lock (about 7 GB with torch and CUDA; some minutes)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.lock
	@touch $@

demo: setup ## run the main job on real faces and name the report
	$(BIN)/marlin demo

test: setup-dev ## the test suite, in JOBS processes (at most 15 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu" -n $(JOBS) --dist loadfile

test-slow: setup-dev ## tests that kill processes or start several hosts; those of single modules in JOBS processes
	OMP_NUM_THREADS=1 $(PYTEST) -m "slow and not gpu" --timeout 1200 -n $(JOBS) --dist loadfile tests/unit tests/numerics
	$(PYTEST) -m "slow and not gpu" --timeout 1200 --ignore tests/unit --ignore tests/numerics

test-gpu: setup-dev ## tests that need a CUDA device
	$(PYTEST) -m gpu; status=$$?; [ $$status -ne 5 ] || { echo "there is no GPU test to run"; exit 0; }; exit $$status

lint: setup-dev ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup-dev ## write both lock files from what .venv has
	$(BIN)/python -m infra.lock

clean: ## remove the virtual environment and everything that runs made
	rm -rf $(VENV) work runs
