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

.PHONY: pretrain test photos-pretrain stages curate evals parity export-tests beam-tests hosts lint bench bench-data bench-students bench-torch

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
photos-pretrain: $(VENV)/.installed
	$(DINOV3) train --config=configs/photos_small.py:data=$(PHOTOS) --workdir=$(STAGES)/pretrain \
	    --config.steps=600 --config.eval.every=300

stages: photos-pretrain
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

# A pool with a long tail, planted copies and leaks, through every stage; then a short training on what
# came out. Open the report. Photographs where PHOTOS has them, with the features of the first stage of
# `make stages`; else Fashion-MNIST with those of `make pretrain`.
ifneq ($(wildcard $(PHOTOS)/grocery/train),)
CURATE_RECIPE := configs/curation/photos.py
CURATE_POOL := --data=$(PHOTOS)/grocery/train --held-out=$(PHOTOS)/grocery/test \
    --largest=150 --exponent=1 --rare=20
CURATE_CONFIG := configs/photos_small.py:data=$(PHOTOS)
CURATE_AFTER := photos-pretrain
CURATE_MODEL := $(STAGES)/pretrain
else
CURATE_RECIPE := configs/curation/tiny.py
CURATE_POOL := --source=fashion_mnist --data=train --held-out=test --largest=1500 --exponent=1.5
CURATE_CONFIG := configs/fashion_mnist_tiny.py
CURATE_AFTER := pretrain
CURATE_MODEL := $(WORKDIR)
endif

$(CURATE)/against/manifest.json: | $(VENV)/.installed
	$(RUN) -m benchmarks.unbalanced $(CURATE_POOL) --out=$(CURATE)

curate: $(VENV)/.installed $(CURATE)/against/manifest.json $(CURATE_AFTER)
	$(DINOV3) curate --recipe=$(CURATE_RECIPE) --out=$(CURATE)/curated \
	    --pool=$(CURATE)/pool --seeds=rare=$(CURATE)/seeds --against=$(CURATE)/against \
	    --model=$(CURATE_MODEL)
	$(DINOV3) train --config=$(CURATE_CONFIG) --workdir=$(CURATE)/again \
	    --config.steps=300 --config.optim.lr.warmup=50 --config.eval.every=300 \
	    --config.data.source=shards --config.data.path=$(CURATE)/curated/shards \
	    --config.eval.source=shards --config.eval.bank=$(CURATE)/against \
	    --config.eval.queries=$(CURATE)/against

# The run of `make pretrain` unless MODEL says another; the page is $(EVALS)/index.html.
evals: $(VENV)/.installed  ## every evaluation on small real data, on the photographs of PHOTOS
	$(RUN) -m pip install --quiet -e .[evals]
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
