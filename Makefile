# `make run` and `make test` are all there is to know; the first call installs into .venv, later ones start at once.
VENV := .venv
PY := $(VENV)/bin/python
REQS := requirements.txt requirements-dev.txt
# The first interpreter that starts and is new enough. Name another one with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
# Options for pytest, as in `make test PYTEST="-k dicom -x"`.
PYTEST ?=
# Options for app.py, as in `make run APP="--port 8000"`.
APP ?=

.PHONY: help setup run test lint clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

setup: $(VENV)/.installed  ## install into .venv: once, and again when the requirements change

run: setup  ## start the demo, and the studio where there is one
	@$(PY) app.py --studio $(APP)

test: lint  ## check the style, then run all tests
	@$(PY) -m pytest $(PYTEST)

lint: setup  ## check the style only
	@$(PY) -m ruff check .

clean:  ## remove .venv and every cache
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark `.installing` lies in .venv until everything is in: an interrupted installation starts from nothing.
# uv installs ten times as fast as pip, but it does not read pip's settings, where a machine may name a folder with a
# CPU build of torch. So that folder is handed on. Without one and without a GPU, uv is asked for the CPU build.
$(VENV)/.installed: $(REQS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found. Install it, or name it: make PYTHON=python3.12 setup"; exit 1; }
	@test ! -e $(VENV)/.installing || rm -rf $(VENV)
	@mkdir -p $(VENV) && touch $(VENV)/.installing
	@echo "Installing into $(VENV) (the first time only)"
	@set -e; \
	if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then \
		test -x $(PY) || uv venv -q --allow-existing --python "$(PYTHON)" $(VENV); \
		links="$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)}"; \
		links="$${UV_FIND_LINKS:-$$(echo $$links | tr ' ' ',')}"; \
		install() { UV_FIND_LINKS="$$links" uv pip install --python $(PY) $(REQS:%=-r %) "$$@"; }; \
		if test -n "$$links" || nvidia-smi -L >/dev/null 2>&1; then install; \
		else install --torch-backend=cpu || { echo "No CPU build in reach, taking the default one"; install; }; fi; \
	else \
		$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
		$(PY) -m pip install --disable-pip-version-check $(REQS:%=-r %); \
	fi
	@mv $(VENV)/.installing $@
