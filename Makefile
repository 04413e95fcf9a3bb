# The commands of the project. `make` alone lists them. Each does its own set-up.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
RAY ?= 2.60.0
BAZEL := bazel
# PYTHON_BIN_PATH: the interpreter that the extension module is built for.
export PYTHON_BIN_PATH = $(CURDIR)/.venv/bin/python
PYTEST := .venv/bin/python -m pytest

.PHONY: help demo test test-slow test-native lint bench wheel build clean distclean fuzz setup-demo setup-test

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup-demo:
	@tools/setup packages dev wheel ray-2.60.0

setup-test:
	@tools/setup packages lint-packages dev wheel ray-2.48.0 ray-2.60.0

build: setup-demo ## build Mantaray and install it beside Ray 2.60.0

demo: setup-demo ## a workload that overruns the object store, on stock Ray and on Mantaray
	@.venvs/ray-2.60.0/bin/python benchmarks/spill_demo.py

test-native: setup-test ## C++ tests, plain and under ASan, UBSan and TSan, and a bounded fuzz run
	$(BAZEL) test //...
	$(BAZEL) test --config=asan //...
	$(BAZEL) test --config=ubsan //...
	$(BAZEL) test --config=tsan //...
	@$(MAKE) --no-print-directory fuzz

fuzz: ## fuzz the parsers of spill files for a bounded time
	$(BAZEL) build --config=fuzz //src/mantaray/spill:trailer_fuzz
	bazel-bin/src/mantaray/spill/trailer_fuzz -max_total_time=20 -print_final_stats=1 2>&1 | tail -n 8

test: setup-test test-native lint ## everything that CI runs
	$(PYTEST) -m "not slow" tests

test-slow: setup-test ## the long tests
	$(PYTEST) -m slow tests

lint: setup-test ## ruff, mypy, clang-format, clang-tidy and the house rules
	@tools/lint

bench: setup-test ## the benchmarks: stock and Mantaray interleaved
	@.venvs/ray-2.60.0/bin/python benchmarks/overlay_startup.py
	@.venvs/ray-2.60.0/bin/python benchmarks/spill_engine.py
	@.venvs/ray-2.60.0/bin/python benchmarks/spill_cluster.py

wheel: setup-demo ## a custom Ray wheel in dist/ (RAY=2.60.0)
	@.venvs/ray-2.60.0/bin/mantaray wheel --ray $(RAY) -o dist

clean: ## remove what was built
	-$(BAZEL) clean
	rm -rf build dist python/*.egg-info

distclean: clean ## remove the virtual environments too
	rm -rf .venv .venvs
