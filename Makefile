# Two entry points, each in its own virtual environment: `make demo` and `make test`.
PYTHON ?= python3
PIP_FLAGS = --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install $(PIP_FLAGS) torch==2.13.0
	.venv/bin/pip install $(PIP_FLAGS) --editable '.[images,grids,ode,sde]'
	touch $@

.venv-test/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install $(PIP_FLAGS) torch==2.13.0
	.venv-test/bin/pip install $(PIP_FLAGS) --editable '.[test]'
	touch $@

# The main job: pretrained network -> curve, grids, samples, bits/dim, in results/digits_vp.
demo: .venv/installed
	.venv/bin/python -m runners.main --config=configs/digits_vp.py --workdir=results/digits_vp

# Lint, types, tests with coverage.
test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n 2 --cov --cov-report=term --cov-fail-under=90
