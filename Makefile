# Binaries land in bin/, tools in bin/tools/. Nothing here needs cgo.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

export CGO_ENABLED := 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOBUILD := go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
TOOLS   := $(CURDIR)/bin/tools

FUZZTIME  ?= 20s
BENCH     ?= .
RUN       ?=
RUNS      ?= 5
IDLE      ?=
RESULTS   ?= bin/bench.jsonl
COUNT     ?= 6
OLD       ?=
PKG       ?= ./...
LAB       ?= 01-two-hosts
SEEDS     ?= 1000000
SEED      ?= 1
SIMTIME   ?= 12h
MOVES     ?= 1000
KILLS     ?= 200
MINUTES   ?= 30
HOSTS     ?= 1000000
DIRECT    ?=
BIN       ?= bin
PACKAGES  ?= bin/packages
STAGE     ?= bin/stage

.PHONY: help build test check bench bench-quick bench-docs benchmarks benchstat scale sim migration flow soak million demo race lint imports gen gen-check fuzz netns lab deps clean man deb rpm charts

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

build: ## bin/evpnd, bin/evpnctl, bin/evpnlab
	$(GOBUILD) -o $(BIN)/ ./cmd/...

test: deps build $(TOOLS)/testsummary $(TOOLS)/nfpm ## every test this machine can run; ends with what was skipped and why
	go vet ./...
	$(TOOLS)/testsummary -count=1 $(PKG)

check: lint gen-check test ## what must pass before a commit

bench: deps build ## evpnd beside FRR and the kernel alone, as root: RUN=regexp of measures, RUNS, HUGE=1 for a million routes, IDLE=10m to see an audit in the costs of memory
	go run ./labs/bench -evpnd $(BIN)/evpnd -run '$(RUN)' -runs $(RUNS) $(if $(HUGE),-huge) $(if $(IDLE),-idle $(IDLE)) -o $(RESULTS)

bench-quick: deps build ## the short form of it: some two minutes
	go run ./labs/bench -evpnd $(BIN)/evpnd -quick -run '$(RUN)' -runs 1 -o bin/bench-quick.jsonl

bench-docs: ## docs/performance.md from RESULTS of make bench
	go run ./labs/bench -docs $(RESULTS) >bin/performance.md
	mv bin/performance.md docs/performance.md

benchmarks: ## go test benchmarks, with allocations, into bin/benchmarks.txt: BENCH=regexp, COUNT runs of each
	@mkdir -p bin
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./evpn/... ./dataplane ./speaker | tee bin/benchmarks.txt

benchstat: $(TOOLS)/benchstat benchmarks ## make benchstat OLD=file: the same benchmarks now, against an earlier bin/benchmarks.txt
	$(TOOLS)/benchstat $(if $(OLD),'$(OLD)') bin/benchmarks.txt

scale: ## the core with a million routes in 4000 VNIs, and 500 simulated VTEPs: some two minutes
	go test -run '^(TestGrowth|TestRollingRestart)' -v -timeout 1h ./evpn -scale.routes 1000000 -sim.vteps 500

sim: ## SEEDS simulated networks from SEED on, on all cores
	go test -run '^TestSimulator$$' -v -timeout $(SIMTIME) ./evpn -sim.seeds $(SEEDS) -sim.seed $(SEED)

migration: deps ## MOVES moves of VMs in each direction between evpnd and FRR: some 30 minutes for 1000; DIRECT=1 peers evpnd with evpnd
	go test -run '^TestMigration$$' -v -timeout 12h ./labs -migration.moves $(MOVES) $(if $(DIRECT),-migration.direct)

flow: deps ## KILLS kills of evpnd, and reflectors dead for 60 s, under 1,000 packets/s each way: some seven minutes for 200
	go test -run '^(TestFlow|TestReflectorsLost)$$' -v -timeout 2h ./labs -flow.kills $(KILLS) -flow.headless 60s

soak: deps ## a day of a large host in MINUTES: hosts, moves, sessions, reloads, devices; what evpnd holds must not grow
	go test -run '^TestSoak$$' -v -timeout 12h ./labs -soak.lasts $(MINUTES)m

million: deps ## HOSTS distinct hosts come and go on a port, with FRR as the peer: some ten minutes for a million
	go test -run '^TestSoak$$/^distinct hosts$$' -v -timeout 12h ./labs -soak.distinct $(HOSTS)

demo: deps build ## two hosts and their VMs in network namespaces, as root; KEEP=1 leaves them up
	KEEP=$(KEEP) bin/evpnlab demo

readme: deps build ## put what the demo prints into README.md
	tools/readme

lab: deps build ## run and check one lab: make lab LAB=02-frr-rr
	bin/evpnlab test labs/$(LAB)

man: build ## manual pages into bin/man
	$(BIN)/evpnd man bin/man
	$(BIN)/evpnctl man bin/man

charts: build $(TOOLS)/helm ## lint, render and check the Helm chart and the Kustomize base; the first time builds Helm
	go -C tools/charts test -count=1 ./...

# Versions of packages begin with a digit; of one built between tags the rest is its commit.
PACKAGE_VERSION ?= $(shell v='$(VERSION)'; v=$${v#v}; [[ $$v =~ ^[0-9]+\. ]] && echo "$$v" || echo "0.0.0~$$v")
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

deb: package-deb ## a Debian package into PACKAGES (bin/packages)
rpm: package-rpm ## an RPM package into PACKAGES

package-%: build $(TOOLS)/nfpm
	packaging/package/stage $(BIN) $(STAGE)
	mkdir -p $(PACKAGES)
	STAGE=$(STAGE) ARCH=$$(go env GOARCH) VERSION='$(PACKAGE_VERSION)' \
		$(TOOLS)/nfpm package --config packaging/package/nfpm.yaml --packager $* --target $(PACKAGES)

race: deps ## BGP and the daemon under the race detector (needs a C compiler), without the one race that GoBGP is known for
	CGO_ENABLED=1 GORACE='suppressions=$(CURDIR)/speaker/testdata/race' go test -race -count=1 ./speaker ./internal/daemon

netns: ## kernel tests without root, in a user namespace of their own
	unshare --user --map-root-user --net --mount go test -count=1 ./dataplane/...

fuzz: ## every fuzz target for FUZZTIME each
	@for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' $$file); do \
			echo "$$(dirname $$file) $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

lint: imports $(TOOLS)/golangci-lint ## golangci-lint, and who may import what
	$(TOOLS)/golangci-lint run

imports: ## who may import what, without golangci-lint
	tools/imports

gen: $(TOOLS)/protoc-gen-go ## generate the Go of api/ from its .proto, docs/configuration.md and docs/evpnd.schema.json
	tools/gen/gen api
	go test ./config -run 'TestConfigurationDoc|TestSchemaFile' -update

gen-check: $(TOOLS)/protoc-gen-go ## fail when the generated Go is not that of the .proto
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; tools/gen/gen "$$tmp"; \
	diff -ru --exclude='*.proto' --exclude='frozen*' --ignore-matching-lines='^//.*protoc ' api "$$tmp" || \
		{ echo 'generated code is stale: run make gen' >&2; exit 1; }

deps: ## install what the tests need, when it is missing and we are root
	@tools/deps

clean: ## remove bin/
	rm -rf bin

# Tools are modules of their own, so that what they need never becomes what evpnd needs.
$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	GOBIN=$(TOOLS) go -C tools/lint install tool

$(TOOLS)/nfpm: tools/pkg/go.mod tools/pkg/go.sum
	GOBIN=$(TOOLS) go -C tools/pkg install tool

$(TOOLS)/helm: tools/charts/go.mod tools/charts/go.sum
	GOBIN=$(TOOLS) go -C tools/charts install tool

$(TOOLS)/protoc-gen-go: tools/gen/go.mod tools/gen/go.sum
	GOBIN=$(TOOLS) go -C tools/gen install tool

$(TOOLS)/benchstat: tools/benchstat/go.mod tools/benchstat/go.sum
	GOBIN=$(TOOLS) go -C tools/benchstat install tool

$(TOOLS)/testsummary: tools/testsummary/main.go
	go build -o $@ ./tools/testsummary
