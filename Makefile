# Two commands: `make demo` and `make test`. PYTHON picks the interpreter.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
BASE := runs/demo/pretrain
TUNED := runs/demo/sft
JUDGE := runs/demo/rm
LIKED := runs/demo/dpo
PRETRAIN := $(BIN)/python -m experiments.pretrain_tiny_stdlib
SFT := $(BIN)/python -m experiments.sft_tiny_stdlib
RM := $(BIN)/python -m experiments.rm_tiny_stdlib
DPO := $(BIN)/python -m experiments.dpo_tiny_stdlib

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## makes .venv with pinned versions (2 to 5 minutes)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("llm_jax needs Python 3.11 to 3.13; %s is %d.%d. Try: make PYTHON=python3.11 install" % (sys.executable, *v))'
	@echo "Installing into .venv: about 250 MB to download, 2 to 5 minutes"
	@(while sleep 2; do printf .; done) & dots=$$!; trap 'kill $$dots 2>/dev/null; echo' EXIT; \
	$(PYTHON) -m venv .venv || exit 1; \
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,lint]' >.venv/pip.log 2>&1 \
	|| { echo; echo "pip failed; its last words, of .venv/pip.log:"; tail -n 15 .venv/pip.log; exit 1; }
	@$(BIN)/python -c 'import jax, llm_jax'
	@touch $(STAMP)

demo: $(STAMP) ## trains, tunes, judges and measures a small model (about 10 minutes)
	@echo "1/6 Pretraining a small model on the standard library's text, about 4 minutes"
	@$(PRETRAIN) train --workdir=$(BASE) --steps=600
	@$(PRETRAIN) evaluate --workdir=$(BASE)
	@echo "2/6 Teaching it to answer questions, about two minutes"
	@$(SFT) train --init_from=$(BASE) --workdir=$(TUNED) --steps=150
	@echo "3/6 What it gained over its base, and lost, half a minute"
	@$(SFT) evaluate --workdir=$(TUNED) --against=$(BASE)
	@echo "4/6 A reward model, which tells better answers from worse ones, about a minute"
	@$(RM) train --init_from=$(TUNED) --workdir=$(JUDGE) --steps=200 --validation.every=100
	@$(RM) evaluate --workdir=$(JUDGE)
	@echo "5/6 Direct preference optimisation of the tuned model, about a minute"
	@$(DPO) train --init_from=$(TUNED) --workdir=$(LIKED) --steps=40
	@$(DPO) evaluate --workdir=$(LIKED) --init_from=$(TUNED)
	@echo "6/6 The base continues a text, the others answer a question"
	@$(PRETRAIN) generate --workdir=$(BASE) --prompt='def open('
	@$(SFT) generate --workdir=$(TUNED) --prompt='What is the function called that does this? Return the size of a file.'
	@$(DPO) generate --workdir=$(LIKED) --prompt='What is the function called that does this? Return the size of a file.'
	@echo "Done. Open $(BASE)/report.html, $(TUNED)/report.html, $(JUDGE)/report.html and $(LIKED)/report.html"

test: $(STAMP) ## every test (about 13 minutes on four cores)
	@echo "Running the tests: about 13 minutes on four cores, less the next time"
	@$(BIN)/python -m pytest -n auto

lint: $(STAMP) ## format, lint, architecture and types (1 minute)
	@echo "Checking format, lint, architecture and types: about 1 minute"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/mypy

clean: ## removes what the commands above made, but for runs/
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
