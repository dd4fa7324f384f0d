# Every target works on a fresh machine with python3 (venv), make and git; run twice, it is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT := out
CORE := $(VENV)/.core
ALL := $(VENV)/.all
SITE := $(VENV)/.site

.DEFAULT_GOAL := help

help:  ## List every target
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | \
	  awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(ALL): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[calibrate,ray,dev]'
	@touch $@ $(CORE)

$(SITE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	@touch $@ $(CORE)

install: $(CORE)  ## Install the core into .venv

compare: $(CORE)  ## Compare the three schedulers on the embedded workload: a table and a figure
	@mkdir -p $(OUT)
	$(BIN)/llmsched compare --figure $(OUT)/compare.png $(ARGS)

test: how-long $(ALL) lint types  ## Lint, types and every test but the papers at full size (make paper); installs all extras
	$(BIN)/python -m pytest -n 2 --doctest-modules -m "not gpu and not paper and not faults and not long" src/llmsched tests

how-long:
	@echo "make test: about 8 minutes on 2 quiet cores, installation of the extras included."
	@echo "It lints, checks types, then runs the tests; a dot is a test."

check: $(ALL) lint types  ## What each commit passes: format, lint, types, fast tests, doctests
	$(BIN)/python -m pytest -n 2 --doctest-modules src/llmsched tests

lint: $(ALL)  ## Format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(ALL)  ## mypy --strict
	$(BIN)/mypy

format: $(ALL)  ## Format the code in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(CORE)  ## Speed and memory, as ratios on this machine
	$(BIN)/python experiments/bench/bench.py $(ARGS)

paper: paper-multibin paper-dynamic  ## Redo both papers: figures, REPORT.md, tests at their own sizes

paper-multibin: $(ALL)  ## Multi-Bin Batching alone
	$(BIN)/llmsched paper multibin --out $(OUT)/multibin $(ARGS)
	$(if $(ARGS),,cp $(OUT)/multibin/*.png $(OUT)/multibin/REPORT.md experiments/multibin)
	$(BIN)/python -m pytest -m paper tests/studies/multibin

paper-dynamic: $(ALL)  ## Dynamic Batching alone
	$(BIN)/llmsched paper dynamic --out $(OUT)/dynamic $(ARGS)
	$(if $(ARGS),,cp $(OUT)/dynamic/*.png $(OUT)/dynamic/REPORT.md experiments/dynamic)
	$(BIN)/python -m pytest -m paper tests/studies/dynamic

TINY := --random-weights tiny-qwen3 --threads 1 --batch-sizes 1,2,4,8 --seq-lens 16,64,256
SHORT := --trace calibration/tiny-requests.toml --rps-scale 1 --gpus 2 --batch-max 8 --sla 1
NAME ?= $(if $(ARGS),measured,cpu-tiny-qwen3)
GRID = $(OUT)/calibration/$(NAME)

calibrate: $(ALL)  ## Measure a small model on this CPU, fit, compare; ARGS="--model ..." for yours
	@mkdir -p $(OUT)/calibration
	$(BIN)/llmsched calibrate measure $(or $(ARGS),$(TINY)) --out $(GRID).csv $(if $(wildcard $(GRID).csv),--restart)
	$(BIN)/llmsched calibrate fit $(GRID).csv --out $(GRID)-model.json --figure $(GRID).png
	$(BIN)/llmsched compare --latency $(GRID).csv --requests 2000 $(if $(ARGS),,$(SHORT))

statistics: $(CORE)  ## How often printed intervals are right: the tables of docs/statistics.md
	$(BIN)/python experiments/statistics/coverage.py $(ARGS)

stress: $(CORE)  ## All three steps of the stress plan, up to 1M requests: OUT/stress/report.html
	$(BIN)/llmsched stress all --out $(OUT)/stress $(ARGS)

stress-iteration: $(CORE)  ## The plan where requests join at every step, to 100k: OUT/stress-iteration
	$(BIN)/llmsched stress all --engine iteration --step-time physics:h100:llama-3.1-8b \
	  --volumes 1000,10000,100000 --gpu-counts 1,2,4,8 --seeds 2 --sla 30 --rps-scale 100 \
	  --out $(OUT)/stress-iteration $(ARGS)

stress-step1: $(CORE)  ## Step 1: request scaling, all schedulers on equal GPUs
	$(BIN)/llmsched stress step1 --out $(OUT)/stress $(ARGS)

stress-step2: $(CORE)  ## Step 2 and 2b: GPU scaling at the given rate and at held loads
	$(BIN)/llmsched stress step2 --out $(OUT)/stress $(ARGS)

stress-step3: $(CORE)  ## Step 3: numbers of bins, on the GPU count of step 2
	$(BIN)/llmsched stress step3 --out $(OUT)/stress $(ARGS)

DATA ?= ../shared/data

engines: $(ALL)  ## Batch schedulers beside continuous ones: docs/engines.md (DATA: the traces)
	$(BIN)/python experiments/engines/engines.py --data $(DATA) --out $(OUT) $(ARGS)

burstiness: $(ALL)  ## Bursts, predictors, bins, Algorithm 2 on real traffic: docs/burstiness.md
	$(BIN)/python experiments/engines/burstiness.py --data $(DATA) --out $(OUT) $(ARGS)

published: $(ALL)  ## Published values beside ours: PUBLISHED.md
	$(BIN)/python experiments/stress/published.py $(ARGS)

docs: $(SITE)  ## Build the documentation site with warnings as errors: OUT/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir $(abspath $(OUT))/site

figures: $(CORE)  ## Draw the documents' figures anew, with the commands of docs/gallery.md
	$(BIN)/python docs/docs_blocks.py docs/gallery.md docs/figures

validation: $(ALL)  ## Real runs against the simulator, the table of docs/validation.md; ARGS="--data FOLDER"
	$(BIN)/python experiments/validation/validation.py $(ARGS)

window: $(ALL)  ## What deadline_window gains: tables and figure; ARGS="--data FOLDER" for real traces
	$(BIN)/python experiments/deadline_window/window.py $(ARGS)

long: $(ALL)  ## Thousands more random runs against the reference engines: 5 minutes
	$(BIN)/python -m pytest -n 2 -m long tests

faults: $(ALL)  ## Some 170 faults on purpose, from full disks to Ctrl-C: each ends in one line
	$(BIN)/python -m pytest -n 2 -m faults tests/faults $(ARGS)

mutants: $(ALL)  ## Break one line at a time in a copy: does a test notice each?
	$(BIN)/python experiments/mutants/mutants.py $(ARGS)

constraints: $(ALL)  ## Pin what is installed now into constraints.txt
	$(BIN)/python experiments/pin_constraints.py > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean:  ## Remove the environment, caches and outputs
	rm -rf $(VENV) $(OUT) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help install compare test how-long check lint types format bench paper paper-multibin \
  paper-dynamic calibrate statistics stress stress-iteration stress-step1 stress-step2 stress-step3 \
  engines burstiness published docs figures validation window faults long mutants constraints clean
