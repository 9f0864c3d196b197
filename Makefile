# The verbs of the README. A fresh machine needs git, make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help install data demo slurm chromium test test-all test-fast lint types format benchmark pages docs clean

help:  ## show these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed  ## create .venv and install optbench with its development tools

$(VENV)/installed: pyproject.toml constraints.txt tests/peers.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	# Without their dependencies, of which the tests need no more than these, and which would bring torchvision.
	$(BIN)/pip install --quiet --no-deps --requirement tests/peers.txt
	touch $@

data: install  ## fetch Fashion-MNIST into data/
	$(BIN)/python -m optbench.data.fetch fashion_mnist

demo: data  ## train three optimizers at two batch sizes and compare them: about three minutes on two cores
	$(BIN)/python -m optbench -m optimizer=momentum,adam,lamb batch=128,1024 scaling=auto model=lenet5 \
		dataset.train_limit=10000 budget.epochs=3 results_dir=results/demo
	$(BIN)/python -m optbench status --results-dir results/demo

slurm:  ## install Slurm's programs for the tests that need them (Debian, as root)
	slurm/local.sh install

chromium:  ## install Chromium for the tests that look at pages in it (Debian, as root)
	which chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)

test: data  ## the test suite; tests that need Slurm are skipped where it is not installed
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m 'not exhaustive' --durations=100 --durations-min=5

test-all: data  ## with the tests that repeat others at greater length: two hundred kills, more variants of a crash
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

test-fast: data  ## without the tests marked slow
	$(BIN)/python -m pytest -q -n auto -m 'not slow and not exhaustive'

lint: install  ## ruff: lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy
	$(BIN)/mypy

format: install  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install  ## speed, measured side by side with bare PyTorch
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/sweep_cost.py
	$(BIN)/python benchmarks/second_order.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/noise_scale.py

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]' --constraint constraints.txt
	touch $@

pages: install  ## build the pages of the studies, results/*/index.html, from their committed tables
	$(BIN)/python -m optbench pages

docs: $(VENV)/docs  ## build the documentation into site/, which needs no network to be read
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove what was built, but no results
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
