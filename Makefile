.PHONY: venv servers demo images stack stack-down test test-long test-matrix faults molecule scenarios lint bench clean
.DEFAULT_GOAL := test
USABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
# The distribution's first: it is built with optimizations, which others often lack; playbooks run 1.2 times as fast.
PYTHON ?= $(or $(shell for one in /usr/bin/python3 python3; do $$one -c '$(USABLE)' 2>/dev/null && echo $$one && break; done),python3)
BIN := .venv/bin
# With it Python reads a script from its standard input byte by byte, 0.15 s for each step of a playbook.
unexport PYTHONUNBUFFERED

.venv/ready: requirements.txt
	@$(PYTHON) -c '$(USABLE)' || { echo "Python 3.11 or later with venv is needed (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear .venv && $(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

venv: .venv/ready

# PostgreSQL 15, 16 and 18 for the tests that run on every version; without them they are skipped.
servers: venv
	@PYTHONPATH=collections $(BIN)/python -m tests.servers

demo: venv
	@$(BIN)/python -m demo

images: venv
	@$(BIN)/python -m demo.images

stack: images
	@$(BIN)/python -m demo.stack up

stack-down: venv
	@$(BIN)/python -m demo.stack down

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long and not matrix"

# LONG=tests/playbooks: those only.
test-long: venv
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "long and not matrix" $(LONG)

# Every case of what the two above try some of.
test-matrix: venv
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m matrix

# FAULTS=sample: some of them.
faults: venv
	PYTHONPATH=collections $(BIN)/python -m tests.faults $(or $(FAULTS),full)

molecule: venv
	@if docker version >/dev/null 2>&1; then $(MAKE) --no-print-directory images scenarios; \
	else echo "SKIPPED   molecule's scenarios: no Docker Engine answers; type: .ci/engine"; fi

scenarios:
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/molecule --base-config .config/molecule/config.yml test --all

lint: venv
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	MYPYPATH=collections $(BIN)/mypy -p ansible_collections.habitat.runbook.plugins -p demo
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress .github

bench: venv
	PYTHONPATH=collections $(BIN)/python -m tests.benchmarks

clean:
	-$(BIN)/python -m demo.embedded destroy
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
