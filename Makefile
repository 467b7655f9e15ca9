# What a person does with this repository, one target each; `make help` lists them.
# Everything that is fetched or built stays in target/ and deploy/local/parts, both ignored.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PARTS := deploy/local/parts
VENV := $(PARTS)/venv
REQUIREMENTS := tests/integration/python/requirements.txt
PAGE := tests/page
BUILT := $(or $(CARGO_TARGET_DIR),target)
# the demo's binary; its test takes the one that the other tests were built with
PROGRAM = $(BUILT)/release/modelmeter

.PHONY: help prerequisites local-parts model-servers build demo fmt lint test test-page test-demo simulate fuzz bench \
    bench-agent bench-sampling crash-test attack-test agent-kill-test test-cgroup2 clean

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

prerequisites: ## check the machine; as root, install the packages that are missing
	@deploy/local/prerequisites

local-parts: prerequisites ## fetch the Kafka broker and the ClickHouse engine for one machine
	@deploy/local/fetch $(PARTS)

model-servers: prerequisites ## fetch the demo's model servers: scikit-learn on MLServer, and LitServe
	@deploy/local/fetch $(PARTS) model-servers

build: prerequisites ## build the binary, optimised: target/release/modelmeter
	cargo build --release --locked

demo: build local-parts model-servers ## all of it with real load on it, to look at; DEMO_DIR keeps the data, DEMO_FOR=90s ends it and checks the numbers
	@$(RUN_DEMO)

RUN_DEMO = exec $(PROGRAM) demo --parts $(PARTS) $(if $(DEMO_DIR),--dir '$(DEMO_DIR)') $(if $(DEMO_FOR),--for '$(DEMO_FOR)') \
    $(if $(READY_FILE),--ready-file '$(READY_FILE)') $(DEMO_FLAGS)

fmt: ## format the code
	cargo fmt

lint: prerequisites ## check the formatting, and clippy without a warning
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

test: local-parts $(VENV)/.made lint ## lint, then unit, property, integration and page tests on the real parts, and a demo
	cargo test --locked
	@$(MAKE) --no-print-directory test-page
	@$(MAKE) --no-print-directory test-demo

crash-test: ROUNDS ?= 200
crash-test: local-parts $(VENV)/.made ## faults alone and in pairs, ROUNDS=200 of them; SEED= repeats a run; `make test` has 20
	ROUNDS='$(ROUNDS)' cargo test --locked --test integration crash:: -- --nocapture
	@command -v strace >/dev/null || { echo "crash-test: missing: strace (apt-get install strace); the engine's system calls were left out" >&2; exit 1; }
	cargo test --locked --test integration faults::syscalls:: -- --ignored --nocapture

attack-test: IDS ?= 1000000
attack-test: local-parts $(VENV)/.made ## IDS=1000000 made-up deployments and as many replicas: totals, memory; and how fast an outage is caught up with
	IDS='$(IDS)' cargo test --release --locked --test integration faults::cardinality:: -- --nocapture
	cargo test --release --locked --test integration faults::catch_up:: -- --ignored --nocapture

agent-kill-test: ROUNDS ?= 50
agent-kill-test: local-parts ## the agent killed under load, ROUNDS=50 times; SEED= repeats a run; `make test` has 6
	ROUNDS='$(ROUNDS)' cargo test --locked --test integration agent_path::kill:: -- --nocapture

test-cgroup2: prerequisites ## control groups of version 2 read in a small guest (qemu, Debian's kernel) beside what its kernel says; target/cgroup2
	@tests/cgroup2/run.py $(BUILT)/cgroup2

test-page: local-parts $(PAGE)/node_modules/.made ## the page in a browser, on the real engine; as root, install chromium where it is missing
	@$(PAGE)/browser
	cargo build --locked
	cd $(PAGE) && node_modules/.bin/playwright test

test-demo: PROGRAM = $(BUILT)/debug/modelmeter
test-demo: DEMO_FOR = 60s
test-demo: DEMO_FLAGS = --history 1h
test-demo: DEMO_DIR =
test-demo: READY_FILE =
test-demo: local-parts model-servers ## the whole demo for a minute, unoptimised: its numbers must be right
	cargo build --locked
	@$(RUN_DEMO)

# histories of processes, crashes and lies; a failing seed is printed, and SEED=n SEEDS=1 repeats it
simulate: SEEDS ?= 10000
simulate: SEED ?= 0
simulate: prerequisites ## simulated histories from SEED on, SEEDS of them: every table must end with each message once
	SEED=$(SEED) SEEDS=$(SEEDS) cargo test --locked --lib as_many_as_are_wished_for -- --ignored --nocapture

FUZZ := tests/fuzz
FUZZ_TARGETS := $(patsubst $(FUZZ)/targets/%.rs,%,$(wildcard $(FUZZ)/targets/*.rs))
# what is found on the way stays out of the tree; RUSTC_BOOTSTRAP lets the stable compiler take libFuzzer's flags
fuzz: FUZZ_SECONDS ?= 120
fuzz: prerequisites ## arbitrary bytes for every decoder, FUZZ_SECONDS for each; a crash is kept in tests/fuzz/artifacts
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --version 0.13.2 cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p "$(BUILT)/fuzz-corpus/$$target"; \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir $(FUZZ) -s none "$$target" "$(BUILT)/fuzz-corpus/$$target" \
	        "$(FUZZ)/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=10 -print_final_stats=1; \
	done

bench: build local-parts ## what an event and a panel cost: instructions (with valgrind), CPU and wall time; target/bench/*.json
	cargo bench --locked --bench pipeline
	cargo bench --locked --bench panel

bench-agent: build local-parts ## what the agent's proxy costs beside nginx and haproxy (both needed), and with Kafka up, slow, down, back; target/bench/agent*.json
	tests/bench/agent/run.py $(BUILT)/release/modelmeter
	tests/bench/agent/kafka.py $(BUILT)/release/modelmeter --parts $(PARTS)

bench-sampling: build local-parts ## what it costs to watch a replica with eight GPUs, over three minutes; target/bench/sampling.json
	tests/bench/agent/sampling.py $(BUILT)/release/modelmeter --parts $(PARTS)

clean: ## remove what was built and fetched
	cargo clean
	rm -rf $(PARTS) $(PAGE)/node_modules

# The tests' independent clients. Made anew whenever a pin changes; the mark is set when all of it is there.
$(VENV)/.made: $(REQUIREMENTS) | local-parts
	@echo "venv: the tests' Python clients, into $(VENV)"
	@rm -rf $(VENV)
	@python3 -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) || \
	    { echo "venv: missing: the packages of $(REQUIREMENTS) could not be fetched (the lines above)" >&2; exit 1; }
	@touch $@

# The browser's driver. Made anew whenever the lock changes; the browser itself is Debian's.
$(PAGE)/node_modules/.made: $(PAGE)/package-lock.json
	@echo "page: the browser's driver, into $(PAGE)/node_modules"
	@cd $(PAGE) && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent --no-audit --no-fund || \
	    { echo "page: missing: the packages of $(PAGE)/package-lock.json could not be fetched (the lines above)" >&2; exit 1; }
	@touch $@
