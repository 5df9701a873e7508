# Weir. `make` alone says what there is.

# Every recipe is one shell, and `exec` makes the program the shell's successor: it gets the signals, and its exit status is
# the recipe's.
SHELL := /bin/bash
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench parts

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## build, start everything embedded, print curl lines to paste; Ctrl-C ends it
	@cargo build --release --bin weir && exec $(TARGET_DIR)/release/weir demo

test: ## install what the tests need, then run everything that a change has to pass
	@exec scripts/test.sh

check: ## the quick part of it: format, lints, unit tests, layers
	@exec scripts/test.sh quick

bench: ## Weir beside nginx and Envoy on one backend, beside Feast's server on one Redis, and under faults; writes docs/benchmarks.md
	@exec benches/run.sh

parts: ## only install the real servers and clients that the tests use
	@exec scripts/test-parts.sh
