# make demo: the whole loop on this machine.  make test: the whole test suite in JOBS processes.  Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: demo test test-backends bench lint clean

demo: $(READY)
	$(BIN)/hwnas run examples/digits-cpu.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-backends: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/backends -m "environment or not environment"

bench: $(READY)
	$(BIN)/python benchmarks/search_quality.py --oracle analytic
	$(BIN)/python benchmarks/latency_accuracy.py --config examples/digits-cpu.yaml --held-out 100 --out benchmarks/latency_accuracy.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hwnas needs Python 3.11 or newer; say: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
