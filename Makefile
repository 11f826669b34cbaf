# `make help` lists the targets. Everything is installed from PyPI into .venv; g++, make, perl and ar have to be there.

PYTHON ?= $(firstword $(foreach python,python3.11 python3 python3.12 python3.13,\
	$(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
PYTEST_FLAGS ?= -n 2 --dist worksteal --durations=15

BIN := .venv/bin
# A changed pyproject.toml or setup.py installs anew, also after a checkout that sets old times.
STAMP := .venv/installed-$(shell cat pyproject.toml setup.py | cksum | cut -d' ' -f1)

.PHONY: help setup run test test-full check installed bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## the demo and AlexNet CONV3 on eyeriss: simulate, compare, print the tables
	$(BIN)/rowmesh run eyeriss demo
	$(BIN)/rowmesh run eyeriss alexnet --layer CONV3

check: $(STAMP) ## lint, formatting, types and plain documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tests/prose.py

test: check ## check, then all tests but the slow ones
	$(BIN)/pytest -m "not slow" $(PYTEST_FLAGS)

test-full: check ## check, then all tests
	$(BIN)/pytest $(PYTEST_FLAGS)

installed: $(STAMP) ## install the built wheel into an empty environment, and run the demo from another folder
	$(BIN)/python tests/package/installed.py

bench: $(STAMP) ## simulation speed, and clock and area of a 4 x 4 array in an ECP5
	$(BIN)/python bench/run.py

setup: $(STAMP) ## only install into .venv

$(STAMP): pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "rowmesh needs Python 3.11 or newer: install it, or give make PYTHON=path" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install python3-venv" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@rm -f .venv/installed-*
	@touch $@

clean: ## remove the environment and everything that was built
	rm -rf .venv build out *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
