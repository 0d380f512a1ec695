# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-contrast test test-full sandbox lint bench clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/bessemer run recipes/demo.yaml

demo-contrast: $(STAMP)
	-$(BIN)/bessemer run recipes/demo-no-replay.yaml
	$(BIN)/bessemer run recipes/demo.yaml
	$(BIN)/python benchmarks/contrast.py

# A user's own scorers run in bubblewrap only; without root their tests are skipped where it is missing, and say so.
sandbox:
	@command -v bwrap >/dev/null || test "$$(id -u)" != 0 || \
	  { apt-get update -qq && apt-get install -y -qq bubblewrap; } >/dev/null || true

test: $(STAMP) sandbox
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full" -q -rs -n 2 --dist worksteal

# Slurm and Chromium come from the system; without root, tests that need what is missing are skipped and say so.
test-full: $(STAMP) sandbox
	@test "$$(id -u)" != 0 || apt-get install -y -qq slurm-wlm munge chromium || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray,presidio,bench,track,lm-eval,inspect]'
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	$(BIN)/lint-imports && $(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench,lm-eval]'
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/data.py tokens
	$(BIN)/python benchmarks/data.py batches
	$(BIN)/python benchmarks/data.py memory
	$(BIN)/python benchmarks/near_duplicates.py
	$(BIN)/python benchmarks/evaluate.py

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
