# Each target makes the virtual environment it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/fashion_mnist_tiny

.PHONY: pretrain test parity lint bench-data

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e .[dev]
	touch $@

pretrain: $(VENV)/.installed  ## Fashion-MNIST, a few minutes on two CPU cores; then open the report
	$(RUN) -m dinov3_jax train --config=configs/fashion_mnist_tiny.py --workdir=$(WORKDIR)

test: $(VENV)/.installed lint
	$(RUN) -m pytest -q -n 2 --dist loadfile

parity: $(VENV)/.installed  ## against PyTorch and transformers (CPU builds do)
	$(RUN) -m pip install --quiet -e .[parity]
	$(RUN) -m pytest -q -m parity

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

bench-data: $(VENV)/.installed
	$(RUN) -m benchmarks.data
