# Each target makes the virtual environment it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/fashion_mnist_tiny

PHOTOS ?= ../shared/photos
STAGES ?= runs/stages
CURATE ?= runs/curate
MODEL ?= $(WORKDIR)
EVALS ?= runs/evals
DINOV3 := $(RUN) -m dinov3_jax

.PHONY: pretrain test stages curate evals parity export-tests beam-tests hosts lint bench bench-data bench-students bench-torch

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e .[dev]
	touch $@

pretrain: $(VENV)/.installed  ## Fashion-MNIST, a few minutes on two CPU cores; then open the report
	$(RUN) -m dinov3_jax train --config=configs/fashion_mnist_tiny.py --workdir=$(WORKDIR)

# libtpu compiles for TPUs without one; on a machine without a TPU JAX must be told not to look for it.
$(VENV)/.libtpu: $(VENV)/.installed
	$(RUN) -m pip install --quiet -e .[tpu]
	touch $@

test: $(VENV)/.libtpu lint
	JAX_PLATFORMS=cpu $(RUN) -m pytest -q -n 2 --dist loadfile

# Pretraining -> Gram anchoring -> high resolution -> distillation of a ViT and of a ConvNeXt, on the
# photographs of PHOTOS; less than half an hour on two CPU cores.
stages: $(VENV)/.installed
	$(DINOV3) train --config=configs/photos_small.py:data=$(PHOTOS) --workdir=$(STAGES)/pretrain \
	    --config.steps=600 --config.eval.every=300
	$(DINOV3) train --workdir=$(STAGES)/gram --config.steps=150 --config.eval.every=150 \
	    --config=configs/photos_small_gram.py:data=$(PHOTOS),from=$(STAGES)/pretrain
	$(DINOV3) train --workdir=$(STAGES)/hires --config.steps=100 --config.eval.every=100 \
	    --config=configs/photos_small_hires.py:data=$(PHOTOS),from=$(STAGES)/gram
	$(DINOV3) train --workdir=$(STAGES)/vit --config.steps=300 --config.eval.every=300 \
	    --config=configs/photos_small_distill.py:data=$(PHOTOS),teacher=$(STAGES)/gram,student=vit
	$(DINOV3) train --workdir=$(STAGES)/convnext --config.steps=60 --config.eval.every=60 \
	    --config=configs/photos_small_distill.py:data=$(PHOTOS),teacher=$(STAGES)/gram,student=convnext \
	    --config.optim.lr.warmup=10
	$(DINOV3) compare $(addprefix $(STAGES)/,pretrain gram hires vit convnext)

# A pool of Fashion-MNIST with a long tail and planted copies and leaks, through every stage with the
# features of `make pretrain`; then a short training on what came out. Open the report.
$(CURATE)/against/manifest.json: | $(VENV)/.installed
	$(RUN) -m benchmarks.unbalanced --source=fashion_mnist --data=train --held-out=test \
	    --largest=1500 --exponent=1.5 --out=$(CURATE)

$(WORKDIR)/report.html: | $(VENV)/.installed
	$(RUN) -m dinov3_jax train --config=configs/fashion_mnist_tiny.py --workdir=$(WORKDIR)

curate: $(VENV)/.installed $(CURATE)/against/manifest.json $(WORKDIR)/report.html
	$(DINOV3) curate --recipe=configs/curation/tiny.py --out=$(CURATE)/curated \
	    --pool=$(CURATE)/pool --seeds=rare=$(CURATE)/seeds --against=$(CURATE)/against \
	    --model=$(WORKDIR)
	$(DINOV3) train --config=configs/fashion_mnist_tiny.py --workdir=$(CURATE)/again \
	    --config.steps=300 --config.optim.lr.warmup=50 --config.eval.every=300 \
	    --config.data.source=shards --config.data.path=$(CURATE)/curated/shards \
	    --config.eval.source=shards --config.eval.bank=$(CURATE)/against \
	    --config.eval.queries=$(CURATE)/against

# The run of `make pretrain` unless MODEL says another; the page is $(EVALS)/index.html.
evals: $(VENV)/.installed  ## every evaluation on small real data, on the photographs of PHOTOS
	flags=$$($(RUN) -m benchmarks.evaldata --photos=$(PHOTOS) --out=$(EVALS)_data) && \
	    $(DINOV3) eval --model=$(MODEL) --out=$(EVALS) $$flags

parity: $(VENV)/.installed  ## against PyTorch and transformers (CPU builds do)
	$(RUN) -m pip install --quiet -e .[parity]
	$(RUN) -m pytest -q -m parity

export-tests: $(VENV)/.installed  ## SavedModel and ONNX files, run by TensorFlow and onnxruntime
	$(RUN) -m pip install --quiet -e .[savedmodel,onnx]
	$(RUN) -m pytest -q -m export

beam-tests: $(VENV)/.installed  ## dinov3 shards pack on Apache Beam's local runner
	$(RUN) -m pip install --quiet -e .[beam,parquet]
	$(RUN) -m pytest -q -m beam

hosts: $(VENV)/.installed  ## whole runs of several processes on this machine, killed and resumed
	$(RUN) -m pytest -q -m hosts

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)

bench: $(VENV)/.installed  ## step time and MFU, input pipeline, checkpoints, on the devices at hand
	$(RUN) -m benchmarks.train
	$(RUN) -m benchmarks.data
	$(RUN) -m benchmarks.checkpoint

bench-torch: $(VENV)/.installed  ## the CPU step and forward against PyTorch (CPU builds do)
	$(RUN) -m pip install --quiet -e .[parity]
	$(RUN) -m benchmarks.torch_step
	$(RUN) -m benchmarks.inference

bench-data: $(VENV)/.installed
	$(RUN) -m benchmarks.data

bench-students: $(VENV)/.installed
	$(RUN) -m benchmarks.students
