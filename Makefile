# graft. `make` lists the targets. pip's own configuration (mirrors, certificates) applies; PYTHON chooses the interpreter.

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(shell \
    command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && echo $(name))) python3)
ENGINE := .venvs/engine/bin/python
METHOD := .venvs/LLaMA-Factory/bin/python
OPENVLA := .venvs/openvla/bin/python
STARVLA := .venvs/starVLA/bin/python
INFODYN := .venvs/infodyn/bin/python
CHECKOUT := upstreams/LLaMA-Factory
# What `make demo` and `make test` fetch and graft; `make demo UPSTREAMS=` takes all of upstream.lock.
UPSTREAMS ?= LLaMA-Factory
BUILD_METHOD := $(PYTHON) envs/build.py LLaMA-Factory --python 3.11 --cpu-shims --editable $(CHECKOUT) \
    -r envs/LLaMA-Factory/requirements.txt -r envs/LLaMA-Factory/requirements-standin.txt
# tensorflow 2.15, which openvla pins, ends at Python 3.11. Exit code 3: a package that exists in git only is out of reach.
PYTHON311 ?= $(firstword $(foreach name,python3.11 python3.10 python3,$(shell command -v $(name) >/dev/null 2>&1 \
    && $(name) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null && echo $(name))) python3.11)
BUILD_OPENVLA := $(PYTHON311) envs/build.py openvla --python 3.10 --before 3.12 --cpu-shims torchvision \
    --editable upstreams/openvla -r envs/openvla/requirements.txt -r envs/openvla/requirements-libero.txt \
    --no-deps-requirements envs/openvla/requirements-nodeps.txt \
    --no-deps-requirements envs/openvla/requirements-libero-nodeps.txt
BUILD_STARVLA := $(PYTHON) envs/build.py starVLA --python 3.10 --cpu-shims torchvision -r envs/starVLA/requirements.txt \
    --no-deps-requirements envs/starVLA/requirements-nodeps.txt
# omegaid asks for Python 3.12 in its metadata, and runs on 3.11. `make infodyn GPU=1` adds cupy.
BUILD_INFODYN := PIP_IGNORE_REQUIRES_PYTHON=1 $(PYTHON) envs/build.py infodyn --python 3.11 \
    -r envs/infodyn/requirements.txt $(if $(GPU),-r envs/infodyn/requirements-gpu.txt) \
    --no-deps-requirements envs/infodyn/requirements-nodeps.txt
# What runs in which environment: the grafted LLaMA-Factory's; the overlays of openvla, LIBERO and starVLA on our
# stand-ins and the closed-loop world, in the same one, since it has torch and MuJoCo; the real openvla's; the real
# starVLA's. Everything else: the engine's.
METHOD_TESTS := tests/llamafactory tests/test_hsa_feedback_migration.py
INFODYN_TESTS := tests/infodyn
STANDIN_TESTS := tests/openvla tests/libero
# A run of their own: both folders have a conftest.py whose names their tests import.
SAGR_TESTS := tests/starvla $(wildcard tests/runners/test_reach_world*.py) $(wildcard tests/runners/test_libero_*.py)
REAL_TESTS := tests/openvla_real
STARVLA_TESTS := tests/starvla_real tests/starvla/test_next_frame.py
OID_TESTS := tests/oid
ELSEWHERE := $(addprefix --ignore=,$(METHOD_TESTS) $(INFODYN_TESTS) $(OID_TESTS) $(STANDIN_TESTS) $(SAGR_TESTS) $(REAL_TESTS) $(STARVLA_TESTS))
PYTEST_ARGS ?=

.PHONY: help demo test test-engine test-methods test-upstreams llamafactory openvla starvla infodyn lint bench clean engine engine-dev graft

help:
	@echo "make demo            build the environments, graft, train off and on, a chapter a method: artifacts/demo/report.html"
	@echo "                     (REPORT_LANG=zh: in Chinese; without it as the locale says)"
	@echo "make test            set up and run the tests: the engine's, then those inside the grafted LLaMA-Factory"
	@echo "make test-upstreams  the heavy tests on real upstreams"
	@echo "make llamafactory    fetch and graft LLaMA-Factory, and build its environment"
	@echo "make openvla         fetch and graft openvla and LIBERO, and build the environment that runs both"
	@echo "make starvla         fetch and graft starVLA, and build the environment that runs its trainer"
	@echo "make infodyn         build the environment of analyze-oid and infodyn-digits (omegaid; GPU=1 adds cupy)"
	@echo "make lint            ruff check, ruff format --check, mypy"
	@echo "make bench           every figure of bench/, one JSON object a line"
	@echo "make clean           remove environments, caches and artifacts; upstreams/ stays"
	@echo "PYTHON=python3.12 make ... chooses the interpreter (3.11 or later); now: $(PYTHON)"

engine:
	@$(PYTHON) envs/build.py engine -r requirements.txt

engine-dev:
	@$(PYTHON) envs/build.py engine -r requirements.txt -r requirements-dev.txt

# Exit code 3 says that an upstream is out of reach: apply.py has named it and the remedy, and the next step decides.
graft: engine
	@echo "==> graft: python apply.py $(UPSTREAMS)"
	@$(ENGINE) apply.py $(UPSTREAMS) || test $$? -eq 3

demo: graft
	@$(ENGINE) apply.py status --reach
	@$(BUILD_METHOD)
	@$(BUILD_INFODYN)
	@$(ENGINE) -m demo $(if $(REPORT_LANG),--lang $(REPORT_LANG))

test: engine-dev graft
	@$(BUILD_METHOD) -r envs/LLaMA-Factory/requirements-dev.txt
	@$(BUILD_INFODYN) -r envs/infodyn/requirements-dev.txt
	@code=0; $(MAKE) --no-print-directory test-engine || code=1; $(MAKE) --no-print-directory test-methods || code=1; exit $$code

test-engine:
	@echo "==> tests: the engine"
	@$(ENGINE) -m pytest -ra -m "not upstream_heavy" $(ELSEWHERE) $(PYTEST_ARGS) tests

test-methods:
	@code=0; \
	echo "==> tests: inside the grafted LLaMA-Factory"; \
	$(METHOD) -m pytest -ra -m "not upstream_heavy" $(PYTEST_ARGS) $(METHOD_TESTS) || code=1; \
	echo "==> tests: information dynamics"; \
	$(METHOD) -m pytest -ra -m "not upstream_heavy" $(PYTEST_ARGS) $(INFODYN_TESTS) || code=1; \
	echo "==> tests: openvla and LIBERO, on stand-ins"; \
	$(METHOD) -m pytest -ra -m "not upstream_heavy" $(PYTEST_ARGS) $(STANDIN_TESTS) || code=1; \
	echo "==> tests: starVLA, on a stand-in, and the closed-loop world"; \
	$(METHOD) -m pytest -ra -m "not upstream_heavy" $(PYTEST_ARGS) $(SAGR_TESTS) || code=1; \
	echo "==> tests: Omega-ID of expert pairs"; \
	$(INFODYN) -m pytest -ra $(PYTEST_ARGS) $(OID_TESTS) || code=1; exit $$code

llamafactory: UPSTREAMS := LLaMA-Factory
llamafactory: graft
	@$(BUILD_METHOD)

openvla: engine
	@$(ENGINE) apply.py openvla LIBERO
	@$(BUILD_OPENVLA)

starvla: engine
	@$(ENGINE) apply.py starVLA
	@$(BUILD_STARVLA)

infodyn:
	@$(BUILD_INFODYN)

test-upstreams: engine-dev
	@$(ENGINE) apply.py || test $$? -eq 3
	@$(BUILD_METHOD) -r envs/LLaMA-Factory/requirements-dev.txt
	@$(BUILD_OPENVLA) -r envs/openvla/requirements-dev.txt || test $$? -eq 3
	@$(BUILD_STARVLA) -r envs/starVLA/requirements-dev.txt
	@$(BUILD_INFODYN)
	@code=0; \
	$(ENGINE) -m pytest -ra -m "upstream or upstream_heavy" $(ELSEWHERE) $(PYTEST_ARGS) tests || test $$? -eq 5 || code=1; \
	$(METHOD) -m pytest -ra -m "upstream or upstream_heavy" $(PYTEST_ARGS) $(METHOD_TESTS) || test $$? -eq 5 || code=1; \
	$(METHOD) -m pytest -ra -m "upstream or upstream_heavy" $(PYTEST_ARGS) $(STANDIN_TESTS) || test $$? -eq 5 || code=1; \
	$(METHOD) -m pytest -ra -m "upstream or upstream_heavy" $(PYTEST_ARGS) $(SAGR_TESTS) || test $$? -eq 5 || code=1; \
	if $(OPENVLA) -c 'import dlimp' 2>/dev/null; then $(OPENVLA) -m pytest -ra $(PYTEST_ARGS) $(REAL_TESTS) || code=1; \
	else echo "SKIPPED $(REAL_TESTS): dlimp is missing, see above"; fi; \
	$(STARVLA) -m pytest -ra $(PYTEST_ARGS) $(STARVLA_TESTS) || code=1; exit $$code

lint: engine-dev
	@echo "==> lint: ruff check, ruff format --check, mypy"
	@$(ENGINE) -m ruff check .
	@$(ENGINE) -m ruff format --check .
	@$(ENGINE) -m mypy

bench: graft
	@$(BUILD_METHOD)
	@$(BUILD_INFODYN)
	@set -o pipefail; for file in $$(grep -l '__main__' bench/*.py); do \
	    python=$(ENGINE); ! grep -qE '^ *(import|from) (torch|transformers|llamafactory|bench.forgetting_run)' $$file || python=$(METHOD); \
	    ! grep -q 'runners.oid' $$file || python=$(INFODYN); \
	    echo "==> $$file"; $$python $$file --json | tail -n 1 || exit 1; \
	done

clean:
	@rm -rf .venvs artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './upstreams/*' -prune -exec rm -rf {} +
	@echo "removed environments, caches and artifacts; upstreams/ is as it was (python apply.py revert takes the graft back)"
