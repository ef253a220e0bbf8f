PYTHON ?= python3
VENV ?= .venv

# Written when an installation is complete. A half-made environment has none, and is made again from nothing; so is
# one whose requirements changed, or that was made at another place or by another Python (its scripts name both).
RUN_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-tests
BENCH_STAMP := $(VENV)/.installed-benchmarks
MADE_BY := $(CURDIR) $(shell $(PYTHON) --version 2>&1)
ifneq ($(MADE_BY),$(shell cat $(RUN_STAMP) 2>/dev/null))
.PHONY: $(RUN_STAMP)
endif

PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
PACKAGES := api worker shared tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help run test lint bench clean

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

run: $(RUN_STAMP) ## start the whole monitor here; Control-C stops it
	@exec $(VENV)/bin/python -m worker.supervisor --with-parent

test: lint ## lint, and run all tests
	$(VENV)/bin/python -m pytest --numprocesses 4 --dist loadfile

lint: $(TEST_STAMP) ## formatting, lint, types and the import rule
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy $(PACKAGES)
	$(VENV)/bin/lint-imports --no-cache

bench: $(BENCH_STAMP) ## measure the monitor beside others; writes benchmarks/results.json and results.svg
	$(VENV)/bin/python -m benchmarks all --json benchmarks/results.json --picture benchmarks/results.svg

clean: ## remove the virtual environment and caches; keeps data/
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(RUN_STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "http-monitoring needs Python 3.11 or newer ($(PYTHON) is not); try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "making $(VENV) with the packages of requirements.txt (once)"
	@rm -f $(RUN_STAMP) $(TEST_STAMP) $(BENCH_STAMP)
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --requirement requirements.txt
	@echo "$(MADE_BY)" > $@

$(TEST_STAMP): $(RUN_STAMP) tests/requirements.txt
	@echo "adding the packages of tests/requirements.txt (once)"
	@rm -f $@
	@$(PIP) --requirement requirements.txt --requirement tests/requirements.txt
	@touch $@

$(BENCH_STAMP): $(RUN_STAMP) benchmarks/requirements.txt
	@echo "adding the packages of benchmarks/requirements.txt (once)"
	@rm -f $@
	@$(PIP) --requirement requirements.txt --requirement benchmarks/requirements.txt
	@touch $@
