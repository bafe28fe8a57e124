# Each target sets up .venv when needed. Requirements: make and python3 (3.11 or newer).
#
#   make dev      the whole of Everhook on this machine; options: make dev ARGS='--port 9000 --no-demo'
#   make test     the test suite;                        options: make test ARGS='tests/api -k publish';
#                 more Hypothesis examples: EVERHOOK_HYPOTHESIS=thorough make test
#   make check    style, types, import rules, words to avoid
#   make bench    the benchmarks; they write their tables to bench/RESULTS.md
#   make bench-production   the same with API, worker, Temporal and PostgreSQL as separate processes (builds Temporal: needs Go)
#   make bench-large  what a PostgreSQL database with 1,000,000 deliveries costs, and its upgrade from the first schema
#   make client-models   generate the models of the Python client from the OpenAPI document
#   make lock     update the lock files from pyproject.toml
#   make clean    remove .venv and caches; keeps the data of `make dev` (.everhook)

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

TEST_PROCESSES ?= 5

# `make check test` does both at once: the tests often wait, and the checks do not.
MAKEFLAGS += --jobs=2

# Bytecode is kept even where the environment says otherwise: the tests start over a hundred Python processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help dev test check bench bench-large bench-production client-models lock clean

help:
	@sed -n 's/^#   //p' Makefile

dev: $(READY)
	@$(BIN)/python -m cli dev $(ARGS)

# Five processes keep two cores busy: many tests wait, and those that wait run next to those that compute
# (testing/schedule.py).
# A test that fails among them runs once more by itself, since a machine that stands still for seconds fails tests of real
# servers; a second failure counts, and the log shows both. Any other error (a collection, say) counts at once.
# Tests that are marked `alone` measure time, and come last with the machine to themselves.
RUN_FAILED_AGAIN := $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m "not alone"

test: $(READY)
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not alone" || { [ $$? -eq 1 ] && $(RUN_FAILED_AGAIN); }
	$(BIN)/python -m pytest -m alone $$(grep -rlE 'mark\.alone\b' tests --include='test_*.py')
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
# `make test` has these two as well.
ifeq ($(filter test,$(MAKECMDGOALS)),)
	$(BIN)/python -m pytest -q tests/test_layout.py tests/test_language.py
endif

bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

bench-large: $(READY)
	$(BIN)/python -m bench.large $(ARGS)

bench-production: $(READY)
	$(BIN)/python -m bench.production $(ARGS)

client-models: $(READY)
	$(BIN)/python -m testing.client_models

# What hashes pin, and nothing else (`--no-deps`: the lock is complete, and overrides a bound: see pyproject.toml); then
# this checkout and its client, which need no more than that. uv installs in 5 s what takes pip 60; pip stands in where uv
# cannot, for it does not read the configuration of pip (of a company's index, say).
LOCKED := --no-deps --require-hashes --requirement

$(READY): requirements.lock requirements-uv.lock pyproject.toml sdk/python/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here; Everhook needs Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Everhook needs Python 3.11 or newer; \`$(PYTHON)\` is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12 …" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	@echo "Setting up $(VENV) (once; again when requirements.lock changes) …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(LOCKED) requirements-uv.lock
	@$(UV) $(LOCKED) requirements.lock || $(PIP) $(LOCKED) requirements.lock
	@$(UV) --no-deps --no-build-isolation -e sdk/python -e .
	@touch $@

LOCK := $(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links

lock: $(READY)
	$(LOCK) --group dev --all-extras --no-emit-package everhook-client pyproject.toml -o requirements.lock
	$(LOCK) --no-emit-package everhook-client pyproject.toml -o requirements-runtime.lock
	echo uv | $(LOCK) - -o requirements-uv.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
