# One command a task. Everything that is made goes below build/.

BUILD := $(CURDIR)/build
VENV := $(BUILD)/venv
PYTHON := $(VENV)/bin/python3
PREFIX ?= /usr/local
# Debian's own interpreter: ordinary users can run it, and it starts several times faster than one built with debug paths.
SYSTEM_PYTHON ?= /usr/bin/python3
IMAGE ?=
FUZZ_SECONDS ?= 4
PROFILE ?= iops:500
LOADTEST := $(PYTHON) -m loadtests run --profile $(PROFILE)

export CARGO_TARGET_DIR := $(BUILD)/cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)

RUST_SOURCES := $(shell find rust -path rust/fuzz -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi') pyproject.toml

.PHONY: help build run test test-rust test-python faults-full fuzz fuzz-long audit lock conformance
.PHONY: bench bench-full bench-pull bench-parts loadtest loadtest-full lint format deps install clean

help: ## Show this text
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: $(BUILD)/bin/grootfs $(BUILD)/.wheel $(BUILD)/lib/groot_fast/venv $(BUILD)/bin/drax ## Build build/bin/grootfs and build/bin/drax

deps: ## Install what the build and the tests need (Debian packages)
	./scripts/install-deps

$(VENV)/.stamp: requirements.txt requirements-otel.txt requirements-loadtest.txt requirements-dev.txt | deps-once
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

.PHONY: deps-once
deps-once:
	@./scripts/install-deps --if-missing

$(BUILD)/.wheel: $(RUST_SOURCES) $(PYTHON_SOURCES) README.md $(VENV)/.stamp
	rm -rf $(BUILD)/wheels
	$(VENV)/bin/maturin build --quiet --release --locked --interpreter $(PYTHON) --out $(BUILD)/wheels
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(BUILD)/wheels/*.whl
	@touch $@

# Where the command looks for the Python program, from its own directory.
$(BUILD)/lib/groot_fast/venv: $(VENV)/.stamp
	@mkdir -p $(@D)
	ln -sfn ../../venv $@

$(BUILD)/bin/grootfs: $(RUST_SOURCES) $(VENV)/.stamp
	cargo build --quiet --release --locked -p groot-cli
	@mkdir -p $(@D)
	install -m 0755 $(CARGO_TARGET_DIR)/release/grootfs $@

$(BUILD)/bin/drax: $(RUST_SOURCES) $(VENV)/.stamp
	cargo build --quiet --release --locked -p drax
	@mkdir -p $(@D)
	install -m 0755 $(CARGO_TARGET_DIR)/release/drax $@

run: build ## Make a store below build/, create an image (IMAGE=...), run a command in it with runc
	./scripts/run-example "$(IMAGE)"

test: lint test-rust test-python ## Run all tests (root)

test-rust: $(VENV)/.stamp ## Run the tests of the Rust crates
	cargo test --quiet --locked --workspace

test-python: build ## Run the Python tests against the built command (root)
	$(PYTHON) -m pytest tests

fuzz: ## Fuzz each target for some seconds (FUZZ_SECONDS)
	./scripts/fuzz $(FUZZ_SECONDS)

fuzz-long: ## Fuzz each target for twenty minutes
	./scripts/fuzz 1200

audit: $(VENV)/.stamp ## Hold the dependencies against advisories, licenses and sources (says so where a database is out of reach)
	./scripts/audit

lock: ## Write requirements*.txt, with hashes, from requirements*.in
	./scripts/lock

faults-full: build ## Interrupt commands at every system call and disk write (root, hours); POINTS='-k killed' for a part
	$(PYTHON) -m pytest tests/faults --full --timeout 3600 $(POINTS)

conformance: build ## Run the conformance suite where it stands beside the project
	GROOTFS_BIN=$(BUILD)/bin/grootfs $(PYTHON) -m pytest -p no:cacheprovider ../shared/conformance

COMPARE = PYTHONPATH=benchmarks $(PYTHON) -m compare --images "$(or $(IMAGES),$(error IMAGES=DIR is needed: a directory of OCI layouts))" $(PEERS)

bench: build ## Compare with peers in a few minutes (IMAGES=DIR, PEERS="--peer NAME=PATH"; root)
	$(COMPARE) --plan short

bench-full: build ## The whole comparison, about half an hour (as bench)
	$(COMPARE) --plan full

bench-pull: build ## Creates from a registry against creates from a layout, and many at once (as bench)
	$(COMPARE) --plan pull

bench-parts: build ## Measure the core's parts (IMAGES=DIR; root)
	$(PYTHON) -m pytest benchmarks --images "$(or $(IMAGES),$(error IMAGES=DIR is needed: a directory of OCI layouts))"

loadtest: build ## Two minutes of a cell's load and a verdict below build/loadtests/ (root; PROFILE=unlimited without cgroup v1)
	$(LOADTEST) --images 200 --concurrency 32 --with-quota --out $(BUILD)/loadtests/storm
	$(LOADTEST) --shape evacuation --images 100 --concurrency 8 --with-quota --parallel-clean --push-every 5 \
		--duration 60 --out $(BUILD)/loadtests/evacuation

loadtest-full: build ## Storms at 100, 500, 3000 IOPS and unlimited beside buildah, then 20 minutes of soak (root, buildah)
	./loadtests/full $(BUILD)

lint: $(VENV)/.stamp $(BUILD)/.wheel ## Check format, lints and types
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	$(VENV)/bin/ruff check python tests benchmarks loadtests
	$(VENV)/bin/ruff format --check python tests benchmarks loadtests
	$(VENV)/bin/mypy

format: $(VENV)/.stamp ## Format all sources
	cargo fmt --all
	$(VENV)/bin/ruff format python tests benchmarks loadtests
	$(VENV)/bin/ruff check --fix python tests benchmarks loadtests

install: build ## Install below PREFIX (OTEL=1: with OpenTelemetry)
	./scripts/install-files $(PREFIX) $(BUILD)

clean: ## Remove build/ (unmounts the example store first)
	./scripts/run-example --remove
	rm -rf $(BUILD)
