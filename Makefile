# The same few commands on every machine and in CI. They need make, git and Python 3.11 or later with venv; the
# rest is installed into .venv. Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test check bench large chaos clean

help: ## Show these lines.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## Run the demo pipeline on real data to its end; make demo ARGS='-p gate=0.995' makes its gate fail.
	@$(BIN)/orchestrator run examples/digits.py $(ARGS)
	@$(BIN)/orchestrator logs last compare

test: $(STAMP) ## Run all tests; make test ARGS='tests/acceptance -x' runs some.
	@$(BIN)/pytest -n 3 --dist worksteal -m 'not long and not alone' $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/pytest -m 'alone and not long' $(ARGS) || [ $$? -eq 5 ]

check: $(STAMP) ## Lint, format and types, as CI checks them.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure against plain Celery; table on the screen, JSON in build/benchmarks.json.
	@mkdir -p build
	@$(BIN)/python tests/benchmarks/run.py --json build/benchmarks.json

large: $(STAMP) ## Measure what a run of 100,000 steps costs the server, and the runs beside it (some minutes).
	@$(BIN)/python tests/benchmarks/large.py

chaos: $(STAMP) ## Kill, halt, cut and drop at random under 3 x 200 pipelines, then time recoveries; ARGS='--seeds 7'.
	@mkdir -p build
	@$(BIN)/python -m tests.chaos.chaos --seeds 1 2 3 $(ARGS); code=$$?; \
	  $(BIN)/python -m tests.chaos.recovery --json build/recovery.json && exit $$code

clean: ## Remove builds and caches. The record of runs (.orchestrator) and .venv stay.
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find orchestrator workers tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew when the dependencies change; a half-made or moved .venv is replaced.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed; '$(PYTHON)' is none. Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing into .venv (once; about a minute)" >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,examples]'
	@touch $@
