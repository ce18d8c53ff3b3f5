PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST_EXTRAS := hf heif foa clip serve client otel onnx analyse
LOWEST_TESTS := $(addprefix tests/,adapt backbones guard methods parts report storage test_bundle.py)

.DEFAULT_GOAL := help
.PHONY: help quickstart test slow gpu lowest lint types layers docs wheel clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

quickstart: $(VENV)/installed  ## Train, adapt and write a report on the embedded data, into quickstart/
	$(BIN)/acclimate quickstart --out quickstart

test: $(VENV)/installed-dev  ## Run the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile  # what a file trains is trained once

slow: $(VENV)/installed-dev  ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

gpu: $(VENV)/installed-dev  ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

# uv chooses the oldest versions; pip cannot. Tools of the tests are the newest.
lowest: $(BIN)/pip  ## Run tests with the oldest dependencies that pyproject.toml admits
	$(BIN)/python -m pip install uv
	$(BIN)/uv venv --clear --seed --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct \
	  -r pyproject.toml $(addprefix --extra ,$(LOWEST_EXTRAS))
	$(BIN)/uv pip install --python .venv-lowest/bin/python --no-deps --editable .
	$(BIN)/uv pip install --python .venv-lowest/bin/python pytest pytest-xdist hypothesis lightning
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist loadfile $(LOWEST_TESTS)

lint: $(VENV)/installed-dev  ## Check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## Check types with basedpyright, and that public ones are known
	$(BIN)/basedpyright
	$(BIN)/python scripts/public_types.py

layers: $(VENV)/installed-dev  ## Check with import-linter that each layer imports only from those below
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev  ## Build the site into site/, for any static host
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

wheel: $(VENV)/installed-dev  ## Build dist/*.whl
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## Remove the environment and build files; keep results
	rm -rf $(VENV) .venv-lowest build dist *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find acclimate tests -name __pycache__ -prune -exec rm -rf {} +

# The stamp file has the time of the last install: pip runs again only after pyproject.toml changes.
$(VENV)/installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $(VENV)/installed $@

# Without python3-venv, Debian's python3 cannot install pip into an environment; the system's pip can.
# An incomplete environment is removed, because a later run would take it for a complete one.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'acclimate needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@echo 'Creating the environment $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
	{ $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; } || \
	{ rm -rf $(VENV); \
	  echo 'Cannot create a virtual environment: install venv (Debian, Ubuntu: apt install python3-venv).' >&2; \
	  exit 1; }
