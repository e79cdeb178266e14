# Each target first installs what it needs into a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=loadfile
QUICK := not slow and not e2e and not browser and not gpu

.PHONY: help
help:
	@echo "make demo   run the whole workflow on synthetic images, offline, in ./demo"
	@echo "make test   run lint and all tests"
	@echo "make quick  run the unit tests only: under a minute"
	@echo "make test-without-data  run the tests that use real images without them"
	@echo "make lint   check formatting, lint rules, types and import layers"
	@echo "make docs   build the documentation into ./site"
	@echo "make bench  time the kernels against their references at all sizes: several minutes"
	@echo "make bench-peers  time the kernels against anomalib and faiss; see benchmarks/README.md"
	@echo "make bench-compare REF=main  time the fast kernels against another commit; fails if 10 % slower"
	@echo "make bench-family DATA=folder  compare all recipes on a data set"
	@echo "make bench-line DATA=category  measure false-alarm rates, updates and memory budgets: half an hour"
	@echo "make bench-gpu  check and time the kernels on a GPU"
	@echo "make clean  remove the files that these targets create"

NATIVE := $(wildcard native/*.* native/src/patchcore_native/*.[ch])
PLUGINS := $(patsubst %/,%,$(dir $(wildcard backbones/*/pyproject.toml examples/*/pyproject.toml)))

$(READY): pyproject.toml $(PLUGINS:%=%/pyproject.toml) $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]' $(PLUGINS:%=--editable %)
	@# pip compiles one file at a time.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/python -m pip install --quiet --editable native || echo 'The native kernels were not built: continuing with the slower ones.'
	touch $@

.PHONY: demo
demo: $(READY)
	$(BIN)/patchcore demo --out demo

.PHONY: docs
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.PHONY: lint
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The gate measures times, so it runs alone.
.PHONY: test
test: lint browser
	$(PYTEST) $(PARALLEL) --durations=25 --ignore=tests/e2e/test_gate.py
	$(BIN)/python -m pytest tests/e2e/test_gate.py

.PHONY: quick
quick: $(READY)
	$(PYTEST) $(PARALLEL) -m '$(QUICK)' --ignore=tests/e2e --ignore=tests/integrations tests

.PHONY: test-without-data
test-without-data: $(READY)
	PATCHCORE_TEST_DATA=/nonexistent $(PYTEST) $(PARALLEL) $$(grep --recursive --files-with-matches --include='test_*.py' real_images tests)

# The app is tested in Chromium: the installed one, or one that is downloaded if possible.
.PHONY: browser
browser: $(READY)
	@for name in $(PATCHCORE_CHROMIUM) chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name >/dev/null && exit; done; \
	[ "$$(id -u)" != 0 ] || deps=--with-deps; \
	timeout 180 $(BIN)/python -m playwright install $$deps chromium >/dev/null 2>&1 \
	  || (apt-get update && apt-get install --yes --no-install-recommends chromium) >/dev/null 2>&1 \
	  || echo 'No browser is available: the browser tests are skipped.'

.PHONY: bench
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

.PHONY: clean
clean:
	rm -rf $(VENV) $(PEERS) demo dist site .benchmarks .mypy_cache .ruff_cache .pytest_cache
