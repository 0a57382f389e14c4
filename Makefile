# Everything a developer types. `make` alone lists it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NODES ?= 3
PORT ?= 7379
DATA ?= ./data
WORKERS ?= 2

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help run test check lint types unit bench soak fuzz clean setup system-packages

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED) ## a cluster of NODES=3 on this machine, clients at PORT=7379, files in DATA=./data; Ctrl-C stops it
	@exec $(BIN)/raftkv dev --nodes $(NODES) --port $(PORT) --data $(DATA)

# Tests that start processes go to the workers file by file; the rest one by one.
test: setup lint types ## set-up, lint, types and every test, on WORKERS=2 cores
	@$(BIN)/python -m pytest --numprocesses $(WORKERS)

check: $(INSTALLED) lint types unit ## lint, types and unit tests; under a minute

bench: $(INSTALLED) ## raftkv beside etcd and Redis, each started in turn; ARGS="--quick" for a short run
	@$(BIN)/python -m benchmarks.compare $(ARGS)

soak: setup ## the tests that run for minutes
	@$(BIN)/python -m pytest -m soak

fuzz: $(INSTALLED) ## nonsense for every decoder of files: EXAMPLES=20000 random ones for each test
	@RAFTKV_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest tests/unit/test_decoders_fuzz.py

clean: ## remove what was built, installed and measured; DATA stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/.build benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)
	@$(BIN)/mypy

unit: $(INSTALLED)
	@$(BIN)/python -m pytest tests/unit

setup: $(INSTALLED) system-packages

system-packages:
	@tests/setup/system-packages.sh

# The stamp is newer than pyproject.toml when what that file asks for is installed: the second run costs nothing.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
