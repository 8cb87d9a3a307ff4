# make demo    a virtual environment, the demonstration cohort, both trainings, synthetic volumes, overview.png
# make test    the same environment and the tests;  make test TESTS="tests/data -m 'not slow'" for some of them
# make lint    ruff and mypy
# make mutants breaks the mathematics on purpose and shows that the tests notice
# make bench   the comparisons in benchmarks/
# make clean   removes what the others made

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo_output
TESTS ?=
EXTRAS := demo,test,dev,dicom

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint mutants bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

# The stamp is older than the files that say what to install whenever these change; nothing else installs again.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)
	$(BIN)/medldm demo --output $(OUTPUT)

test: $(STAMP)
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: $(STAMP)
	$(BIN)/python -m pytest tests/diffusion/test_mutants.py

bench: $(STAMP)
	$(BIN)/python benchmarks/networks.py --page docs/benchmarks.md
	$(BIN)/python benchmarks/reading.py --repeats 3

clean:
	rm -rf $(VENV) $(OUTPUT) bench_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
