# Each target is one command on a fresh machine: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo starter test test-slow torture gates gpu lint format clean

demo: $(VENV)/.installed  ## images from sentences, then another style, in minutes, on a laptop
	$(RUN)/lafite-shifted demo --out demo

include training/recipes/starter.mk  # starter: the model that ships, from the drawings on

test: $(VENV)/.installed  ## every default test: CPU, no network
	$(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed-browser  ## minutes each; those of the page in a browser where chromium is
	$(RUN)/python -m pytest -m slow

torture: $(VENV)/.installed  ## training under kills, signals, full disks and lost processes
	$(RUN)/python -m tests.torture

gates: $(VENV)/.installed  ## static checks of the CUDA kernels, where nvcc is
	$(RUN)/python -m ops_cuda.gates

gpu: $(VENV)/.installed  ## all that waits for a GPU, in stages of 8 minutes (STAGE=2: one); writes docs/gpu.md and gpu.json
	$(RUN)/python -m training.tools.gpu_stages $(addprefix --stage ,$(STAGE)) $(if $(IMAGES),--images $(IMAGES))

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

$(VENV)/.installed-browser: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,browser]"
	touch $@

$(VENV)/.installed-starter: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable ".[starter]"
	touch $@

clean:
	rm -rf $(VENV) demo demo-from-scratch build *.egg-info
