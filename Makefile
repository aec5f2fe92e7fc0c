# Each target is one command on a fresh machine: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo test test-slow torture gates lint format clean

demo: $(VENV)/.installed  ## images from sentences, in minutes, on a laptop
	$(RUN)/lafite-shifted demo --out demo

test: $(VENV)/.installed  ## every default test: CPU, no network
	$(RUN)/python -m pytest

test-slow: $(VENV)/.installed
	$(RUN)/python -m pytest -m slow

torture: $(VENV)/.installed  ## training under kills, signals, full disks and lost processes
	$(RUN)/python -m tests.torture

gates: $(VENV)/.installed  ## static checks of the CUDA kernels, where nvcc is
	$(RUN)/python -m ops_cuda.gates

lint: $(VENV)/.installed-dev
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/basedpyright

format: $(VENV)/.installed-dev
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.py pyproject.toml constraints.txt
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
