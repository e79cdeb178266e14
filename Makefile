# Every target sets up what it needs: a virtual environment in .venv, the project and its distributions.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help test lint demo bench clean

help:
	@echo "make demo   draw images, fit, predict, evaluate, report; all offline, in ./demo"
	@echo "make test   formatting, lint, types, import layers, tests"
	@echo "make lint   the same without the tests"
	@echo "make docs   build the documentation site into ./site"
	@echo "make bench  time the kernels beside their references, all sizes: minutes"
	@echo "make bench-peers  time them beside anomalib and faiss, in an environment of its own; see benchmarks/README.md"
	@echo "make bench-compare REF=main  time the fast kernels beside those of another commit; fails if 10 % slower"
	@echo "make bench-family DATA=folder  compare all recipes on a data set"
	@echo "make bench-line DATA=category  measure promised false alarms, updates and memory budgets: half an hour"
	@echo "make bench-gpu  check and time the kernels on a GPU"
	@echo "make clean  remove what these made"

NATIVE := $(wildcard native/*.* native/src/patchcore_native/*.[ch])
PLUGINS := $(patsubst %/,%,$(dir $(wildcard backbones/*/pyproject.toml examples/*/pyproject.toml)))

$(READY): pyproject.toml $(PLUGINS:%=%/pyproject.toml) $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]' $(PLUGINS:%=--editable %)
	@# pip would compile one file after the other.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/python -m pip install --quiet --editable native || echo 'Going on without compiled kernels, more slowly.'
	touch $@

demo: $(READY)
	$(BIN)/patchcore demo --out demo

.PHONY: docs
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --ignore=tests/e2e/test_gate.py
	$(BIN)/python -m pytest tests/e2e/test_gate.py

# The page is tested in Chromium: the machine's, or one that is fetched, where that is possible.
.PHONY: browser
browser: $(READY)
	@for name in $(PATCHCORE_CHROMIUM) chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name >/dev/null && exit; done; \
	[ "$$(id -u)" != 0 ] || deps=--with-deps; \
	timeout 180 $(BIN)/python -m playwright install $$deps chromium >/dev/null 2>&1 \
	  || (apt-get update && apt-get install --yes --no-install-recommends chromium) >/dev/null 2>&1 \
	  || echo 'Going on without a browser: the tests of the page in it are skipped.'

bench: $(READY)
	$(BIN)/python -m pytest benchmarks --full --benchmark-enable --benchmark-only --benchmark-columns=median,iqr,rounds

PEERS := .venv-peers

$(PEERS)/.ready: pyproject.toml backbones/efficientnet_lite/pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet . ./backbones/efficientnet_lite ./native 'anomalib>=2.7' faiss-cpu
	touch $@

.PHONY: bench-compare
bench-compare: $(READY)
	$(BIN)/python -m benchmarks.compare $(REF) $(ARGS)

.PHONY: bench-line
bench-line: $(READY)
	$(BIN)/python -m benchmarks.false_alarms $(DATA)
	$(BIN)/python -m benchmarks.updating $(DATA)
	$(BIN)/python -m benchmarks.memory_budget

.PHONY: bench-family
bench-family: $(READY)
	$(BIN)/python -m benchmarks.family $(DATA) --out .benchmarks/family $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

.PHONY: bench-peers
bench-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) demo dist site .benchmarks .mypy_cache .ruff_cache .pytest_cache
