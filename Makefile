# Two commands: `make demo` and `make test`. PYTHON picks the interpreter.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
DEMO := runs/demo
BASE := $(DEMO)/pretrain
TUNED := $(DEMO)/sft
JUDGE := $(DEMO)/rm
LIKED := $(DEMO)/dpo
DRAWN := $(DEMO)/ppo
PAGE := $(DEMO)/compared/index.html
PRETRAIN := $(BIN)/python -m experiments.pretrain_tiny_stdlib
SFT := $(BIN)/python -m experiments.sft_tiny_stdlib
RM := $(BIN)/python -m experiments.rm_tiny_stdlib
DPO := $(BIN)/python -m experiments.dpo_tiny_stdlib
PPO := $(BIN)/python -m experiments.ppo_tiny_stdlib
# All are asked the questions of one experiment, in the same way.
ASK := $(PPO) evaluate --judge=$(JUDGE) --kl_from=$(TUNED) --only=docstrings \
	--batch_size=64 --validation.temperature=0.7 --samples.max_new_tokens=32

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

demo: $(PAGE) ## trains and judges five small models, and compares them (about 12 minutes)
	@echo "Done. Open $(PAGE); each model's own page is report.html in its folder"

# Each stage leaves a file when it has ended: a demo that was stopped goes on
# with the stage that it was in, which goes on from its last checkpoint.
$(DEMO)/1.done: | $(STAMP)
	@echo "1/7 Pretraining a small model on the standard library's text, about 3 minutes"
	@$(PRETRAIN) train --workdir=$(BASE) --steps=380
	@touch $@

$(DEMO)/2.done: $(DEMO)/1.done
	@echo "2/7 Teaching it to answer questions, about a minute"
	@$(SFT) train --init_from=$(BASE) --workdir=$(TUNED) --steps=150
	@touch $@

$(DEMO)/3.done: $(DEMO)/2.done
	@echo "3/7 A reward model, which tells better answers from worse ones, about a minute"
	@$(RM) train --init_from=$(TUNED) --workdir=$(JUDGE) --steps=140 --validation.every=70
	@touch $@

$(DEMO)/4.done: $(DEMO)/3.done
	@echo "4/7 Direct preference optimisation of the tuned model, half a minute"
	@$(DPO) train --init_from=$(TUNED) --workdir=$(LIKED) --steps=40
	@touch $@

$(DEMO)/5.done: $(DEMO)/4.done
	@echo "5/7 PPO of the tuned model: what it says itself, as the reward model scores it, about two minutes"
	@$(PPO) train --init_from=$(TUNED) --workdir=$(DRAWN) --judge.run=$(JUDGE) --value_from=$(JUDGE) --steps=64 --validation.every=64
	@touch $@

$(DEMO)/6.done: $(DEMO)/5.done
	@echo "6/7 All of them answer the same questions, about two minutes"
	@$(ASK) --workdir=$(BASE) --validation.best_of=1
	@$(ASK) --workdir=$(TUNED) --validation.best_of=4
	@$(ASK) --workdir=$(LIKED) --validation.best_of=1
	@$(ASK) --workdir=$(DRAWN) --validation.best_of=1
	@touch $@

$(PAGE): $(DEMO)/6.done
	@echo "7/7 Beside each other"
	@$(PPO) compare --runs=$(BASE),$(TUNED),$(LIKED),$(DRAWN) --into=$(@D)

test: $(STAMP) ## every test (about 34 minutes on four cores)
	@echo "Running the tests: about 34 minutes on four cores, less the next time"
	@$(BIN)/python -m pytest -n auto --durations=20

lint: $(STAMP) ## format, lint, architecture and types (1 minute)
	@echo "Checking format, lint, architecture and types: about 1 minute"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/mypy

clean: ## removes what the commands above made, but for runs/
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
