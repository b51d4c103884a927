# The two commands a newcomer needs: `make demo` and `make test`. Both set everything up first.

PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
READY := .venv/ready
CODE := prep shards model train bench tests examples

.PHONY: help setup demo test soak check format lint types docker-lint bench clean

help:            ## show these lines
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(READY)  ## make .venv with the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version}")'
	@command -v g++ >/dev/null || { echo "g++ is needed: DeepSpeed compiles its communication op at first use"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup      ## sample data -> shards -> inspect -> train -> evaluate -> chat, on two CPU processes
	PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh $(DEMO)

test: setup      ## all tests but the long ones
	$(BIN)/python -m pytest -m "not soak"

soak: setup      ## the long tests: kills, big files, fault matrices
	$(BIN)/python -m pytest -m soak

format: setup    ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup     ## links the four folders as the package `vchat`, which type checkers cannot see otherwise
	@mkdir -p build/typing/vchat
	@for part in prep shards model train; do ln -sfn ../../../$$part build/typing/vchat/$$part; done
	$(BIN)/mypy build/typing/vchat

docker-lint: setup
	$(BIN)/hadolint Dockerfile

check: lint types docker-lint test  ## format, lint, types, Dockerfile, tests: what CI runs

bench: setup     ## every benchmark; each prints ratios against a peer or a limit of the same run
	for file in $$(grep -l '^def main' bench/*.py | grep -v -E 'readers|peers'); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:           ## remove what the targets made, .venv included
	rm -rf .venv build $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
