# Each entry point has its own virtual environment: `make demo`; `make test`, `make test-all`; `make docs`; `make test-oldest`.
PYTHON ?= python3
PIP_FLAGS = --quiet --disable-pip-version-check --constraint constraints.txt
# What tests/interop compares with, without what it requires (torchvision, wandb, ..), for which stand-ins do.
ELSEWHERE = k-diffusion denoising-diffusion-pytorch ema-pytorch azula einops
RUN_TESTS = OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n 2

.PHONY: demo docs fashion gpu lint notebooks test test-all test-oldest

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install $(PIP_FLAGS) torch==2.13.0
	.venv/bin/pip install $(PIP_FLAGS) --editable '.[runner,images,grids,ode,sde]'
	touch $@

.venv-test/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install $(PIP_FLAGS) torch==2.13.0
	.venv-test/bin/pip install $(PIP_FLAGS) --editable '.[test]'
	.venv-test/bin/pip install $(PIP_FLAGS) --no-deps $(ELSEWHERE)
	touch $@

.venv-docs/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install $(PIP_FLAGS) torch==2.13.0
	.venv-docs/bin/pip install $(PIP_FLAGS) --editable '.[docs]'
	touch $@

# The main job: pretrained network -> curve, grids, samples, bits/dim, in results/digits_vp; then emoji by 5 calls and by 50.
demo: .venv/installed
	.venv/bin/python -m runners.main --config=configs/digits_vp.py --workdir=results/digits_vp
	.venv/bin/python -m runners.main --config=configs/emoji.py --mode=sample --workdir=results/emoji

# A DDPM on Fashion-MNIST that others trained (docs/networks.md): make fashion WEIGHTS=FOLDER [DATA=FOLDER].
DATA ?= /usr/share/datasets/fashion-mnist
FOUND = $(firstword $(wildcard $(WEIGHTS)/ddpm_fashion.*))
FASHION = --config=benchmarks/foreign_config.py:fashion --config.data.directory=$(DATA) --workdir=results/fashion
fashion: .venv/installed
	@test -f "$(FOUND)" || { echo "set WEIGHTS to the folder of ddpm_fashion.pt or .safetensors, from" \
	  "github.com/BrianPulfer/PapersReimplementations (commit eb15d5f, MIT licence)"; exit 1; }
	@test -f "$(DATA)/t10k-images-idx3-ubyte.gz" || { echo "get Fashion-MNIST, as by 'apt-get install dataset-fashion-mnist'" \
	  "(Debian), or set DATA to a folder that holds t10k-images-idx3-ubyte.gz"; exit 1; }
	for mode in estimate sample evaluate; do \
	  .venv/bin/python -m runners.main $(FASHION) --config.network.weights=$(FOUND) --mode=$$mode \
	  || exit 1; done

# Style and types.
lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

# All tests but the slow ones.
test: lint
	$(RUN_TESTS) -m "not slow"

# The slow ones too, with coverage.
test-all: lint
	$(RUN_TESTS) --hypothesis-profile=thorough --cov --cov-report=term --cov-fail-under=95

# Tests and benchmark of a GPU, in an environment whose torch finds one; the results go to docs/results/gpu.md.
gpu:
	$(PYTHON) -m pytest tests/gpu
	$(PYTHON) -m benchmarks.gpu --output=docs/results

# The oldest versions that setup.py allows, in a temporary environment; TORCH=2.13.0 replaces torch's.
test-oldest:
	$(PYTHON) .ci/oldest.py

# The site, in build/site: every page, link and name must be right, and nothing is fetched.
docs: .venv-docs/installed
	.venv-docs/bin/python -m sphinx -n -W --keep-going -b html docs build/site
	.venv-docs/bin/python docs/check.py build/site

# The notebooks of the site, run from top to bottom and kept with what they print and draw.
notebooks: .venv-docs/installed
	.venv-docs/bin/python docs/execute.py
