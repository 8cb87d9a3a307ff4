# make locked  the environment from files whose hashes are in requirements.lock (Linux x86-64, Python 3.10 to 3.12)
# make demo    a virtual environment, the demonstration cohort, both trainings, synthetic volumes, overview.png
# make test    the same environment and the tests, in JOBS=2 processes;  TESTS="tests/data -m 'not slow'" for some
# make lint    ruff and mypy
# make docs    the site, from docs/ and the docstrings, in build/site
# make mutants breaks the mathematics on purpose and shows that the tests notice
# make bench   the comparisons in benchmarks/
# make bench-trainings  planned memory, the cost of saving, kills at random moments, and other mishaps
# make clean   removes what the others made

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo_output
TESTS ?=
JOBS ?= 2
EXTRAS := demo,test,dev,dicom

DOCS_VENV ?= .venv-docs
# What the extra `docs` of setup.cfg names.
DOCS_PACKAGES = $$($(PYTHON) -c "import configparser; c = configparser.ConfigParser(); c.read('setup.cfg'); print(*c['options.extras_require']['docs'].split())")

BIN := $(VENV)/bin
DOCS_STAMP := $(DOCS_VENV)/.installed
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup locked demo test lint docs mutants bench bench-trainings clean

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

# For machines whose index serves the very files of requirements.lock, torch's CPU build among them.
locked:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/medldm demo --output-dir $(OUTPUT)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A virtual environment of its own: the site is built from the sources and needs no torch.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

$(DOCS_STAMP): setup.cfg constraints.txt
	@test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet -c constraints.txt $(DOCS_PACKAGES)
	@touch $@

mutants: $(STAMP)
	$(BIN)/python -m pytest tests/diffusion/test_mutants.py

bench: $(STAMP)
	$(BIN)/python benchmarks/networks.py --page docs/results/benchmarks.md
	$(BIN)/python benchmarks/reading.py --repeats 3

bench-trainings: $(STAMP)
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/chaos.py

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(OUTPUT) bench_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
