# make demo | test | lint | bench: each first makes .venv and installs what it needs; the second time that is skipped.
# PYTHON=/path/to/python3 chooses the interpreter, DEMO="--data DIR" and BENCH="train --rows 10000" what is run.

BIN := .venv/bin
LINKS := $(addprefix src/tidegate/,party coordinator protocols wire)
DEMO ?= --out demo-out
BENCH ?= match --json

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:
	@echo "make demo    a whole campaign between a brand, a media and a coordinator on this machine"
	@echo "make test    lint, then every test"
	@echo "make lint    ruff, mypy --strict, import rules, dead code, generated files"
	@echo "make bench   one step on generated data; BENCH=\"train --rows 10000 --json\" chooses it"
	@echo "make clean   removes what these made"

demo: .venv/installed
	$(BIN)/tidegate demo $(DEMO)

bench: .venv/installed
	$(BIN)/tidegate bench $(BENCH)

lint: .venv/installed
	$(BIN)/ruff check . $(LINKS)
	$(BIN)/mypy src/tidegate tests examples docs
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture
	$(BIN)/python -m tidegate.wire.generate --check
	$(BIN)/python docs/leakage.py --check

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# Sources of the crate count as what the installation was made from, so that a change to them is built.
.venv/installed: pyproject.toml requirements.lock requirements-dev.lock $(wildcard protocols/native/Cargo.* protocols/native/src/*.rs)
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "Python 3.11 or newer is needed and none was found; name one with PYTHON=/path/to/python3" >&2; exit 1; }; \
	[ -x $(BIN)/pip ] || "$$python" -m venv .venv >.venv-failed 2>&1 || { \
	    cat .venv-failed; rm -rf .venv .venv-failed; \
	    echo "$$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	rm -f .venv-failed
	@command -v cargo >/dev/null || echo "No Rust toolchain (rustup.rs): matching will use libsodium, which is slower."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@# A worker is a process of its own: it should not compile what it imports, also where writing bytecode is turned off.
	@$(BIN)/python -m compileall -q $(LINKS)
	@touch $@

clean:
	rm -rf .venv build dist demo-out src/*.egg-info protocols/native/target protocols/*.so
