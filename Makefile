# `make run` and `make test` are all there is to know; the first call installs into .venv, later ones start at once.
VENV := .venv
PY := $(VENV)/bin/python
REQS := requirements.txt requirements-dev.txt
# The first interpreter that starts and is new enough. Name another one with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
# Options for pytest, as in `make test PYTEST="-k dicom -x"`.
PYTEST ?=
# Folder with manifest.csv for `make nano`, as in `make nano DATA=../shared/data`.
DATA ?= data
# Options for app.py, as in `make run APP="--port 8000"`.
APP ?=

.PHONY: help setup run test lint nano clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

setup: $(VENV)/.installed  ## install into .venv: once, and again when the requirements change

run: setup  ## start the demo and the studio
	@$(PY) app.py --studio $(APP)

test: lint  ## check the style, then run all tests
	@$(PY) -m pytest $(PYTEST)

lint: setup  ## check the style only
	@$(PY) -m ruff check .

nano: setup  ## make the shipped checkpoint from DATA=FOLDER: hours; a call that was cut off goes on
	@test -f "$(DATA)/manifest.csv" || { echo "No manifest.csv in '$(DATA)'. Name its folder: make nano DATA=FOLDER"; exit 1; }
	@test -f runs/data/nano.jsonl || $(PY) -m core records build $(DATA)/manifest.csv --out runs/data/nano.jsonl \
		--max-side 256 --simulated-oct 400 \
		--hold-out mri_ms/ms_patient07.npz stain_cima/lesions_/Izd2-29-041-w35_HE.jpg
	@for recipe in autoencoder fresh stage1 stage2 stage3; do \
		$(PY) -m core train core/training/recipes/nano/$$recipe.json || exit; done
	@$(PY) -m benchmarks.nano --records runs/data/nano.jsonl --model runs/nano/stage3

clean:  ## remove .venv and every cache
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark `.installing` lies in .venv until everything is in, with the number of the process that installs: a second
# call waits for it, and an installation that was cut off starts from nothing.
# uv installs ten times as fast as pip, but it does not read pip's settings, where a machine may name folders that hold a
# CPU build of torch. So those are handed on. Where there is none, nor a GPU, uv is asked for the CPU build.
$(VENV)/.installed: $(REQS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found. Install it, or name it: make PYTHON=python3.12 setup"; exit 1; }
	@set -e; \
	mark=$(VENV)/.installing; \
	if test -e $$mark; then \
		test -z "$$(cat $$mark)" || ! kill -0 "$$(cat $$mark)" 2>/dev/null || echo "Another call is installing, waiting for it (make clean if it is dead)"; \
		while test -s $$mark && kill -0 "$$(cat $$mark)" 2>/dev/null; do sleep 1; done; \
		if test -e $$mark; then rm -rf $(VENV); else exit 0; fi; \
	fi; \
	mkdir -p $(VENV) && echo $$$$ > $$mark; \
	echo "Installing into $(VENV) (the first time only)"; \
	if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then \
		test -x $(PY) || uv venv -q --allow-existing --python "$(PYTHON)" $(VENV); \
		links="$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)}"; \
		links="$${UV_FIND_LINKS:-$$(echo $$links | tr ' ' ',')}"; \
		own=$$(for folder in $$(echo "$$links" | tr ',' ' '); do ls "$$folder"/torch-* 2>/dev/null || true; done); \
		install() { UV_FIND_LINKS="$$links" uv pip install --python $(PY) $(REQS:%=-r %) "$$@"; }; \
		if test -n "$$own" || nvidia-smi -L >/dev/null 2>&1; then install; \
		else install --torch-backend=cpu || { echo "No CPU build in reach, taking the default one"; install; }; fi; \
	else \
		$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
		$(PY) -m pip install --disable-pip-version-check $(REQS:%=-r %); \
	fi; \
	mv $$mark $@; touch $@
