# `make demo` and `make test` need only Python 3.11+, pip and make; everything lands in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

# Peers of the benchmarks. litgpt asks for an older huggingface-hub than transformers does; its model code runs without.
LITGPT := litgpt==0.5.13 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 jsonargparse==4.53.0

.PHONY: demo test check bench accept clean

demo: .venv/core
	$(BIN)/eco demo

test: .venv/dev check
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/bench
	$(BIN)/python -m benchmarks

accept: .venv/dev
	$(BIN)/python -m pytest -m slow -s

# torch goes first: with it in place no later requirement brings another build of it.
.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e .
	touch $@

.venv/dev: .venv/core
	$(PIP) -e '.[dev,hf,parquet]' tensorboard
	touch $@

.venv/bench: .venv/dev
	$(BIN)/python -m pip install -q --no-deps $(LITGPT) mambapy==1.2.0
	touch $@

clean:
	rm -rf .venv runs
