# Two commands do everything on a machine with Python >= 3.11 and make:
#   make book    make test
# An environment that exists already is used as it is with  make book PYTHON=/path/to/python

VENV    ?= .venv
PROFILE ?= book
JOBS    ?= $(shell python3 -c "import os; print(len(os.sched_getaffinity(0)))" 2>/dev/null || echo 2)
ALIAS   := $(shell for v in python3 python3.13 python3.12 python3.11 python; do \
             $$v -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$v && break; done)

ifdef PYTHON
  PY    := $(PYTHON)
  STAMP := build/.ready$(subst /,-,$(PYTHON))
else
  PY    := $(VENV)/bin/python
  STAMP := $(VENV)/.ready
endif

RUN      = $(PY) -m invkit.run -j $(JOBS)
BUILD    = $(PY) -c "from jupyter_book.cli.main import main; main()" build . --toc book/_toc.yml -W --keep-going --all
BOOKS    = $(wildcard notebooks/[0-9]*.ipynb)
STRIP    = --keep-id --extra-keys "metadata.book metadata.papermill metadata.widgets metadata.language_info.version cell.metadata.papermill cell.metadata.execution"

export PYTHONUTF8 := 1
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup book test bench execute trial html lint report clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## environment and install, if not done yet

book: execute html ## run every notebook, build the pages into _build/html
	@echo "book: open _build/html/index.html"

execute: $(STAMP) ## run every notebook that changed (PROFILE=ci|book|paper, JOBS=n)
	$(RUN) --profile $(PROFILE)

trial: $(STAMP) ## every notebook in profile paper with five steps of training and inversion, before hours are spent on one
	$(RUN) --profile paper --trial

html: $(STAMP) ## build the pages from the runs that are there
	BOOK_PROFILE=$(PROFILE) $(BUILD)

test: lint ## style, types, notebooks in profile ci, unit tests, built pages in a browser
	$(RUN) --profile ci
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(if $(BOOKS),$(PY) -m nbstripout --verify $(STRIP) $(BOOKS))

bench: $(STAMP) ## measure time and memory of a step
	$(PY) -m pytest tests/benchmarks --benchmark-only

report: $(STAMP) ## one HTML file on your network: NETWORK=my_file:make_net [WEIGHTS= DATA= HELDOUT= JUDGE= MINUTES= OUT=]
	@$(PY) -m invkit.report "$(NETWORK)" --weights "$(WEIGHTS)" --data "$(DATA)" --heldout "$(HELDOUT)" --judge "$(JUDGE)" \
	  --judge-weights "$(JUDGE_WEIGHTS)" --spec "$(SPEC)" --minutes $(or $(MINUTES),10) --out "$(or $(OUT),report.html)"

clean: ## remove built pages and runs (environment and caches stay)
	rm -rf _build build/executed build/failed build/ci build/claims build/trial

ifdef PYTHON
$(STAMP): pyproject.toml tools/check_torch.py
else
$(PY):
	@test -n "$(ALIAS)" || { echo "set-up: no Python >= 3.11 with venv found; on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	$(ALIAS) -m venv $(VENV) || { rm -rf $(VENV); echo "set-up: venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(STAMP): pyproject.toml tools/check_torch.py | $(PY)
endif
	@echo "set-up: installing into $$($(PY) -c 'import sys; print(sys.prefix)')"
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[all]'
	$(PY) tools/check_torch.py
	@mkdir -p $(@D) && touch $@
