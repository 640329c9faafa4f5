# Two commands: `make run` and `make test`. `make help` lists the others.
# GNU make 3.81 (the one of macOS) is enough.

PYTHON ?= python3
ARGS   ?=
# Test processes side by side. Most of a call is waiting for somebody to finish speaking; more than two starve the models
# of a small machine. Each file of tests stays in one process: its tests share a server.
WORKERS ?= 2
# A pjproject tarball or directory to build pjsua2 from, instead of the ones that are looked for.
PJPROJECT ?=

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps

NATIVE_SOURCES := setup.py $(shell find ext -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
PJSUA2_SOURCES := tools/build_pjsua2.py tools/pjproject_source.py tools/pjsua2_config_site.h

.DEFAULT_GOAL := help
.PHONY: run test test-sip venv test-venv bench pjsua2 models lint type clean help
.DELETE_ON_ERROR:

run: venv  ## everything, then the server; flags by ARGS="-hp 9000"
	@exec $(BIN)/whisper-talk-llama $(ARGS)

venv: $(STAMPS)/console $(STAMPS)/extensions models  ## everything before the run: .venv/, pjsua2, extensions, starter models

# All three are run even when one of them fails: who broke the style also wants to know about the tests.
test: test-venv $(STAMPS)/extensions  ## environment, style, types, the whole test suite; pytest's flags by ARGS
	@failed=; \
	$(BIN)/ruff check . && $(BIN)/ruff format --check . || failed="$$failed style"; \
	$(BIN)/mypy || failed="$$failed types"; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS) || failed="$$failed tests"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

# SIP behaviours only, the slow ones too; the result is a document.
test-sip: test-venv $(STAMPS)/extensions  ## every SIP behaviour, and the table in docs/sip-conformance.md
	AIPHONE_SIP_ALL=1 AIPHONE_SIP_TABLE=docs/sip-conformance.md \
		$(BIN)/python -m pytest tests/integration/test_sip_*.py tests/integration/test_outgoing_call.py \
		tests/integration/test_calls.py tests/integration/test_call_actions.py $(ARGS)

test-venv: venv $(STAMPS)/test-system $(STAMPS)/test-packages

lint: $(STAMPS)/test-packages  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMPS)/test-packages $(STAMPS)/extensions
	$(BIN)/mypy

bench: venv $(STAMPS)/bench-packages  ## the benchmarks, or those named by ARGS
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

models: $(STAMPS)/console $(STAMPS)/extensions  ## the starter models
	@$(BIN)/whisper-talk-llama models pull --starter

pjsua2: $(STAMPS)/venv  ## build pjsua2 without the limit of four calls; from PJPROJECT=tarball or directory
	$(BIN)/python tools/build_pjsua2.py --install $(if $(PJPROJECT),--source "$(PJPROJECT)")
	@touch $(STAMPS)/pjsua2

clean:  ## remove the environment and everything that was built (not the cache in the home directory)
	rm -rf $(VENV) build dist .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks *.egg-info
	find aiphone ext -name '*.so' -delete
	find ext -name '*.pyx' | sed 's/pyx$$/c/' | xargs rm -f

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*  ## /  make \1@/' | \
		awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

# ---- the steps; each leaves a stamp, and is done again when what it depends on changes

$(STAMPS)/venv:
	@python=$$(sh tools/find_python.sh "$(PYTHON)") && \
		"$$python" tools/system_packages.py build && \
		if [ ! -x $(BIN)/python ]; then \
			echo "creating $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); \
		fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/pjsua2: $(PJSUA2_SOURCES) | $(STAMPS)/venv
	@$(BIN)/python tools/build_pjsua2.py --install $(if $(PJPROJECT),--source "$(PJPROJECT)") >/dev/null; status=$$?; \
	if [ $$status = 3 ]; then \
		echo "WARNING: going on with the package registry's pjsua2, which allows 4 calls at once."; \
		echo "         Cure what is said above, then: make pjsua2"; \
	elif [ $$status != 0 ]; then exit $$status; fi
	@touch $@

$(STAMPS)/packages: pyproject.toml tools/constraints.txt $(STAMPS)/pjsua2
	@$(BIN)/python tools/install_dependencies.py
	@touch $@

$(STAMPS)/test-packages: $(STAMPS)/packages
	@$(BIN)/python tools/install_dependencies.py test
	@touch $@

$(STAMPS)/bench-packages: $(STAMPS)/packages
	@$(BIN)/python tools/install_dependencies.py bench
	@touch $@

$(STAMPS)/test-system: tools/system_packages.py | $(STAMPS)/venv
	@$(BIN)/python tools/system_packages.py build test
	@touch $@

$(STAMPS)/extensions: $(NATIVE_SOURCES) $(STAMPS)/packages
	@echo "compiling the extensions ..."
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(STAMPS)/console: pyproject.toml setup.py $(STAMPS)/packages
	@echo "installing the console command ..."
	@AIPHONE_WITHOUT_EXTENSIONS=1 $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@
