# shardstream: everything a developer runs. `make help` lists it.
#
# A fresh machine needs Go, Python >= 3.10, a C compiler and make; all else is installed by these
# rules, pinned, into .venv and build/.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-print-directory

PYTHON ?= python3
# How torch gets into .venv: light (1.4 GB, CPU, Linux), full (plain pip install) or none.
TORCH  ?= light
# Extra arguments for the tests, e.g. GOTEST="-run TestPut -v" PYTEST="-k resume -x".
GOTEST ?=
PYTEST ?=
# How long `make fuzz` lets each fuzzer run; FUZZ="FuzzLoader" runs only those.
FUZZTIME ?= 5m
FUZZ     ?= .
# How often `make test-soak` makes each fault.
ROUNDS   ?= 20
# How many seeds `make test-simulation` runs.
SEEDS    ?= 5000

VENV   := .venv
PY     := $(VENV)/bin/python
BIN    := build/bin
STAMPS := $(VENV)/.stamps
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(BIN)/golangci-lint-$(GOLANGCI_VERSION)

# The servers that the tests of backends run: where they are, and which. Azurite's version is in its package.json, that of
# Hadoop in its pom.xml.
BACKENDS := build/backends
SERVERS  := tests/backends/servers
BACKEND_TESTS := ./tests/backends/... $(addprefix ./core/backend/,s3 gcs azure hdfs web)
VERSITYGW_VERSION := v1.8.0
FAKE_GCS_VERSION  := v1.56.1

# What a wheel is built from. The build itself is incremental; this decides whether to start one.
GO_DIRS := cluster cmd core etl loader pybind sampler
SOURCES := go.mod go.sum pyproject.toml hatch_build.py README.md CHANGELOG.md LICENSE \
	$(shell find $(GO_DIRS) -type f ! -name '*_test.go' ! -path '*/testdata/*' ! -path '*/__pycache__/*') \
	$(shell find python/src -type f ! -path '*/_core/*' ! -path '*/__pycache__/*')
# In a process of their own: what they import starts threads, and other tests fork.
FRAMEWORK_TESTS := python/tests/test_jax.py python/tests/test_tensorflow.py
PY_LINT := python tests docs etl/worker hatch_build.py

# Every Go test that deploys Python code finds an interpreter with numpy and pillow in it.
export SHARDSTREAM_PYTHON := $(abspath $(PY))

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##### The two that matter

.PHONY: demo
demo: install ## Train a small classifier from a local cluster, start to end
	$(PY) python/examples/digits.py

.PHONY: test
test: install ## All tests: Go with the race detector, then Python
	@failed=0; $(MAKE) test-go || failed=1; $(MAKE) test-python || failed=1; exit $$failed

##### Development

.PHONY: test-go
test-go: install ## Go tests, with the race detector
	go test -race -timeout 15m $(GOTEST) ./...
	go test -timeout 5m $(GOTEST) ./tests/simulation

.PHONY: test-simulation
test-simulation: ## The protocol in simulated clusters: SEEDS of them (5000), and what mistakes in it lead to
	go test -count=1 -timeout 2h $(GOTEST) ./tests/simulation -seeds $(SEEDS)

.PHONY: test-mutations
test-mutations: ## Faults put into our own code, one at a time: each must make a test fail (some minutes)
	go test -count=1 -v -timeout 1h $(GOTEST) ./tests/mutations -full

.PHONY: test-soak
test-soak: install ## Each fault of processes, hosts and networks ROUNDS times (20), under clients whose histories are checked
	go test -count=1 -v -timeout 4h $(GOTEST) ./tests/faults -rounds $(ROUNDS)

.PHONY: bench-backends
bench-backends: ## Cold and warm epochs over a backend of 200 MB/s, and what epochs fetch with a cache of 30 % of the data (a minute or two)
	go test -count=1 -v -timeout 20m ./tests/cold -run BenchBackends -args -bench
	go test -run '^$$' -bench SmallObjects -benchtime 1x -timeout 20m ./tests/backends

.PHONY: test-scale
test-scale: ## The plan for 10^10 samples in 10^7 shards: the table of docs/scale.md; a store of 200,000 names (some minutes)
	go test -count=1 -v -timeout 30m $(GOTEST) ./tests/scale -run Scale -full
	go test -count=1 -v -timeout 30m ./tests/scale -run MemoryOf
	go test -count=1 -v -timeout 30m ./core/store -run ManyNames -names 200000
	go test -run '^$$' -bench List ./core/store

.PHONY: test-python
test-python: install ## Python tests, the documentation's examples and the notebooks
	$(PY) -m pytest python/tests tests $(FRAMEWORK_TESTS:%=--ignore=%) $(PYTEST)

.PHONY: test-frameworks
test-frameworks: install $(STAMPS)/frameworks ## JAX and TensorFlow into .venv (1.9 GB), and their tests
	$(PY) -m pytest $(FRAMEWORK_TESTS) \
		"tests/docs/test_documents.py::test_blocks_run[docs/guides/frameworks.md]" $(PYTEST)

.PHONY: test-aistore
test-aistore: install build/aistore/.stamp ## AIStore's SDK into build/aistore (90 MB), and its ETL servers behind a target
	$(PY) -m pytest python/tests/test_aistore.py $(PYTEST)

.PHONY: test-backends
test-backends: install ## Backends against the servers of `make backends`, and their guides; without a server its tests are skipped
	@failed=0; \
	go test -race -timeout 15m $(GOTEST) $(BACKEND_TESTS) || failed=1; \
	$(PY) -m pytest "tests/docs/test_documents.py::test_blocks_run" -k "backends-" $(PYTEST) || failed=1; exit $$failed

.PHONY: backends
backends: $(BACKENDS)/.versitygw-$(VERSITYGW_VERSION) $(BACKENDS)/.fake-gcs-server-$(FAKE_GCS_VERSION) ## Servers of S3, GCS, Azure and HDFS for tests, into build/backends (420 MB)
	@if command -v npm >/dev/null && command -v node >/dev/null; then $(MAKE) $(BACKENDS)/azurite/.stamp; \
		else echo "no server of Azure: install Node.js with npm (Debian: apt-get install npm)"; fi
	@if command -v mvn >/dev/null && command -v java >/dev/null; then $(MAKE) $(BACKENDS)/hdfs/.stamp; \
		else echo "no server of HDFS: install Java and Maven (Debian: apt-get install maven)"; fi
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || \
		echo "no server of HTTP: install nginx (Debian: apt-get install nginx-light)"

.PHONY: lint
lint: $(GOLANGCI) venv ## golangci-lint, ruff, mypy --strict, bash -n
	$(GOLANGCI) run --allow-parallel-runners ./...
	$(VENV)/bin/ruff check $(PY_LINT)
	$(VENV)/bin/ruff format --check $(PY_LINT)
	$(VENV)/bin/mypy
	MYPYPATH=python/src $(VENV)/bin/mypy --strict --allow-untyped-calls python/examples tests/tools tests/docs
	for script in .ci/run .ci/rerun $$(git ls-files '*.sh'); do bash -n "$$script"; done

.PHONY: format
format: $(GOLANGCI) venv ## Format all code
	$(GOLANGCI) fmt ./...
	$(VENV)/bin/ruff format $(PY_LINT)
	$(VENV)/bin/ruff check --fix --select I $(PY_LINT)

.PHONY: check
check: lint ## Lint and the quick tests: what to run before a commit
	go test -short -timeout 5m $(GOTEST) ./...

.PHONY: fuzz
fuzz: ## Every fuzzer for FUZZTIME (5m), one after the other; FUZZ=NAME picks some
	@for file in $$(git ls-files '*fuzz*_test.go' '*pattern_test.go'); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' $$file | grep -E '$(FUZZ)'); do \
			echo "$$name in $$(dirname $$file) for $(FUZZTIME)"; \
			go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -parallel 1 ./$$(dirname $$file) || exit 1; \
		done; \
	done

.PHONY: bench
bench: install ## Streams beside this machine's own limits and beside other loaders, about 15 minutes
	VENV="$(abspath $(VENV))" tests/bench/run.sh

.PHONY: bench-publish
bench-publish: venv ## Put the last run of bench into docs/benchmarks.md, with its plot
	$(PY) tests/bench/publish.py build/bench/raw.jsonl

.PHONY: bench-erasure
bench-erasure: ## Encoding and rebuilding of slices beside the library's own rate, about 20 seconds
	go test -run '^$$' -bench Erasure -benchtime 0.5s ./core/erasure

.PHONY: bench-etl
bench-etl: install ## What transformations cost, and augmentation beside webdataset's workers, about 5 minutes
	go test -run '^$$' -bench . -benchtime 1x -timeout 10m ./tests/overhead
	VENV="$(abspath $(VENV))" tests/bench/run.sh augment.py

.PHONY: bench-etl-publish
bench-etl-publish: install ## Put the last run of bench-etl into docs/benchmarks.md
	VENV="$(abspath $(VENV))" tests/bench/run.sh augment.py --publish

.PHONY: build
build: ## The shardstream binary, into build/bin; TAGS=no_s3,no_gcs,no_azure,no_hdfs leaves out backends
	CGO_ENABLED=0 go build -trimpath -tags "$(TAGS)" -o $(BIN)/shardstream ./cmd/shardstream

.PHONY: wheel
wheel: dist/.built ## The Python wheel (with the binary in it), into dist
	@ls dist/*.whl

.PHONY: install
install: $(STAMPS)/install ## The wheel and all that tests need, into .venv

.PHONY: venv
venv: $(STAMPS)/torch-frameworks-$(TORCH) ## .venv with the tools, without the package itself

.PHONY: clean
clean: ## Remove what was built; keep .venv and the downloaded tools
	rm -rf dist $(BIN)/shardstream .demo
	rm -rf .mypy_cache .ruff_cache .pytest_cache python/src/shardstream/_core

.PHONY: distclean
distclean: clean ## Remove .venv and the downloaded tools too
	rm -rf build $(VENV)

##### Files

$(STAMPS)/venv: tests/tools/requirements.txt
	@mkdir -p $(STAMPS)
	@$(PYTHON) -c 'import sys; sys.exit("shardstream needs Python >= 3.10; set PYTHON=... to one") if sys.version_info < (3, 10) else None'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { \
		echo "no virtual environment: install Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off -r tests/tools/requirements.txt
	@touch $@

$(STAMPS)/torch-$(TORCH): $(STAMPS)/venv tests/tools/requirements-torch.txt tests/tools/requirements-torch-light.txt tests/tools/mkstubs.py tests/tools/install-torch.sh
	tests/tools/install-torch.sh $(VENV) $(TORCH)
	@rm -f $(STAMPS)/torch-*
	@touch $@

# Lightning and the like; they fall to the rule above when torch itself is installed anew.
$(STAMPS)/torch-frameworks-$(TORCH): $(STAMPS)/torch-$(TORCH) tests/tools/requirements-torch-frameworks.txt
	@test $(TORCH) = none || $(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off \
		--no-deps -r tests/tools/requirements-torch-frameworks.txt
	@touch $@

$(STAMPS)/frameworks: tests/tools/requirements-frameworks.txt | $(STAMPS)/venv
	$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off -r tests/tools/requirements-frameworks.txt
	@touch $@

build/aistore/.stamp: tests/tools/requirements-aistore.txt | $(STAMPS)/venv
	@rm -rf build/aistore
	$(PY) -m venv build/aistore
	build/aistore/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off \
		-r tests/tools/requirements-aistore.txt
	@touch $@

dist/.built: $(SOURCES) | $(STAMPS)/venv
	@rm -rf dist
	$(PY) -m pip wheel --disable-pip-version-check --quiet --progress-bar off --no-deps --wheel-dir dist .
	@touch $@

$(STAMPS)/install: dist/.built $(STAMPS)/torch-frameworks-$(TORCH)
	$(PY) -m pip install --disable-pip-version-check --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@

$(BACKENDS)/.versitygw-$(VERSITYGW_VERSION):
	@mkdir -p $(BACKENDS)/bin
	GOBIN=$(abspath $(BACKENDS)/bin) go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
	@touch $@

$(BACKENDS)/.fake-gcs-server-$(FAKE_GCS_VERSION):
	@mkdir -p $(BACKENDS)/bin
	GOBIN=$(abspath $(BACKENDS)/bin) go install github.com/fsouza/fake-gcs-server@$(FAKE_GCS_VERSION)
	@touch $@

$(BACKENDS)/azurite/.stamp: $(SERVERS)/azurite/package.json $(SERVERS)/azurite/package-lock.json
	@mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --no-progress --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error
	@touch $@

$(BACKENDS)/hdfs/.stamp: $(SERVERS)/hdfs/pom.xml
	@rm -rf $(@D)
	mvn -B -q -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D))/lib
	@touch $@

$(GOLANGCI):
	@mkdir -p $(BIN)
	@echo "building golangci-lint $(GOLANGCI_VERSION), once; this takes some minutes"
	GOBIN=$(abspath $(BIN)) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/golangci-lint $@
