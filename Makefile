# Needs make and Python 3.11 or newer; everything else goes into $(VENV).

VENV   ?= .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Folders are listed too: their times change when a file goes away.
SOURCES := pyproject.toml README.md LICENSE $(shell find fleet_rlm_jupyter -name __pycache__ -prune -o -print)
PROXY   := $(VENV)/hub-proxy/node_modules/.bin/configurable-http-proxy
LANES   := $(wildcard tests/unit tests/contract tests/integration tests/docs tests/notebooks)

# PYTHONSAFEPATH keeps the working folder off sys.path, also in the processes that tests start, so what is tested is
# the installed package, as users have it. In a venv of `make dev` that is this tree.
PYTEST := PYTHONSAFEPATH=1 $(BIN)/pytest

# Most tests wait for processes and clocks: three at a time keep two cores busy. A file stays on one worker, since its
# tests share servers; the longest files begin first (tests/conftest.py).
# `make test PARALLEL=` runs them one after the other.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder

# What is compiled once is kept, and not compiled again by each of the many processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup dev demo check test test-all other-lanes soak bench lab

help: ## show these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.run ## make .venv and install the package into it

dev: $(BIN)/python ## the same for work on the package: editable, with everything the checks need
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@for extra in run test dev; do cp pyproject.toml $(VENV)/.$$extra; done

demo: setup ## ask a real question over Python's standard library: no key, no network
	$(BIN)/fleet ask "Which modules define a class that subclasses Exception, and how many such classes are there?" \
		--context "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

lab: $(VENV)/.lab ## open JupyterLab on the first notebook: no key needed
	$(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' notebooks/01_first_run.ipynb

check: $(VENV)/.dev ## lint, format, types, import rules, spelling, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(PYTEST) -q tests/unit/test_house.py

test: $(VENV)/.test ## the lanes that need nothing: unit, contract, integration, docs, notebooks
	$(PYTEST) $(PARALLEL) $(LANES)

test-all: test other-lanes ## test, then the lanes that need something; says which are skipped and why

other-lanes: $(VENV)/.test $(VENV)/.hub $(VENV)/.browser
	@echo "lane attack: runs"
	@$(PYTEST) -n 2 --dist loadfile tests/attack
	@echo "lane PostgreSQL: ran with make test where there is one (tests/contract/test_stores.py)"
	@if [ -x $(PROXY) ]; then echo "lane Hub: runs"; else echo "lane Hub: skipped, it needs npm"; fi
	@$(PYTEST) -n 2 --dist loadfile -m hub tests/hub
	@for lane in MLflow Dask; do echo "lane $$lane: skipped, nothing in the package needs it yet"; done
	@if [ -x /usr/bin/chromium ]; then echo "lane browser: runs"; \
		else echo "lane browser: skipped, it needs Debian's chromium"; fi
	@$(PYTEST) -m browser tests/browser
	@if [ -n "$$DAYTONA_API_KEY" ] && [ -n "$$DAYTONA_API_URL" ]; then echo "lane live: runs"; \
		else echo "lane live: at the local server only, Daytona needs DAYTONA_API_KEY and DAYTONA_API_URL"; fi
	@$(PYTEST) tests/live

soak: $(VENV)/.test ## properties with 10,000 examples, and load
	HYPOTHESIS_PROFILE=soak $(PYTEST) --timeout=3600 -m "hypothesis or soak" tests

bench: $(VENV)/.test ## print the figures
	$(BIN)/python tests/bench/run.py $(VENV)/peers
	$(BIN)/python tests/bench/store.py
	$(BIN)/python tests/bench/server.py $(VENV)/jupyter-ai
	HYPOTHESIS_PROFILE=soak $(PYTEST) -q -k full tests/integration/server/test_load.py
	$(BIN)/python tests/bench/questions.py
	$(BIN)/python tests/bench/peers.py $(VENV)/peers

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found; install it, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer; try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$@ -m pip install --quiet --upgrade pip || true  # the one that comes with Python 3.11 takes twice as long

$(VENV)/.run: $(SOURCES) | $(BIN)/python
	@$(call install,run,.,run)

$(VENV)/.lab: $(SOURCES) | $(BIN)/python
	@$(call install,lab,.[lab],run lab)

$(VENV)/.test: $(SOURCES) | $(BIN)/python
	@$(call install,test,.[test],run test)

$(VENV)/.hub: $(SOURCES) | $(BIN)/python $(PROXY)
	@$(call install,hub,.[hub],run lab test hub)

# JupyterHub's proxy is a program for Node. Where npm is not, or has no registry, the lane is skipped.
$(PROXY):
	@! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix $(VENV)/hub-proxy configurable-http-proxy@5 || true

$(VENV)/.browser: $(SOURCES) | $(BIN)/python
	@$(call install,browser,.[browser],run lab test browser)

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	@$(call install,dev,.[dev],run test dev)

# $(call install,NAME,WHAT,NAMES IN IT). $(VENV)/.NAME is the pyproject.toml that was installed with these extras: while
# it is the same, only our own files are put in place again. An editable install stays one. Bytecode is left to what
# imports a module first: most are never imported, and to compile all takes as long as half the install.
define install
	set -e; \
	if $(IS_EDITABLE); then mode=--editable; else mode=; fi; \
	if ! cmp -s pyproject.toml $(VENV)/.$(1); then \
		echo "installing $(2)"; \
		$(BIN)/python -m pip install --quiet --no-compile $$mode '$(2)'; \
		for extra in $(3); do cp pyproject.toml $(VENV)/.$$extra; done; \
	elif [ -z "$$mode" ]; then \
		echo "installing the changed package"; \
		$(BIN)/python -m pip install --quiet --no-compile --no-deps --force-reinstall .; \
	fi; \
	for extra in run lab test hub browser dev; do if cmp -s pyproject.toml $(VENV)/.$$extra; then touch $(VENV)/.$$extra; fi; done
endef

IS_EDITABLE = $(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit("\"editable\": true" not in (m.distribution("fleet-rlm-jupyter").read_text("direct_url.json") or ""))' 2>/dev/null
