# The two commands a newcomer needs: `make demo` and `make test`. Both set everything up first.

PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
LIGHT := .venv/light
READY := .venv/ready
# How many tests run at a time; `logical` is one per core.
WORKERS ?= logical
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup demo test soak check format lint imports types docker-lint bench clean

help:            ## show these lines
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(READY)  ## make .venv with all that development needs, in the versions of constraints.txt

$(LIGHT): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version}")'
	@command -v g++ >/dev/null || { echo "g++ is needed: DeepSpeed compiles its communication op at first use"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

$(READY): $(LIGHT)
	$(INSTALL) -e '.[dev]'
	touch $@

demo: $(LIGHT)   ## sample data -> shards -> inspect -> train -> evaluate -> chat, on two CPU processes
	PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh $(DEMO)

test: setup      ## all tests but the long ones, WORKERS=N at a time
	$(BIN)/python -m pytest -m "not soak" --numprocesses $(WORKERS)

soak: setup      ## the long tests: kills, big files, fault and ZeRO matrices, installs
	$(BIN)/python -m pytest -m soak

format: setup    ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

imports: setup   ## who may import whom
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy src

docker-lint: setup
	$(BIN)/hadolint Dockerfile

check: lint imports types docker-lint test  ## format, lint, imports, types, Dockerfile, tests: what CI runs

bench: setup     ## every benchmark; each prints ratios against a peer or a limit of the same run
	for file in $$(grep -l '^def main' bench/*.py | grep -v -E 'readers|peers'); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:           ## remove what the targets made, .venv included
	rm -rf .venv build $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
