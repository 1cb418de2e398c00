# Two commands are enough:
#   make demo    the whole flow on a private, real Asterisk
#   make test    everything CI runs
# A fresh Debian 12 or 13 needs nothing but make and git before; packages are installed when this runs as root.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports check bench docs clean

PYTHON ?= python3
BIN := .venv/bin
export PYTHON

# Branch coverage that is reached today, minus one; it goes up with the code, never down.
COVERAGE := 94

help:
	@echo "make demo    see it work: a real Asterisk, two tenants, a proof, a fault, a recovery"
	@echo "make test    everything CI runs: lint, types, import contracts, all tests, coverage"
	@echo "make lint    ruff, mypy and the import contracts only"
	@echo "make bench   the measured figures of this machine"
	@echo "make docs    write the generated reference anew"
	@echo "make clean   remove what these targets made here (the lab stays: voxtractl lab down --purge --all)"

demo: .venv/runtime
	$(BIN)/voxtractl demo

test: .venv/dev lint
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERAGE)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	$(BIN)/python -m tests.bench

docs: .venv/dev
	$(BIN)/python -m tests.tools.reference

clean:
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment: made once, brought up to date when pyproject.toml changes -----------------------

.venv/bin/python: | .ci/packages
	.ci/packages run
	$(PYTHON) -m venv .venv

.venv/runtime: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	.ci/packages test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/runtime
