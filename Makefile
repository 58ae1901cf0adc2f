# The two commands of README.md, and what CI adds to them. Everything happens in .venv.
PYTHON ?= python3
BIN := .venv/bin
# Two files of tests at a time; a file's tests stay together, with the servers that they start.
SHARED_OUT := -n 2 --dist loadfile
.DEFAULT_GOAL := help
.PHONY: help demo test unit soak lint types docs docs-check clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jurybox needs Python 3.11 or newer; found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed ## the whole job on the embedded default
	$(BIN)/jurybox demo

test: .venv/installed ## every test that this machine can run
	$(BIN)/python -m pytest $(SHARED_OUT)

unit: .venv/installed ## the quick tests
	$(BIN)/python -m pytest $(SHARED_OUT) tests/unit tests/property

soak: .venv/installed ## kills, storms, budgets and plans at full counts, junk for ten minutes: over an hour
	JURYBOX_SOAK=1 $(BIN)/python -m pytest -s tests/integration/test_kills.py tests/integration/test_storm.py \
		tests/integration/test_plan.py tests/unit/test_runner.py
	$(BIN)/python -m tests.raw_replies --minutes 10

lint: .venv/installed ## ruff: rules and format; who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: .venv/installed ## pyright, strict
	$(BIN)/pyright

docs: .venv/installed ## write the generated pages again
	$(BIN)/python docs/generate.py

docs-check: .venv/installed ## fail when a generated page is stale
	$(BIN)/python docs/generate.py --check

clean: ## remove the environment and the runs
	rm -rf .venv runs
