# `make demo` and `make test` set everything up in .venv: Python 3.10 to 3.12, pip, no GPU needed.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/sassid demo -o results/demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .

.venv/installed: setup.py
	@test -n "$(PYTHON)" || { echo 'No Python 3.10 to 3.12 found; name one: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv .venv
	@# basicsr's setup.py imports torch: without --use-pep517 an older pip (Python 3.10's) cannot build it
	$(BIN)/python -m pip install --disable-pip-version-check --use-pep517 -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv *.egg-info results/demo
