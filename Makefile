# make demo      train, predict and score on generated volumes; VIEW=1 opens napari
# make test      style, types, architecture and all tests
# make nightly   tests that take minutes: thousands of damaged files
#
# All set up .venv first, and write nothing outside this folder but system packages.
# PYTHON=/path/to/python chooses the interpreter.

.PHONY: help demo test nightly check format docs clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PYTHON ?= $(shell sh scripts/find-python.sh)
PIP := $(BIN)/python -m pip install -q --no-cache-dir --disable-pip-version-check \
	-c constraints.txt

export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/home/cache
export XDG_CONFIG_HOME := $(CURDIR)/$(VENV)/home/config
export XDG_DATA_HOME := $(CURDIR)/$(VENV)/home/share

help:
	@sed -n 's/^# //p' Makefile | head -n 6

demo: $(STAMPS)/all
	@$(BIN)/python -m napari_volseg demo $(if $(VIEW),--view)

test: $(STAMPS)/dev check
	@sh scripts/run-tests.sh $(BIN)/python

nightly: $(STAMPS)/dev
	@MARK=nightly sh scripts/run-tests.sh $(BIN)/python

check: $(STAMPS)/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMPS)/dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMPS)/dev
	@$(BIN)/python docs/make_configuration.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMPS)/system: scripts/system-packages.sh
	@test -n "$(PYTHON)"
	@sh scripts/system-packages.sh "$(PYTHON)"
	@mkdir -p $(@D) && touch $@

$(STAMPS)/venv: | $(STAMPS)/system
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@mkdir -p $(@D) && touch $(STAMPS)/system $@

# torch is asked for by itself, by exact version: an open range takes the newest CUDA
# build even where pip has a CPU build.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "Installing torch (the first time takes minutes) …"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(STAMPS)/all $(STAMPS)/dev: $(STAMPS)/%: pyproject.toml constraints.txt $(STAMPS)/torch
	@echo "Installing napari-volseg[$*] …"
	@$(PIP) -e ".[$*]"
	@touch $@
