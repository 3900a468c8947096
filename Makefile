# Two commands on a fresh machine: `make demo` and `make test`. Both set .venv up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types docs wheel check clean

# torch first and alone: asked for together with packages that want it, pip may take a GPU build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt peers.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement peers.txt
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m analyses.demo
	$(BIN)/python -m analyses.audit --baseline-checkpoints digits-plain --variant-checkpoints digits-smooth

# A process per core, each of one thread: small networks gain nothing from more. Files stay whole: they share fixtures.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The site, into build/site, without network; a link that leads nowhere or a name that is not there is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	! grep -rlE 'src="(https?:)?//|@import|rel="stylesheet" href="http' build/site --include=*.html

# The wheel as a stranger gets it: built, installed into an empty environment, run from an empty folder.
wheel:
	PYTHON=$(PYTHON) .ci/wheel

check: lint types test docs wheel

clean:
	rm -rf $(VENV) results build dist
