# Every target sets up what it needs. The text after ## is what `make` prints.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-once test sweep check audit lint types proto proto-check spelling bench bench-authz bench-meter bench-consume bench-pages bench-what-if bench-sync screenshots fuzz api-fuzz restarts rolling kills money-kills names kubectl-validate istioctl-analyze istio-translate egctl-translate otelcol alert-rules dashboards fix clean

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROTOS := $(wildcard proto/aforo_proto/*.proto)
CODE := aforo_authz aforo_meter aforo_admin lab demo bench ops tests

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv from the constraints file

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Aforo needs Python 3.11 or newer, this is %s; say: make PYTHON=python3.12" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## start everything on this machine and watch it, until Ctrl-C
	$(BIN)/python -m demo

demo-once: $(STAMP) ## play the whole story unattended and check every step of it
	$(BIN)/python -m demo --once

WORKERS ?= auto
test: $(STAMP) ## unit, contract and end-to-end tests, on real servers, in WORKERS processes (0: in one)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

sweep: $(STAMP) ## every kind of call through a real Envoy: expected events beside received ones
	$(BIN)/python -m pytest -q -s tests/contract/test_sweep.py

check: lint types proto-check spelling audit test ## all that CI checks

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

proto: $(STAMP) ## generate Python from proto/
	cd proto && ../$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=../$(BIN)/protoc-gen-mypy --python_out=. --mypy_out=readable_stubs,quiet:. $(PROTOS:proto/%=%)

proto-check: $(STAMP) ## is the generated code what proto/ says?
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	(cd proto && ../$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=../$(BIN)/protoc-gen-mypy --python_out=$$fresh --mypy_out=readable_stubs,quiet:$$fresh $(PROTOS:proto/%=%)) && \
	for f in $$fresh/aforo_proto/*; do cmp -s $$f proto/aforo_proto/$$(basename $$f) || { echo "proto/aforo_proto/$$(basename $$f) differs from its .proto: run make proto, commit the result" >&2; exit 1; }; done

spelling: $(STAMP) ## codespell
	$(BIN)/codespell

audit: $(STAMP) ## known weaknesses of what constraints.txt pins; AUDIT=required: no answer is a failure
	$(BIN)/python -m lab.audit

bench: $(STAMP) ## measure through a real Envoy (needs h2load); figures in build/bench/
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-authz: $(STAMP) ## measure the decision server alone, behind Envoy, and with a million tenants (needs h2load)
	$(BIN)/python -m bench.authz $(BENCH_ARGS)

screenshots: $(STAMP) ## pictures of the admin's pages, light and dark, in docs/screens (needs Chromium)
	mkdir -p docs/screens
	AFORO_SCREENSHOTS=docs/screens $(BIN)/python -m pytest -q tests/contract/test_screens_browser.py -k elsewhere

fuzz: $(STAMP) ## feed the decision server what is wrong, for FUZZ_SECONDS (600)
	$(BIN)/python -m tests.fuzz search --seconds $(or $(FUZZ_SECONDS),600) $(FUZZ_ARGS)

EXAMPLES ?= 50
api-fuzz: $(STAMP) ## try each operation of the REST API EXAMPLES times with each role's token
	AFORO_TEST_API_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --show-capture=no tests/contract/test_rest_fuzz.py

RESTARTS ?= 20
restarts: $(STAMP) ## restart aforo-authz under load behind Envoy, RESTARTS times in each way; no request may fail
	AFORO_TEST_RESTARTS=$(RESTARTS) AFORO_TEST_PATIENT=$(PATIENT) $(BIN)/python -m pytest -q -s tests/e2e/test_authz_drain.py

ROUNDS ?= 20
rolling: $(STAMP) ## replace every process under load, ROUNDS times, in orders of their own; nothing may fail or be lost
	$(BIN)/python -m tests.e2e.rounds_of_rolling --rounds $(ROUNDS) $(ROLLING_ARGS)

SEEDS ?= 20
REQUESTS ?= 20000
kills: $(STAMP) ## REQUESTS through Envoy for each of SEEDS, while ships, consumer and broker are killed and frozen; a line each
	$(BIN)/python -m tests.e2e.rounds_of_kills --seeds $(SEEDS) --requests $(REQUESTS) $(KILLS_ARGS)

KILLS ?= 200
money-kills: $(STAMP) ## KILLS of consumer, courier, stores and broker while usage flows; then every nano is reckoned
	$(BIN)/python -m tests.e2e.rounds_of_money --kills $(KILLS) $(MONEY_ARGS)

bench-meter: $(STAMP) ## measure metering: entries to Kafka and to the spool, ingest, memory, what Envoy's access log adds
	$(BIN)/python -m bench.meter $(BENCH_ARGS)

NAMES ?= 10000000
names: $(STAMP) ## one caller who names another tool in each of NAMES calls: all charged, rows and memory bounded
	$(BIN)/python -m tests.e2e.flood_of_names --names $(NAMES)

bench-pages: $(STAMP) ## measure the admin's pages and REST's lists with 10,000 tenants
	$(BIN)/python -m bench.pages $(BENCH_ARGS)

bench-consume: $(STAMP) ## measure consuming: Kafka to a ledger in SQLite and PostgreSQL, to margins in Redis
	$(BIN)/python -m bench.consume $(BENCH_ARGS)

bench-what-if: $(STAMP) ## measure what-ifs over many tenants' recorded hours
	$(BIN)/python -m bench.what_if $(BENCH_ARGS)

# What Go builds, and of which version. Istio's module has no tags: this is a commit whose file VERSION says 1.31, with the
# API of 1.31's release candidates.
KUBECTL_VALIDATE := sigs.k8s.io/kubectl-validate@v0.0.4
ISTIO := istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad
ISTIOCTL := $(subst @,/istioctl/cmd/istioctl@,$(ISTIO))
EGCTL := github.com/envoyproxy/gateway/cmd/egctl@v1.9.1

build/bin/kubectl-validate: PROGRAM = $(KUBECTL_VALIDATE)
build/bin/istioctl: PROGRAM = $(ISTIOCTL)
build/bin/egctl: PROGRAM = $(EGCTL)
build/bin/kubectl-validate build/bin/istioctl build/bin/egctl:
	@command -v go >/dev/null || { echo "$@ is built with Go 1.26 or newer, and there is no go on the path" >&2; exit 1; }
	GOBIN=$(CURDIR)/build/bin go install $(PROGRAM)

kubectl-validate: $(STAMP) build/bin/kubectl-validate ## let Kubernetes' own code validate every overlay (needs Go)
	$(BIN)/python -m tests.deploy.kubectl_validate build/bin/kubectl-validate

istioctl-analyze: $(STAMP) build/bin/istioctl ## let Istio's own code judge the overlay istio (needs Go; minutes to build)
	$(BIN)/python -m tests.deploy.istioctl_analyze build/bin/istioctl

build/bin/istio-translate: tests/deploy/istio/main.go
	@command -v go >/dev/null || { echo "$@ is built with Go 1.26 or newer, and there is no go on the path" >&2; exit 1; }
	rm -rf build/istio-translate && mkdir -p build/istio-translate && cp $< build/istio-translate
	cd build/istio-translate && go mod init aforo/istio-translate && go get $(ISTIO) && go mod tidy && go build -o ../bin/istio-translate .

istio-translate: $(STAMP) build/bin/istio-translate ## let Istio's own code translate the overlay istio, for the tests' Envoy (needs Go; minutes to build)
	$(BIN)/python -m tests.deploy.istio_translate build/bin/istio-translate

egctl-translate: $(STAMP) build/bin/egctl ## let Envoy Gateway's own code translate its overlay, for the tests' Envoy (needs Go; minutes to build)
	$(BIN)/python -m tests.deploy.egctl_translate build/bin/egctl

build/otelcol/otelcol: ops/observability/otel/builder.yaml
	go run go.opentelemetry.io/collector/cmd/builder@v0.161.0 --config $<

otelcol: $(STAMP) build/otelcol/otelcol ## build an OpenTelemetry Collector and send spans through its configuration (needs Go)
	$(BIN)/python -m pytest -q tests/e2e/test_collector.py

alert-rules: $(STAMP) ## let Prometheus' own engine judge when each alert fires and when not (needs Go)
	$(BIN)/python -m tests.alert_rules

bench-sync: $(STAMP) ## measure sync with 100,000 tenants, and decisions beside it
	$(BIN)/python -m bench.sync $(BENCH_ARGS)

dashboards: $(STAMP) ## write ops/observability/grafana anew, from its code, and the alert rules for the Prometheus operator
	$(BIN)/python -m ops.observability.dashboards
	$(BIN)/python -m ops.observability.operator

fix: $(STAMP) ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, caches and build/
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
