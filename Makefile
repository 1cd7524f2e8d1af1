# Everything runs from a virtual environment in .venv, which the first target that needs it sets up.
# Another Python: make demo PYTHON=python3.12. Another build of torch: PIP_ARGS="--index-url …".
# The claims' pictures: make claims FASHION_MNIST=DIR MNIST=DIR; anew though they were run before: AGAIN=1.

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
SECONDS ?= 60
READERS ?= csv tsv json jsonl corpus images records runs shards tar parquet features safetensors adapter_config \
  gguf saved_datasets
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)

# Pyright would otherwise ask the network at every run whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: help demo demo-images test test-slow faults fuzz lint format docs claims clean
.NOTPARALLEL:

help: ## Say what can be made.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/.demo ## Compare methods on a small set of texts that comes with the demo.
	$(BIN)/bequest demo

demo-images: .venv/.demo ## The same on images.
	$(BIN)/bequest demo --images

test: .venv/.dev ## Run the tests, on all cores.
	$(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 8 --dist worksteal

test-slow: .venv/.dev ## Run the tests that `make test` has only some of: more models, methods and clusters.
	$(BIN)/python -m pytest -q -m slow --numprocesses logical --maxprocesses 8 --dist worksteal

faults: .venv/.dev ## Kill, fill, damage and starve it, and look that no result is lost or wrong: about 20 minutes.
	$(BIN)/python -m pytest -q -m faults

fuzz: .venv/.fuzz ## Fuzz everything that reads a user's files, each for SECONDS (60), READERS one or several.
	@for reader in $(READERS); do echo "$$reader"; $(BIN)/python fuzz/fuzz.py $$reader -max_total_time=$(SECONDS) \
	  -timeout=10 -rss_limit_mb=2048 -max_len=4096 -verbosity=0 || exit 1; done

lint: .venv/.dev ## Check style, layers and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.dev ## Mend style.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.dev ## Write the pages of methods, schedules, scores and claims anew from docstrings and results.
	$(BIN)/python docs/generate.py
	$(BIN)/python claims/run.py --page

claims: .venv/.dev ## Put the field's claims to the test anew and write docs/claims.md; about two hours.
	$(BIN)/python claims/run.py $(if $(FASHION_MNIST),--fashion-mnist $(FASHION_MNIST)) \
	  $(if $(MNIST),--mnist $(MNIST)) $(if $(AGAIN),--again)

clean: ## Remove .venv and all that was built or cached here; runs stay.
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python " \
	  + sys.version.split()[0] + ", expected 3.11 or newer. Name another: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.created pyproject.toml
	@echo "Installing into .venv: once, a few minutes, most of them for torch."
	$(PIP_INSTALL) -e '.[embedded,demo]'
	@touch $@

.venv/.dev: .venv/.created pyproject.toml
	@echo "Installing into .venv: once, a few minutes, most of them for torch."
	$(PIP_INSTALL) -e '.[embedded,demo,dev]'
	@touch $@

.venv/.fuzz: .venv/.dev
	$(PIP_INSTALL) -e '.[fuzz]'
	@touch $@
