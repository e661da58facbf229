# `make demo` and `make test` set everything up in .venv: Python 3.10 to 3.12, pip, no GPU needed.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
# real photographs for the tests marked real_data: $SASSID_TEST_DATA, or a folder beside the clone
DATA = $(or $(SASSID_TEST_DATA),$(wildcard ../shared/data))
PYTEST = SASSID_TEST_DATA=$(abspath $(DATA)) $(BIN)/python -m pytest

.PHONY: demo test test-all slow lint format clean

demo: .venv/installed
	$(BIN)/sassid demo -o results/demo

test: lint
	@# a process a core, of one thread: two processes of two threads would wait for each other
	OMP_NUM_THREADS=1 $(PYTEST) -m 'not slow' -n auto --maxprocesses 4 --dist loadfile

slow: .venv/installed
	$(PYTEST) -m slow

test-all: test slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# the newest NumPy, and with it the types of arrays, is another one on each Python: those of 3.11 are checked
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then $(BIN)/pyright; fi

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo 'No Python 3.10 to 3.12 found; name one: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv .venv
	@# basicsr's setup.py imports torch: without --use-pep517 an older pip (Python 3.10's) cannot build it
	$(BIN)/python -m pip install --disable-pip-version-check --use-pep517 -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv *.egg-info results/demo
