# `make race` and `make test` are all a fresh machine needs: both build .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help race test lint study narrow bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

race: $(READY)  ## the main job: race optimizers on real data, report in runs/digits/report.html
	$(BIN)/thalweg race digits --name digits --fresh --budget tiny

# A process a core; the waiting threads of one must not take the core of another.
test: $(READY)  ## the test suite
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not study" -n auto --dist worksteal

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

study: $(READY)  ## the long studies that the test suite leaves out
	$(BIN)/python -m pytest -m study

narrow: $(READY)  ## the tests of native kernels with vectors of 32 and of 16 bytes, on x86
	for march in haswell x86-64-v2; do MARCH=$$march CXX=$(CURDIR)/tests/engines/narrow_cxx \
	  THALWEG_CACHE_DIR=$$(mktemp -d) $(BIN)/python -m pytest -n 2 tests/engines/test_native.py || exit 1; done

bench: $(READY)  ## step time of every optimizer against torch's fused AdamW, in one run
	$(BIN)/thalweg bench step --set gpt2-small --optimizers all

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
