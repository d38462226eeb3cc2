# Two commands: `make demo` sets up and makes a picture; `make test` sets up and runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check docs clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py out

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "the documentation is in site/index.html; with a search: $(BIN)/python -m http.server -d site"

clean:
	rm -rf $(VENV) out site build dist *.egg-info

# The stamp is made last: an interrupted installation starts again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("featot needs Python 3.10 or newer, not %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing featot and its libraries into $(VENV); torch is large, a few minutes the first time."
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $(STAMP)
