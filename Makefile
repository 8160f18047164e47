# make demo: see it fail and work. make demo-nodes: one run on two machines. make test: all
# tests. make rows, make matrix, make bench: the tables in docs, of rows, of releases and of
# speed. make test-frameworks: Lightning, Ray and others; make carriers: their table, too.
# Python and git suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Many tests wait for processes: more of them than cores run at once.
WORKERS ?= 4

.PHONY: demo demo-nodes test test-nightly test-frameworks carriers rows matrix
.PHONY: bench bench-quick lint clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# Two machines that are parts of this one, which takes root; then with the cable out for 10 s.
demo-nodes: $(VENV)/.demo
	$(BIN)/python examples/nodes.py
	$(BIN)/python examples/nodes.py --cut 10

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 1

# The tests that take minutes, and that make test leaves out.
test-nightly: $(VENV)/.test
	$(BIN)/python -m pytest -m nightly -n $(WORKERS) --maxschedchunk 1

# In an environment of their own: what the frameworks need is theirs to say.
FRAMEWORKS := .venv-frameworks

test-frameworks: $(FRAMEWORKS)/.made
	$(FRAMEWORKS)/bin/python -m pytest tests/frameworks -n 2 --maxschedchunk 1

carriers: test-frameworks
	PYTHONPATH=.:tests:tests/helpers:tests/workers $(FRAMEWORKS)/bin/python tests/frameworks/tables.py --write docs/carriers.md

rows: $(VENV)/.test
	$(BIN)/python benchmarks/rows.py --write docs/what-breaks.md
	$(BIN)/python benchmarks/rows.py --online --write docs/what-breaks.md

# Every release line on Python 3.11, and the report's own Python for those of its time.
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

# The constraint keeps the frameworks from bringing another torch, gigabytes of it.
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
