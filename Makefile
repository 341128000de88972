# make demo | make tasks | make test | make check          (PYTHON=python3.12 chooses the interpreter)
PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: demo tasks test test-slow test-full check faults fuzz docs notebooks bench wheel clean

demo: $(VENV)/.demo-installed
	$(BIN)/python tools/demo.py --workdir=$(RUNS)

# Every task of the paper on the demo's pictures, on the demo's first stage: docs/tasks.md.
tasks: $(VENV)/.tasks-installed
	$(BIN)/python -m tools.tasks --workdir=$(RUNS)

test: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests -q -n 2 --dist worksteal -m "not slow and not full" --durations=15

# Minutes-long checks: the 274M model's real steps, the whole demo.
test-slow: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests -q -m slow --durations=15

# Full-width models against torch, full-size checkpoints; prints peak memory.
test-full: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests -q -m full -rA --durations=0

# Kills, damage, full disks, lost peers: the table in docs/reliability.md.
faults: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m faults.matrix

# Damaged pictures, manifests, configs and checkpoints: over 10,000, new ones every time.
fuzz: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/fuzz -q --hypothesis-profile=long --durations=15

check: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site of docs/, to site/. Any warning is an error.
docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir=site

# All notebooks in their short versions; the files stay as they are.
notebooks: $(VENV)/.notebooks-installed
	$(BIN)/python -m tools.notebooks

# dist/*.whl: commands, configs and assets inside; `tools` and tests stay here.
wheel: $(VENV)/bin/python
	rm -rf build
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .
	rm -rf build
	ls -l dist

# Against torch on this machine: BENCHMARKS.md.
bench: $(VENV)/.test-installed
	$(BIN)/python -m benchmarks --suite=cpu --references=eager,channels_last

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ldm_jax needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel

$(VENV)/.demo-installed: pyproject.toml requirements.txt constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lpips,fd]"
	touch $@

$(VENV)/.tasks-installed: $(VENV)/.demo-installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lpips,fd,sr,retrieval]"
	touch $@

$(VENV)/.test-installed: $(VENV)/.demo-installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lpips,fd,test]"
	touch $@

$(VENV)/.docs-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/.notebooks-installed: $(VENV)/.tasks-installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lpips,fd,sr,notebooks]"
	touch $@

clean:
	rm -rf $(VENV) $(RUNS) site .pytest_cache .ruff_cache *.egg-info
