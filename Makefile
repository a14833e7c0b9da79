# One command a task. Everything that is made goes below build/.

BUILD := $(CURDIR)/build
VENV := $(BUILD)/venv
TOOLS := $(BUILD)/tools/python
PYTHON := $(VENV)/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
# What the environment below build/ is made with; everything else runs what is in that. By default Debian's: ordinary users can run
# it, which they cannot where it lies in root's home.
export SYSTEM_PYTHON ?= /usr/bin/python3
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check
IMAGE ?=
FUZZ_SECONDS ?= 4
PROFILE ?= iops:500
LOADTEST := $(PYTHON) -m loadtests run --profile $(PROFILE)

export CARGO_TARGET_DIR := $(BUILD)/cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)

RUST_SOURCES := $(shell find rust -path rust/fuzz -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print) Cargo.toml Cargo.lock
SHELL_SCRIPTS := .ci/run $(shell grep -lE '^\#!.*sh$$' scripts/*)
PYTHON_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi') pyproject.toml

.PHONY: help build run test test-rust test-python test-unit test-tools test-bare root faults-full fuzz fuzz-long audit lock conformance
.PHONY: bench bench-full bench-pull bench-again bench-parts loadtest loadtest-full lint format deps deps-build deps-test deps-compare
.PHONY: reference install uninstall package test-package try-package clean

help: ## Show this text
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: $(BUILD)/bin/grootfs $(BUILD)/.wheel $(BUILD)/lib/groot_fast/venv $(BUILD)/bin/drax ## Build build/bin/grootfs and build/bin/drax

deps: deps-build deps-test ## Install what building and the tests need (Debian packages; root)

deps-build deps-test deps-compare deps-package: deps-%:
	@./scripts/install-deps $*

root:
	@[ "$$(id -u)" = 0 ] || { echo "this mounts file systems and runs containers: run it as root" >&2; exit 1; }

# What building and running need; the stamp for tests adds what the tests and lints need.
$(VENV)/.stamp: requirements-build.txt | deps-build
	@echo "== build/venv: the Python packages to build and to run"
	@$(SYSTEM_PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements-build.txt
	@touch $@

$(VENV)/.stamp-test: requirements-dev.txt $(VENV)/.stamp | deps-test
	@echo "== build/venv: the Python packages to test"
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

$(BUILD)/.wheel: $(RUST_SOURCES) $(PYTHON_SOURCES) README.md $(VENV)/.stamp
	@echo "== the core and the Python package"
	@# Else maturin prints a line for each crate.
	@cargo fetch --quiet --locked
	@rm -rf $(BUILD)/wheels
	@$(VENV)/bin/maturin build --quiet --release --locked --interpreter $(PYTHON) --out $(BUILD)/wheels
	@$(PIP) install --no-deps --force-reinstall $(BUILD)/wheels/*.whl
	@touch $@

# Where the command looks for the Python program, from its own directory.
$(BUILD)/lib/groot_fast/venv: $(VENV)/.stamp
	@mkdir -p $(@D)
	@ln -sfn ../../venv $@

$(BUILD)/bin/grootfs: $(RUST_SOURCES) $(VENV)/.stamp
	@echo "== build/bin/grootfs"
	@cargo build --quiet --release --locked -p groot-cli
	@mkdir -p $(@D)
	@install -m 0755 $(CARGO_TARGET_DIR)/release/grootfs $@

$(BUILD)/bin/drax: $(RUST_SOURCES) $(VENV)/.stamp
	@echo "== build/bin/drax"
	@cargo build --quiet --release --locked -p drax
	@mkdir -p $(@D)
	@install -m 0755 $(CARGO_TARGET_DIR)/release/drax $@

# No part of the product: `build` does not make it.
$(BUILD)/bin/groot-throttle: $(RUST_SOURCES) | deps-build
	@echo "== build/bin/groot-throttle"
	@cargo build --quiet --release --locked -p groot-throttle
	@mkdir -p $(@D)
	@install -m 0755 $(CARGO_TARGET_DIR)/release/groot-throttle $@

run: root build ## Make a store below build/, create an image (IMAGE=...), run a command in it with runc
	@./scripts/run-example "$(IMAGE)"

test: root lint test-rust test-python ## Run all tests of the product (root)

test-rust: $(VENV)/.stamp ## Run the tests of the Rust crates
	cargo test --quiet --locked --workspace

test-python: root build $(VENV)/.stamp-test ## Run the Python tests against the built command (root)
	$(PYTHON) -m pytest tests --ignore tests/tools --ignore tests/package

test-unit: root build $(VENV)/.stamp-test ## Run the unit tests alone (root)
	$(PYTHON) -m pytest tests/unit

test-tools: root build $(BUILD)/bin/groot-throttle $(VENV)/.stamp-test | deps-compare ## Run the tests of loadtests/ and benchmarks/ (root)
	$(PYTHON) -m pytest tests/tools

package: build | deps-package ## Make a relocatable tree, a .deb and a folder for BOSH below build/package (docs/newest.md)
	@./scripts/make-package $(BUILD)

test-package: root package $(VENV)/.stamp-test ## Run the tests of the package, and a cell's life with it (root)
	$(PYTHON) -m pytest tests/package

try-package: root package | deps-test ## Try the package in a minimal Debian without a network (root; SUITE=trixie, without it both)
	@for suite in $(or $(SUITE),bookworm trixie); do ./scripts/try-package $$suite $(BUILD) || exit 1; done

test-bare: root | deps-test ## Run both commands of the README in a minimal Debian (root; SUITE=trixie, TARGETS=test for all tests)
	@./scripts/test-bare "$(SUITE)" $(TARGETS)

fuzz: | deps-build deps-test ## Fuzz each target for some seconds (FUZZ_SECONDS)
	./scripts/fuzz $(FUZZ_SECONDS)

fuzz-long: | deps-build deps-test ## Fuzz each target for twenty minutes
	./scripts/fuzz 1200

audit: $(VENV)/.stamp-test $(TOOLS)/.stamp ## Hold the dependencies against advisories, licenses and sources (says so where a database is out of reach)
	./scripts/audit

lock: $(TOOLS)/.stamp ## Write requirements*.txt, with hashes, from requirements*.in
	./scripts/lock

$(TOOLS)/.stamp: requirements-tools.txt $(VENV)/.stamp
	@echo "== build/tools: the Python packages to lock and to audit"
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-tools.txt
	@touch $@

reference: | deps-build ## Write docs/reference.md from the table of options
	WRITE_REFERENCE=1 cargo test --quiet --locked -p groot-cli --test reference

faults-full: build $(VENV)/.stamp-test ## Interrupt commands at every system call and disk write (root, hours); POINTS='-k killed' for a part
	$(PYTHON) -m pytest tests/faults --full --timeout 3600 $(POINTS)

conformance: build $(VENV)/.stamp-test ## Run the conformance suite where it stands beside the project
	GROOTFS_BIN=$(BUILD)/bin/grootfs $(PYTHON) -m pytest -p no:cacheprovider ../shared/conformance

COMPARE = PYTHONPATH=benchmarks:tests $(PYTHON) -m compare --images "$(or $(IMAGES),$(error IMAGES=DIR is needed: a directory of OCI layouts))" $(PEERS)

bench: build $(VENV)/.stamp-test | deps-compare ## Compare with peers in a few minutes (IMAGES=DIR, PEERS="--peer NAME=PATH"; root)
	$(COMPARE) --plan short

bench-full: build $(VENV)/.stamp-test | deps-compare ## The whole comparison, about half an hour (as bench)
	$(COMPARE) --plan full

bench-pull: build $(VENV)/.stamp-test | deps-compare ## Creates from a registry against creates from a layout, and many at once (as bench)
	$(COMPARE) --plan pull

bench-again: build $(VENV)/.stamp-test | deps-compare ## The next release of images, and small layers joined (as bench)
	$(COMPARE) --plan again

bench-parts: build $(VENV)/.stamp-test | deps-compare ## Measure the core's parts (IMAGES=DIR; root)
	$(PYTHON) -m pytest benchmarks --images "$(or $(IMAGES),$(error IMAGES=DIR is needed: a directory of OCI layouts))"

loadtest: build $(BUILD)/bin/groot-throttle $(VENV)/.stamp-test | deps-compare ## Two minutes of a cell's load and a verdict below build/loadtests/ (root; PROFILE=unlimited without FUSE)
	$(LOADTEST) --images 200 --concurrency 32 --with-quota --out $(BUILD)/loadtests/storm
	$(LOADTEST) --shape evacuation --images 100 --concurrency 8 --with-quota --parallel-clean --push-every 5 \
		--duration 60 --out $(BUILD)/loadtests/evacuation

loadtest-full: build $(BUILD)/bin/groot-throttle $(VENV)/.stamp-test | deps-compare ## Storms on seven volumes beside buildah, evacuations, then 20 minutes of soak (root, buildah)
	./loadtests/full $(BUILD)

lint: $(VENV)/.stamp-test $(BUILD)/.wheel ## Check format, lints and types, and the core's stub against the core
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	@# With the flag that its targets are built with, in a place of their own, or each would undo the other's build.
	RUSTFLAGS="--cfg fuzzing" CARGO_TARGET_DIR=$(BUILD)/fuzz/lint \
		cargo clippy --quiet --locked --manifest-path rust/fuzz/Cargo.toml --all-targets -- -D warnings
	$(VENV)/bin/ruff check python tests benchmarks loadtests
	$(VENV)/bin/ruff format --check python tests benchmarks loadtests
	$(VENV)/bin/mypy
	$(PYTHON) -m mypy.stubtest --allowlist python/stubtest-allowlist groot_fast._core
	shellcheck --severity warning $(SHELL_SCRIPTS)

format: $(VENV)/.stamp-test ## Format all sources
	cargo fmt --all
	$(VENV)/bin/ruff format python tests benchmarks loadtests
	$(VENV)/bin/ruff check --fix python tests benchmarks loadtests

install: build ## Install below PREFIX, also over one in use (OTEL=1: with OpenTelemetry; DESTDIR=DIR: below that)
	DESTDIR="$(DESTDIR)" ./scripts/install-files "$(PREFIX)" "$(BUILD)"

uninstall: ## Remove what install put below PREFIX (DESTDIR=DIR: below that)
	DESTDIR="$(DESTDIR)" ./scripts/install-files --remove "$(PREFIX)"

clean: ## Remove build/ (unmounts the example store first)
	./scripts/run-example --remove
	rm -rf $(BUILD)
