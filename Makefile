# Two commands do everything, set-up included: make demo, make test. They need Python 3.11 or newer and nothing else.

PYTHON ?= python3
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
LOW := .venv-lowest/$(SCRIPTS)
# torch comes first and by its exact pin: a range would take whatever build is newest. Modules are compiled at the end, on
# all cores: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every command would compile torch anew.
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test test-long format static tests docs docs-check dist lowest clean

demo: .venv/installed          ## real pairs, 40 % shuffled: plain training against CRCL, MSCN, DisNCL and the default method
	$(BIN)/truepair demo --out demo-run

test: .venv/installed static tests docs   ## everything that CI runs

static: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest --doctest-modules src README.md --doctest-glob='*.md'

docs: .venv/installed          ## the site in build/site, its links followed: seconds
	$(BIN)/python tools/build_docs.py

test-long: .venv/installed     ## kills, full disks, little memory, two at once, damaged files: see faults/faults.json
	$(BIN)/python benchmarks/faults.py --out faults

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: .venv/installed          ## a wheel and a source distribution, checked, and tried in an empty environment
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/check_dist.py dist

lowest: .venv-lowest/installed ## the tests on the oldest versions that pyproject.toml allows, but for torch's
	OMP_NUM_THREADS=1 $(LOW)/python -m pytest -o filterwarnings=default --numprocesses auto --dist worksteal

# Without `datasets`, which asks for newer versions than truepair does. Warnings of old releases are no failures here.
.venv-lowest/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lowest
	$(LOW)/python -m pip install --quiet --constraint constraints.txt uv
	echo $(TORCH) > .venv-lowest/torch.txt
	$(LOW)/uv pip compile --quiet --python $(LOW)/python --resolution lowest-direct --constraint .venv-lowest/torch.txt \
	  --extra embed --extra hf --extra review --extra search --output-file .venv-lowest/lowest.txt pyproject.toml
	$(LOW)/python -m pip install --quiet --no-compile --constraint .venv-lowest/lowest.txt $(TORCH)
	$(LOW)/python -m pip install --quiet --no-compile --constraint .venv-lowest/lowest.txt --editable '.[embed,hf,review,search]' \
	  beartype httpx hypothesis ipykernel nbclient nbformat pytest pytest-timeout pytest-xdist webdataset
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib src || true  # a few files of libraries are templates, not Python
	touch $@

clean:
	rm -rf .venv .venv-lowest build dist demo-run faults .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
