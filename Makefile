# Two commands set everything up: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := .demo

.DEFAULT_GOAL := help
.PHONY: help install demo test check format wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## create .venv and install rewardsweep into it

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## score five tiny models and three baselines on the shipped pairs, with a leaderboard at the end
	$(BIN)/python -m workers.tiny_zoo $(DEMO)
	$(BIN)/rewardsweep run --config-dir $(DEMO)/conf store=$(DEMO)/store benchmarks=[demo] \
	  'model=[longest,shortest,random,tiny-llama,tiny-gpt-neox,tiny-bert,tiny-dpo,tiny-judge]'

test: $(INSTALLED) ## run the whole test suite
	$(BIN)/python -m pytest

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
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
