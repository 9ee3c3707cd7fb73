# Every target sets up .venv by itself; the second time that takes no time. `make help` lists them.
# Options: PYTHON=python3.12, PRESET=full, DATASET=cifar10, SEED=1, DEVICE=cuda, CHAPTERS=book/00_ten_minutes.ipynb

PYTHON ?= python3
VENV ?= .venv
PRESET ?=
DATASET ?=
SEED ?=
DEVICE ?=
CHAPTERS ?=

BIN = $(VENV)/bin
STAMP = $(VENV)/installed.stamp
# Notebook kernels and console scripts must be the ones of this environment, wherever they are looked up.
RUN = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python
PARAMETERS = PRESET=$(PRESET) DATASET=$(DATASET) SEED=$(SEED) DEVICE=$(DEVICE)
# -n: every dangling reference is a warning; -W: a warning is an error; --keep-going: show all of them.
BUILD_HTML = $(BIN)/jupyter-book build --all -n -W --keep-going --config _config.yml --path-output .

.PHONY: help book html test test-fast lint outputs install clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n 's/^# Options/Options/p' $(MAKEFILE_LIST)

book: $(STAMP)  ## execute every chapter, then build the pages -> _build/html/index.html
	$(RUN) tools/execute_book.py --into _build/executed $(PARAMETERS) $(CHAPTERS)
	$(BUILD_HTML) _build/executed

html: $(STAMP)  ## build the pages from the committed outputs -> _build/html/index.html
	$(BUILD_HTML) book

# One thread: a training then ends with the same bits each time, so that a failure is one of the chapter.
test: lint  ## lint, unit, reference and browser tests, and every chapter's outputs compared
	$(RUN) -m pytest
	OMP_NUM_THREADS=1 $(RUN) -m pytest --nbval book/

test-fast: $(STAMP)  ## the unit tests only
	$(RUN) -m pytest -m "not slow and not browser" --ignore=tests/book --ignore=tests/reference

lint: $(STAMP)  ## ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

outputs: $(STAMP)  ## execute the chapters in place, before committing them
	$(RUN) tools/execute_book.py --in-place $(CHAPTERS)

install: $(STAMP)  ## the library, the book and the tests into .venv

# pip downloads everything before it installs anything, so a failed download leaves nothing worth keeping: the
# marker `incomplete` makes the next call start from an empty environment. An environment of your own is kept.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is older or missing: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	  exit 1; }
	@if [ -e $(VENV)/incomplete ]; then $(PYTHON) -m venv --clear $(VENV); \
	  elif [ ! -x $(BIN)/python ]; then $(PYTHON) -m venv $(VENV); fi
	@touch $(VENV)/incomplete
	@echo "Installing the library, the book and the tests into $(VENV) (several minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[book,test]"
	@rm $(VENV)/incomplete && touch $@

clean:  ## remove the built pages
	rm -rf _build
