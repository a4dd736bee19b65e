# What there is to do here. Every target is a script in scripts/; read there how.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build plugins demo test test-engines soak check bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/pacer and plugins/*.wasm
	@scripts/build.sh

plugins: ## Build only the backends, plugins/*.wasm
	@scripts/plugins.sh

demo: ## Run pacer against a simulated GitHub and keep jobs flowing (DEMO_SECONDS=20 ends by itself)
	@DEMO_SECONDS='$(DEMO_SECONDS)' scripts/demo.sh

test: ## Install what the tests use (it says what), then run all of them
	@scripts/test.sh $(TEST_ARGS)

test-engines: ## Hold every backend to its contract, and play every scenario, on its real engine (ENGINE=docker for one)
	@ENGINE='$(ENGINE)' scripts/test-engines.sh

soak: ## Kill the server at 200 random moments under load and look at what is left (SOAK_KILLS, SOAK_SEED)
	@SOAK_KILLS='$(SOAK_KILLS)' SOAK_SEED='$(SOAK_SEED)' scripts/soak.sh

check: ## Formatting, lints, documentation, dependencies, house rules
	@scripts/check.sh

bench: ## Measure the promised figures in a release build (BENCH_ARGS=--strict fails on a missed one)
	@scripts/bench.sh $(BENCH_ARGS)

clean: ## Remove what was built
	@cargo clean
	@rm -f plugins/*.wasm
