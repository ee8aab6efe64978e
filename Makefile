# make demo   the whole thing at work, on loopback (ARGS=--once: exit by itself)
# make test   every test, three at a time (ARGS=...: passed on to pytest; ARGS=-n0: one after the other)
# make check  format, lint, types, import contracts, documents
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/installed
LOCK := --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
        --no-header --no-annotate --allow-unsafe --quiet

.PHONY: demo test check bench format lock clean
.DEFAULT_GOAL := test

$(STAMP): requirements/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Limen needs Python 3.11 or newer: set PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Limen needs Python 3.11 or newer, this is $$($(PYTHON) --version): set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/limen demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/test_docs.py tests/test_house.py

bench: $(STAMP)
	@$(BIN)/python bench/run.py $(ARGS)

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The settings of this machine's pip (extra indexes, local wheels) must not decide what is pinned for everyone.
lock: $(STAMP)
	@cd requirements && env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null sh -c '\
	  ../$(BIN)/pip-compile $(LOCK) $(ARGS) -o run.lock run.in && \
	  ../$(BIN)/pip-compile $(LOCK) $(ARGS) -c run.lock -o dev.lock dev.in'

clean:
	@rm -rf .venv .tools .demo dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
