# One definition per task: people, hooks and CI call these.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test demo check bench lock clean

help: ## Print this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/.run ## Serve on 127.0.0.1:8000 (PORT=... changes it)
	@$(BIN)/recto serve --port $(PORT)

test: $(VENV)/.dev ## Run the whole test suite
	$(BIN)/python -m pytest $(TESTS)

demo: $(VENV)/.run ## Start a server, read the scan that ships here, stop it
	@$(BIN)/python docs/demo/demo.py

check: $(VENV)/.dev ## Lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure speed and memory, as ratios in one run
	$(BIN)/python -m tests.bench

lock: ## Pin every dependency anew (versions and hashes, no addresses)
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile $(LOCK_FLAGS) --group build -o requirements.lock pyproject.toml
	$(VENV)-lock/bin/uv pip compile $(LOCK_FLAGS) --group build --group dev -c requirements.lock \
		-o requirements-dev.lock pyproject.toml
	rm -r $(VENV)-lock

clean: ## Remove the environment and caches, keep the data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

LOCK_FLAGS := --extra cpu --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Recto needs Python 3.11 or newer; call make with PYTHON=python3.12, say.")'
	@echo "Making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check uninstall --quiet --yes setuptools
	@touch $@

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/.made
	@echo "Installing pinned packages, once (about a minute) ..."
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "Installing what the tests need, once ..."
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@
