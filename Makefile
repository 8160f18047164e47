# make demo: see the bug, and see it fixed. make demo-nodes: one run on two machines.
# make test: all tests, except those that take minutes (make test-nightly).
# make rows, make matrix, make bench: measure, and fill in the tables in docs (rows that
# arrive, wandb releases, speed). make test-frameworks: tests with Lightning, Ray and others;
# make carriers: the same, and fill in their table. All of them need only Python and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Many tests wait for processes, so more of them run at once than there are cores.
WORKERS ?= 4
# What failed last time comes first, and each failure is printed as it comes.
PYTEST := --dist loadgroup --failed-first --instafail

.PHONY: demo demo-nodes test test-nightly test-frameworks carriers rows matrix
.PHONY: bench bench-quick lint clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# Two machines, simulated by networks of this one, which needs root; the second time, the
# link between them is down for 10 s.
demo-nodes: $(VENV)/.demo
	$(BIN)/python examples/nodes.py
	$(BIN)/python examples/nodes.py --cut 10

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST)

# The tests that take minutes. make test leaves them out.
test-nightly: $(VENV)/.test
	$(BIN)/python -m pytest -m nightly -n $(WORKERS) $(PYTEST)

# In a separate environment: the frameworks decide which versions they need.
FRAMEWORKS := .venv-frameworks

test-frameworks: $(FRAMEWORKS)/.made
	$(FRAMEWORKS)/bin/python -m pytest tests/frameworks -n 2 $(PYTEST)

carriers: test-frameworks
	PYTHONPATH=.:tests:tests/helpers:tests/workers $(FRAMEWORKS)/bin/python tests/frameworks/tables.py --write docs/carriers.md

rows: $(VENV)/.test
	$(BIN)/python benchmarks/rows.py --write docs/what-breaks.md
	$(BIN)/python benchmarks/rows.py --online --write docs/what-breaks.md

# Every minor release on Python 3.11, and 0.12 and older also on the bug report's Python.
OLD := 0.10.23@3.9 0.10.33@3.9 0.11.2@3.9 0.12.21@3.9
matrix: export WANDB_DDP_PATCH_CACHE ?= .cache
matrix: $(VENV)/.test
	$(BIN)/python -m wandb_ddp_patch testbed all $(OLD) --python 3.11 --jobs 8 \
		--report build/matrix --readme docs/what-breaks.md

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py --write docs/costs.md

bench-quick: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py --quick

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

$(VENV)/.pip: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/.demo: $(VENV)/.pip
	$(BIN)/pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/.pip testbed/setup.py testbed/pyproject.toml
	$(BIN)/pip install --quiet --editable ".[test]" --editable ./testbed
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

# Without the constraint, the frameworks would install another torch, gigabytes of it.
$(FRAMEWORKS)/.made: setup.py pyproject.toml
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --upgrade pip
	$(FRAMEWORKS)/bin/pip install --quiet "$(TORCH)"
	echo "$(TORCH)" > $(FRAMEWORKS)/constraints.txt
	$(FRAMEWORKS)/bin/pip install --quiet --constraint $(FRAMEWORKS)/constraints.txt \
		--editable ".[frameworks]"
	touch $@

clean:
	rm -rf $(VENV) $(FRAMEWORKS) .cache build dist *.egg-info
	rm -rf testbed/build testbed/dist testbed/*.egg-info
