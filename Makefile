# Every target sets up .venv by itself; the second time that takes no time.
#   make book       execute every chapter, then build the pages        -> _build/html/index.html
#   make html       build the pages from the committed outputs         -> _build/html/index.html
#   make test       lint, unit, reference and browser tests, and every chapter's outputs compared
#   make test-fast  the unit tests only
#   make lint       ruff, check and format
#   make outputs    execute the chapters in place, before committing them (CHAPTERS=book/00_ten_minutes.ipynb for one)
# Options: PYTHON=python3.12, PRESET=full, DATASET=cifar10, SEED=1, DEVICE=cuda

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

.PHONY: book html test test-fast lint outputs install clean

book: $(STAMP)
	$(RUN) tools/execute_book.py --into _build/executed $(PARAMETERS) $(CHAPTERS)
	$(BUILD_HTML) _build/executed

html: $(STAMP)
	$(BUILD_HTML) book

# One thread: a training then ends with the same bits each time, so that a failure is one of the chapter.
test: lint
	$(RUN) -m pytest
	OMP_NUM_THREADS=1 $(RUN) -m pytest --nbval book/

test-fast: $(STAMP)
	$(RUN) -m pytest -m "not slow and not browser" --ignore=tests/book --ignore=tests/reference

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

outputs: $(STAMP)
	$(RUN) tools/execute_book.py --in-place $(CHAPTERS)

install: $(STAMP)

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

clean:
	rm -rf _build
