# Contracts: setup, demo, test, check, bench. Everything runs from .venv; nothing else on the machine is touched,
# except that `make test` on Debian as root installs the services that the tests use.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo viewer test check bench chaos fuzz hostile conformance services clean help

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/installed  ## make .venv with the project and its locked dependencies

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(PYTHON) is older; name another: make setup PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh tests/install_services.sh python3-venv
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## a study in, its results out, on this machine
	$(BIN)/imaging-ai demo $(ARGS)

viewer: setup  ## OHIF, which the server then shows at /viewer
	@command -v npm >/dev/null || sh tests/install_services.sh npm
	$(BIN)/imaging-ai viewer install $(ARGS)

services:
	@sh tests/install_services.sh

# Three processes share the cores.
test: export OMP_NUM_THREADS = 1
test: setup services  ## everything, with real services (skips what is missing unless CI=true)
	@$(MAKE) --no-print-directory viewer ARGS= || echo "its tests are skipped without the viewer"
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup  ## style, types, import rules, unit tests: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit tests/test_*.py -m "not slow" $(ARGS)

bench: setup services  ## speed against DCMTK and Orthanc, in one run
	$(BIN)/python bench/run.py $(ARGS)

chaos: setup services  ## 200 random kill -9 on each back end
	CHAOS_KILLS=200 $(BIN)/pytest tests/e2e/test_chaos.py --timeout=3600 $(ARGS)

fuzz: setup  ## every parser that faces the network, guided by coverage: make fuzz [SECONDS=60] [ARGS="part10 search"]
	$(BIN)/pip install --quiet --disable-pip-version-check atheris==3.0.0
	cd tests && ../$(BIN)/python -m fuzz $(or $(SECONDS),60) $(ARGS)

hostile: setup  ## 100,000 malformed inputs on all ports of a server in 34 minutes, and what a good client notices: docs/hostile.md
	$(BIN)/python bench/hostile.py $(ARGS)

conformance: setup  ## the DICOMweb checklist against any server: make conformance URL=http://host/dicom-web [TOKEN=…]
	@test -n "$(URL)" || { echo "say which server: make conformance URL=http://host/dicom-web [TOKEN=…]" >&2; exit 2; }
	@CONFORMANCE_TOKEN="$(TOKEN)" $(BIN)/pytest -q -c conformance/pytest.ini conformance --tb=short --url="$(URL)" $(ARGS)

clean:
	rm -rf .venv build dist out .mypy_cache .ruff_cache .pytest_cache
