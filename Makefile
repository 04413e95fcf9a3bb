# The commands of the project. `make` alone lists them. Each does its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The stages of a test run share the machine's cores as it is; under -j they would only mix their output.
.NOTPARALLEL:
RAY ?= 2.60.0
WHEELS ?= dist/rays
BAZEL := bazel
# PYTHON_BIN_PATH: the interpreter that the extension module is built for.
export PYTHON_BIN_PATH = $(CURDIR)/.venv/bin/python
PYTEST := .venv/bin/python -m pytest
# The example has an environment, and with that a test run, of its own.
KNOWLEDGE := .venvs/knowledge/bin/python
FUZZ_SECONDS := 20
# The releases that `make test-rays` takes; all known ones if empty.
RAYS :=
# Benchmarks that run in an environment with Ray, and those that start what they measure in others.
BENCH_IN_RAY := $(addprefix bench-,overlay_startup spill_engine spill_cluster shuffle out_of_core serve_router serve_throughput gc_pause spill_cache spill_pull log_tail refs_finalize interposed_calls)
BENCH_BESIDE_RAY := $(addprefix bench-,whole_log profiling_links refcount_race sync_storm sync_groups sync_noise gcs_work relay_latency leak_scenarios refs_why_cost)

.PHONY: help check-rays demo docs knowledge test test-slow test-rays test-native test-knowledge fuzz lint bench bench-knowledge dist test-dist wheel build clean distclean
.PHONY: $(BENCH_IN_RAY) $(BENCH_BESIDE_RAY) bench-reference_counter
.PHONY: setup-build setup-dist setup-demo setup-knowledge setup-knowledge-dev setup-lint setup-test setup-test-slow

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup-build:
	@tools/setup packages dev wheel

setup-dist:
	@tools/setup packages dev dist

setup-demo:
	@tools/setup packages dev wheel ray-2.60.0

setup-knowledge:
	@tools/setup packages dev wheel knowledge

setup-knowledge-dev:
	@tools/setup packages test-packages dev wheel knowledge-dev

setup-lint:
	@tools/setup packages lint-packages dev wheel knowledge-dev

setup-test:
	@tools/setup packages lint-packages test-packages dev wheel ray-2.48.0 ray-2.60.0 stock-2.52.1 stock-2.55.1 knowledge-dev

setup-test-slow: setup-test
	@tools/setup stock-2.48.0 stock-2.60.0

build: setup-demo ## build Mantaray and install it beside Ray 2.60.0

demo: setup-demo ## a workload that overruns the object store, on stock Ray and on Mantaray
	@.venvs/ray-2.60.0/bin/python benchmarks/spill_demo.py

knowledge: setup-knowledge ## the knowledge service: ingests, serves, is asked, and prints answers with their sources
	@.venvs/knowledge/bin/knowledge demo

test-native: setup-lint ## C++ tests, plain and under ASan, UBSan and TSan, and a bounded fuzz run
	$(BAZEL) test //...
	$(BAZEL) test --build_tests_only --config=asan --config=ubsan //...
	$(BAZEL) test --build_tests_only --config=tsan //...
	@$(MAKE) --no-print-directory fuzz

fuzz: setup-lint ## fuzz the parsers of spill files and of resource-view sync for a bounded time
	$(BAZEL) build --config=fuzz //src/mantaray/spill:trailer_fuzz //src/mantaray/syncer:relay_fuzz
	mkdir -p build/fuzz/relay-seeds
	bazel-bin/src/mantaray/spill/trailer_fuzz -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ \
	  -verbosity=0 -print_final_stats=1
	bazel-bin/src/mantaray/syncer/relay_fuzz --write-seeds=build/fuzz/relay-seeds
	bazel-bin/src/mantaray/syncer/relay_fuzz -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ \
	  -verbosity=0 -print_final_stats=1 -seed_inputs="$$(ls build/fuzz/relay-seeds/* | paste -sd,)"

test-knowledge: setup-knowledge-dev ## the tests of the knowledge service
	$(KNOWLEDGE) -m pytest examples/knowledge/tests -m "not slow" --durations=5

docs: setup-build ## the documentation's site, into build/site
	@PYTHONPATH=. .venv/bin/python -m tools.docs

test: setup-test test-native lint docs test-knowledge ## everything that CI runs
	$(PYTEST) -m "not slow" --durations=15

test-slow: setup-test-slow ## the long tests
	$(BAZEL) run //src/mantaray/sim:syncer_sim -- 3 1 10000 20 2
	$(KNOWLEDGE) -m pytest examples/knowledge/tests -m slow --durations=5
	$(PYTEST) -m slow --durations=15
	@# The relay speaks to every release; the run above has the oldest and the newest.
	MANTARAY_TEST_RAYS=2.52.1,2.55.1 $(PYTEST) tests/ray -k relay -m "not slow" --durations=5

test-rays: ## the smoke of each release, stock beside ours (RAYS="2.52.1 2.55.1"), and the page made from it
	@tools/test_rays $(RAYS)

lint: setup-lint ## ruff, mypy, clang-format, clang-tidy and the house rules
	@tools/lint

# They end with an error when a target is missed. The rest is for whoever asked, too.
bench: setup-test ## the benchmarks: stock and Mantaray interleaved
	@$(MAKE) --no-print-directory --keep-going $(BENCH_IN_RAY) $(BENCH_BESIDE_RAY) bench-reference_counter

$(BENCH_IN_RAY): bench-%:
	@.venvs/ray-2.60.0/bin/python benchmarks/$*.py

$(BENCH_BESIDE_RAY): bench-%:
	@.venv/bin/python benchmarks/$*.py

bench-reference_counter:
	@$(BAZEL) run //src/mantaray/refcount:reference_counter_bench

bench-knowledge: setup-knowledge-dev ## the knowledge service on stock Ray and on Mantaray, and how good its answers are
	@$(KNOWLEDGE) examples/knowledge/benchmarks/quality.py
	@$(KNOWLEDGE) examples/knowledge/benchmarks/quality.py --unseen
	@$(KNOWLEDGE) examples/knowledge/benchmarks/load.py

check-rays: setup-build ## the official wheels in WHEELS=DIR against the table of known Rays: nothing may be refused
	tools/adopt_ray --wheels "$(WHEELS)" --no-diff known

dist: setup-dist ## what is published, into dist/: wheels for every Python and machine, sources, checksums
	@rm -f dist/.sources
	@sources=$$(tools/setup sources); PYTHONPATH=python .venv/bin/python -m tools.distribution -o dist; echo "$$sources" >dist/.sources

test-dist: setup-build setup-dist ## installs the wheels of dist/ in fresh environments, an old and another machine's too, and runs them
	@MANTARAY_TEST_DIST=$(CURDIR)/dist $(PYTEST) tests/dist --durations=15

wheel: setup-build ## a custom Ray wheel in dist/ (RAY=2.60.0)
	@.venv/bin/mantaray wheel --ray $(RAY) -o dist

clean: ## remove what was built
	@if [ -d bazel-out ]; then $(BAZEL) clean; fi
	rm -rf build dist {python,examples/knowledge}/*.egg-info
	rm -rf {.,examples/knowledge}/.{pytest_cache,mypy_cache,ruff_cache,hypothesis}

distclean: clean ## remove the virtual environments too
	rm -rf .venv .venvs
