# Everything here works on a bare machine with Python 3.11 or 3.12, and at full speed with Rust 1.85 or newer. The tests
# want Rust, too, Java 17 or newer with Maven, and Redis 6.2 or newer.

# The first one that runs and has a version that the engine has wheels for.
PYTHON ?= $(shell for python in python3.12 python3.11 python3 /usr/bin/python3; do \
	if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	then echo $$python; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
SCANNER := dataflow/read/scanner
MERMAID := .cache/mermaid
SECONDS_OF_SOAK ?= 3600
KILLS ?= 1000
SECONDS_OF_FUZZ ?= 600
SEEDS ?= 100000

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check check-scanner docs alerts fix bench soak soak-delivery fuzz fuzz-sim clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## a broker, a shop, three flows, providers, and what becomes of it all
	$(BIN)/nudge demo $(if $(SECONDS),--seconds $(SECONDS))

test: $(VENV)/.installed ## lint, types, layers, and all tests, with a real Apache Kafka and a real Redis
	@command -v redis-server >/dev/null || { echo "no redis-server found: install Redis 6.2 or newer (Debian: apt-get install redis-server)"; exit 1; }
	$(MAKE) check
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-fast: $(VENV)/.installed ## all tests that need no broker and no Redis
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not kafka and not redis" $(ARGS)

check: $(VENV)/.installed check-scanner ## format, lint, types, and the arrows between the layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-scanner: $(VENV)/.installed ## the same for the compiled part, and its own tests
	@command -v cargo >/dev/null || { echo "no cargo found: the compiled part wants Rust 1.85 or newer"; exit 1; }
	cargo fmt --manifest-path $(SCANNER)/Cargo.toml --check
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --manifest-path $(SCANNER)/Cargo.toml --quiet --locked --release -- --deny warnings
	cargo test --manifest-path $(SCANNER)/Cargo.toml --quiet --locked --no-default-features

fix: $(VENV)/.installed ## what the formatter and the linter can mend by themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed $(MERMAID)/.installed ## links, paths, flows and diagrams of the documentation; wants Node 20.19 or newer
	$(BIN)/python -m pytest tests/test_docs.py
	node tests/mermaid.mjs $(MERMAID) README.md docs/*.md

alerts: ## the alerts as Prometheus reads them, and what they say of made-up series; wants promtool
	@command -v promtool >/dev/null || { echo "no promtool found: it comes with Prometheus (Debian: apt-get install prometheus)"; exit 1; }
	promtool check rules docs/prometheus-alerts.yaml
	promtool test rules tests/prometheus-alerts.yaml

bench: $(VENV)/.installed ## Kafka to Kafka against the bare loop; see benchmarks/README.md
	$(BIN)/python -m benchmarks.kafka_to_kafka $(ARGS)

soak: $(VENV)/.installed ## break a running job at random for SECONDS_OF_SOAK; ARGS='--report soak.md'
	$(BIN)/python -m tests.crash.soak --seconds $(SECONDS_OF_SOAK) $(ARGS)

soak-delivery: $(VENV)/.installed ## break delivery and the gateway until KILLS processes were killed; ARGS='--report soak.md'
	$(BIN)/python -m tests.delivery.soak --kills $(KILLS) --seconds $(SECONDS_OF_SOAK) $(ARGS)

fuzz: $(VENV)/.installed ## hostile input for as long as SECONDS_OF_FUZZ says; prints the seed of what it finds
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS_OF_FUZZ) $(ARGS)

fuzz-sim: $(VENV)/.installed ## the job in simulated worlds with faults, for as many seeds as SEEDS says
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt $(SCANNER)/Cargo.toml $(SCANNER)/Cargo.lock $(wildcard $(SCANNER)/src/*.rs)
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found: install one, or name it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	rm -rf dataflow/read/_scanner*.so build  # If what is new cannot be compiled, nobody shall run what is old.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(MERMAID)/.installed: tests/mermaid.json
	@command -v npm >/dev/null || { echo "no npm found: parsing the diagrams wants Node 20.19 or newer"; exit 1; }
	mkdir -p $(MERMAID)
	cp tests/mermaid.json $(MERMAID)/package.json
	npm install --prefix $(MERMAID) --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

clean: ## remove the environment and caches
	rm -rf $(VENV) $(SCANNER)/target dataflow/read/*.so .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
