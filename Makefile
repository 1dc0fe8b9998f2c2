# On a fresh machine with Python 3.11, make and git:
#   make demo    installs everything, converts a synthetic checkpoint, verifies it, loads it and classifies
#   make test    installs everything and runs the suite on TensorFlow, JAX and PyTorch (15 minutes on 2 cores)
# `make help` lists the rest.

PYTHON ?= python3.11
# Test processes, threads of each numerical library in each, threads of the one process that tests the large
# variants, and what else pytest should be told.
WORKERS ?= 2
THREADS ?= 1
LARGE_THREADS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

QUIET_CPU = CUDA_VISIBLE_DEVICES= TF_CPP_MIN_LOG_LEVEL=3 OMP_NUM_THREADS=$(THREADS) \
	TF_NUM_INTRAOP_THREADS=$(THREADS) TF_NUM_INTEROP_THREADS=1
# On TensorFlow a file stays with one process, so that what its tests share is made once. The others share little, and
# idle workers take tests from busy ones.
DIST = loadfile --no-loadscope-reorder
PYTEST = $(QUIET_CPU) $(BIN)/python -m pytest -q -n $(WORKERS) --dist $(DIST) $(PYTEST_ARGS)
# Needs Keras and one backend, and neither PyTorch's models nor real sizes.
FAST = backend and not real and not nightly and not torch

.DEFAULT_GOAL := help
# Two backends at once would want more memory than there is.
.NOTPARALLEL:
.PHONY: help venv demo test test-tensorflow test-jax test-torch test-fast lint format docs matrix bench tables clean
.PHONY: nightly nightly-tensorflow nightly-large nightly-jax nightly-torch

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)  ## create .venv with everything in it

# pip and setuptools first and pinned, so that the build needs no environment of its own.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[all]"
	touch $@

demo: venv  ## convert a synthetic checkpoint, verify it, load it back, classify
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python examples/demo.py

test: venv test-tensorflow test-jax test-torch  ## what a commit must pass, on TensorFlow, JAX and PyTorch

test-tensorflow: venv
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not nightly"

# What depends on the backend.
test-jax test-torch: DIST = worksteal
test-jax: venv
	KERAS_BACKEND=jax $(PYTEST) -m "backend and not nightly"

test-torch: venv
	KERAS_BACKEND=torch $(PYTEST) -m "backend and not nightly"

test-fast: venv  ## the fast part, on the backend that KERAS_BACKEND names
	$(PYTEST) -m "$(FAST)"

# Every variant, layout and form at its real size, on every backend; whole programs; every Unicode character.
nightly: venv test nightly-tensorflow nightly-large nightly-jax nightly-torch  ## everything, for hours

nightly-tensorflow: venv
	KERAS_BACKEND=tensorflow $(PYTEST) -m "nightly and not large"

# One process with every core: a large variant in float64, folded beside itself, takes 10 GiB.
nightly-large: THREADS = $(LARGE_THREADS)
nightly-large: WORKERS = 0
nightly-large: venv
	KERAS_BACKEND=tensorflow $(PYTEST) -m "nightly and large"

nightly-jax: venv
	KERAS_BACKEND=jax $(PYTEST) -m "backend and nightly and not large"

nightly-torch: venv
	KERAS_BACKEND=torch $(PYTEST) -m "backend and nightly and not large"

lint: venv  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv  ## build the documentation into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Rows by name: make matrix ROWS="lowest-jax nightly-jax". Each has an environment of its own, not .venv.
ROWS ?=
matrix:  ## the fast tests with the lowest, the newest and the coming versions
	$(PYTHON) tests/matrix.py --write $(ROWS)

# The alternatives that are measured beside this package are no part of .venv until then.
bench: venv  ## how fast s0 is beside PyTorch, ONNX Runtime and OpenVINO
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]" --no-build-isolation
	$(BIN)/python benchmarks/inference.py s0 --rounds 5
	$(BIN)/python benchmarks/loading.py 2-s0
	$(BIN)/python benchmarks/converting.py s0
	$(BIN)/python benchmarks/summary.py

tables: venv  ## write the tables of weight_maps/ anew
	$(BIN)/python -m mobileclip_keras.weight_maps.generate

clean:  ## remove everything that building and testing left, .venv included
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
