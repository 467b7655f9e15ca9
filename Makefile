# What a person does with this repository, one target each; `make help` lists them.
# Everything that is fetched or built stays in target/ and deploy/local/parts, both ignored.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PARTS := deploy/local/parts
VENV := $(PARTS)/venv
REQUIREMENTS := tests/integration/python/requirements.txt

.PHONY: help prerequisites local-parts build demo fmt lint test clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

prerequisites: ## check the machine; as root, install the packages that are missing
	@deploy/local/prerequisites

local-parts: prerequisites ## fetch the Kafka broker and the ClickHouse engine for one machine
	@deploy/local/fetch $(PARTS)

build: prerequisites ## build the binary, optimised: target/release/modelmeter
	cargo build --release --locked

demo: build local-parts ## all of it with real load on it, to look at; DEMO_DIR keeps the data, DEMO_FOR=90s ends it and checks the numbers
	@exec target/release/modelmeter demo --parts $(PARTS) $(if $(DEMO_DIR),--dir '$(DEMO_DIR)') $(if $(DEMO_FOR),--for '$(DEMO_FOR)') \
	    $(if $(READY_FILE),--ready-file '$(READY_FILE)') $(DEMO_FLAGS)

fmt: ## format the code
	cargo fmt

lint: prerequisites ## check the formatting, and clippy without a warning
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

test: local-parts $(VENV)/.made lint ## lint, then unit, property and integration tests on the real parts
	cargo test --locked

clean: ## remove what was built and fetched
	cargo clean
	rm -rf $(PARTS)

# The tests' independent clients. Made anew whenever a pin changes; the mark is set when all of it is there.
$(VENV)/.made: $(REQUIREMENTS) | local-parts
	@echo "venv: the tests' Python clients, into $(VENV)"
	@rm -rf $(VENV)
	@python3 -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) || \
	    { echo "venv: missing: the packages of $(REQUIREMENTS) could not be fetched (the lines above)" >&2; exit 1; }
	@touch $@
