# make demo   train two models on real digits and look at them
# make test   lint, types and fast tests
# make fuzz   every reader on damaged files, SECONDS=60 each
# make docs   build the documentation into site/
# make wheel  build the wheel and import all of it in an environment with runtime dependencies only

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

# Else every process that a test starts compiles torch's modules again, which takes 5 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow fuzz docs wheel clean

demo: .venv/installed
	$(BIN)/python examples/demo.py

test: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist worksteal

slow: .venv/installed-dev
	$(BIN)/pytest -m slow

fuzz: .venv/installed-dev
	FUZZ_SECONDS=$(or $(SECONDS),60) $(BIN)/pytest -m slow --capture no tests/fuzz

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# WHEEL_VENV=.venv spares a second environment where "make test" follows and there is none yet: it adds to the same one.
WHEEL_VENV ?= .venv-wheel
wheel:
	rm -rf dist $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	PIP_CONSTRAINT=constraints.txt $(WHEEL_VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(WHEEL_VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd dist && ../$(WHEEL_VENV)/bin/python ../.ci/import_all.py && ../$(WHEEL_VENV)/bin/evae --version

# One venv for both: "-dev" adds the tools of CONTRIBUTING.md.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev,tensorboard]'
	touch $@ .venv/installed

.venv/installed-docs: .venv/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-wheel dist demo site
