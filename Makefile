# livestore_sync: `make help` lists the targets.

PG_CONFIG ?= pg_config
# Cargo's profile: release; local, which `make run` builds; or dev, which the tests build anyway.
LIVESTORE_PROFILE ?= release
BUILT := $(or $(CARGO_TARGET_DIR),target)
TARGET := $(BUILT)/$(patsubst dev,debug,$(LIVESTORE_PROFILE))
# Postgres' folders are root's.
SUDO := $(shell [ -n "$(DESTDIR)" ] || [ -w "$$($(PG_CONFIG) --pkglibdir 2> /dev/null)" ] || command -v sudo)
PG_MAJOR = $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
export FUZZ_SECONDS ?= 60
# A name for each version: a connection that has loaded the library of one loads that of the next beside it. What names an older
# one, the SQL of that version, finds today's.
LIBRARIES := $(sort $(shell sed -n "s/^module_pathname = '.libdir\/\(.*\)'/\1/p" extension/livestore_sync.control sql/releases/*.control))

.DEFAULT_GOAL := help
.PHONY: help run demo check test test-all test-bare test-container bench soak overload fuzz chaos converge gameday install extension sidecar docs packages dist

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: ## build everything and serve: a private Postgres in $LIVESTORE_DATA (or DATABASE_URL) and the sidecar
	@sidecar/run-local

demo: ## the same, and a page with two devices side by side: http://localhost:8787/demo/
	@LIVESTORE_DEMO=true exec sidecar/run-local

check: ## the loop for a change: format, clippy, unit tests, the SQL suite, a client of each dialect; under 3 minutes when built
	@tests/scripts/run check

test: ## install what the tests need and run all of them; PG=18: those that could differ on PostgreSQL 18; SHARDS=2: the suite dialects, through two shards
	@tests/scripts/run

test-all: ## the whole matrix: make test, and both images and the first command built from nothing (about two hours)
	@tests/scripts/run all

bench: ## measure this backend beside sync-cf, s2-lite and bare PostgreSQL; QUICK=1: in under five minutes, once the peers are installed
	@tests/bench/run

soak: ## a mixed load for a long time, to see whether memory, open files or connections grow: MINUTES=30
	@SOAK_MINUTES="$(or $(MINUTES),30)" tests/bench/run soak

overload: ## twice the pushes that can be committed, then as many as 2,000 connections allow: what is accepted, what is refused, and after how long
	@tests/bench/run overload

fuzz: ## look for inputs that break a parser: every fuzz target for $FUZZ_SECONDS, a minute each
	@tests/scripts/fuzz

chaos: ## clients of every dialect against several sidecars, with faults: SECONDS=60 SEED=1 for the same faults again, STANDBY=1 for failovers, SHARDS=2 for stores that move between two databases, FLAVOUR=portable
	@CHAOS_SECONDS="$(or $(SECONDS),60)" CHAOS_SEED="$(SEED)" CHAOS_STANDBY="$(STANDBY)" CHAOS_SHARDS="$(SHARDS)" CHAOS_FLAVOUR="$(FLAVOUR)" tests/chaos/run

converge: ## full clients that commit at the same moment, here and on sync-cf and s2-lite: about 3 minutes, ROUNDS=10 ONLY=cf-ws,s2 ARGUMENTS="--writers 2,5" OUT=docs/benchmarks
	@CONVERGE_ROUNDS="$(ROUNDS)" CONVERGE_ONLY="$(ONLY)" CONVERGE_ARGUMENTS="$(ARGUMENTS)" CONVERGE_OUT="$(OUT)" tests/converge/run

gameday: ## five faults on a system that runs: what the operator sees of each, and the remedy of docs/runbook.md, tried
	@tests/scripts/gameday

test-container: ## build both images from nothing, as users do, and run compose.yaml (about 20 minutes)
	@tests/scripts/container --full

test-bare: ## install steps and the first command in a Debian that has nothing (about 10 minutes); FULL=1: and all tests
	@tests/scripts/bare $(if $(FULL),--full)

install: extension ## build the extension and install it into the Postgres of $PG_CONFIG
	$(SUDO) install -d "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)" "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension"
	for name in $(LIBRARIES); do $(SUDO) install -m 755 $(TARGET)/liblivestore_sync.so "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/$$name.so"; done
	$(SUDO) install -m 644 extension/livestore_sync.control "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension/"
	sql/build $(BUILT)/sql
	$(SUDO) install -m 644 $(BUILT)/sql/livestore_sync--* "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension/"

extension: ## build the extension
	PGRX_PG_CONFIG_PATH="$$(command -v $(PG_CONFIG))" cargo build --profile $(LIVESTORE_PROFILE) --locked -p livestore_sync --no-default-features --features pg$(PG_MAJOR)

docs: ## write docs/configuration.md from the sidecar's --help, and the docs as a site in target/site
	$(MAKE) --no-print-directory sidecar LIVESTORE_PROFILE=dev
	docs/generate target/debug/livestore-sidecar > docs/configuration.md
	docs/site/build

# For the tests with the features that everything has in the tests: cargo would compile three hundred crates twice. For users alone.
sidecar: ## build target/release/livestore-sidecar
	cargo build --profile $(LIVESTORE_PROFILE) --locked $(if $(filter dev,$(LIVESTORE_PROFILE)),--bin,-p) livestore-sidecar

packages: extension sidecar ## build Debian packages of both, in target/packages
	@packaging/build

dist: ## what a release consists of, in target/dist (about 20 minutes); without a registry: DIST_IMAGES=debootstrap or DIST_IMAGES=no
	@rm -rf target/dist target/programs && packaging/dist
