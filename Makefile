# Needs only make and Python 3.11 or newer; another one is chosen by: make env PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
UV_PIP := $(BIN)/uv pip install --python $(BIN)/python

.PHONY: env demo test bench lint docs lock clean

env: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/dermaffinity demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

bench: $(INSTALLED)
	$(BIN)/python benchmarks/results.py

lint: $(INSTALLED) docs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# The site is build/site; a browser reads it from there, without a server and without a network.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Keeps the versions that still fit pyproject.toml; delete the file first to renew them all.
lock: | $(BIN)/uv
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock

# Leaves data, runs and manifests alone.
clean:
	rm -rf .venv build dist .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: name one, as in 'make env PYTHON=python3.12'" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

# Compiled, because where Python may not write what it compiles, each start would compile anew: 20 s instead of 8.
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/uv
	$(UV_PIP) --require-hashes --compile-bytecode --requirement requirements.lock
	$(UV_PIP) --no-deps --editable .
	@touch $@
