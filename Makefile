# Everything that is done to snapctl. Each target first finds or installs what
# it needs (scripts/deps), so it works on a fresh Debian 12 or 13, as root.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
UNITDIR ?= $(PREFIX)/lib/systemd/system
DATADIR ?= $(PREFIX)/share

PKGS ?= ./...
TEST_FLAGS ?=
TEST_TIMEOUT ?= 55m
BENCH_FLAGS ?=
DEMO_FLAGS ?=
ONLY ?=
AGAINST ?=
ROUNDS ?= 300
SEED ?=
SOAK := ^(TestChaos|TestInstallationByChance|TestMigrateUnderTraffic|TestLoad.*|TestCRIUIsKilledWhileItWakes|TestBusyAppIsSaved|Test.*AtEveryPoint|Test.*Survives?)$$

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
MODULE := github.com/snapctl/snapctl
LDFLAGS := -X $(MODULE)/cmd/internal/version.Version=$(VERSION)

# Static programs run in any root directory, and need no C compiler.
export CGO_ENABLED ?= 0
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# What recipes start with. go comes first on PATH, since tests run it too.
with_go = go=$$(scripts/deps go); export PATH="$${go%/*}:$$PATH"
with_criu = SNAPCTL_CRIU=$$(scripts/deps criu); export SNAPCTL_CRIU
as_root = if [ "$$(id -u)" != 0 ]; then \
	echo 'make $@: error: needs root, for namespaces, mounts, cgroups and CRIU' >&2; \
	echo 'make $@: hint: sudo make $@' >&2; exit 1; fi
tool = go tool -modfile=tools/go.mod

.PHONY: help
help:
	@sed -n 's/^## \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

## make build     static programs, into bin/
.PHONY: build
build:
	@$(with_go)
	for main in cmd/*/main.go; do
		name=$$(basename "$$(dirname "$$main")")
		go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o "bin/$$name" "./cmd/$$name"
	done

## make demo      what snapctl does, shown on scratch hosts of this machine (root)
.PHONY: demo
demo:
	@$(as_root)
	$(with_go); $(with_criu)
	scripts/deps test
	go run -buildvcs=false ./testenv/cmd/demo $(DEMO_FLAGS)

## make test      go vet and all tests (root)
##                PKGS=./vem/... TEST_FLAGS='-v -run Wake' narrow it down
.PHONY: test
test:
	@$(as_root)
	$(with_go); $(with_criu)
	scripts/deps test
	# -p 2: testenv/e2e takes as long as all others, and mostly waits. Each test has
	# hosts of its own, and leak checks look at these only.
	log=$$(mktemp); trap 'rm -f "$$log"' EXIT
	if go vet $(PKGS) && go test -p 2 -count=1 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PKGS) 2>&1 | tee "$$log"; then
		echo "make test: ok: $$(go list $(PKGS) | wc -l) packages in $$SECONDS s"
	else
		# The names again, below the pages of goroutines that a timeout prints.
		grep -E '^ *--- FAIL|^(panic:|FAIL)|^[[:space:]]+Test[^ ]+ \([0-9a-z.]+\)$$' "$$log" >&2 || true
		echo "make test: FAILED after $$SECONDS s" >&2
		exit 1
	fi

## make soak      the tests that draw by chance, 300 rounds each instead of some (root)
##                ROUNDS=1000 SEED=7 ONLY=TestChaos
.PHONY: soak
soak:
	@$(as_root)
	$(with_go); $(with_criu)
	scripts/deps test
	export SNAPCTL_TEST_ROUNDS=$(ROUNDS) $(if $(SEED),SNAPCTL_TEST_SEED=$(SEED))
	go test -count=1 -timeout 12h -v -run '$(or $(ONLY),$(SOAK))' ./testenv/e2e

## make bench     what users feel, against stock CRIU and runc (root)
##                ONLY=regexp chooses, BENCH_FLAGS=-once runs each once;
##                AGAINST=commit measures by turns with that commit's snapctl
.PHONY: bench
bench:
	@$(as_root)
	$(with_go); $(with_criu)
	scripts/deps test
	go run -buildvcs=false ./testenv/cmd/bench $(if $(ONLY),-only '$(ONLY)') $(if $(AGAINST),-against '$(AGAINST)') $(BENCH_FLAGS)

## make lint      golangci-lint, shellcheck, tidy go.mod
.PHONY: lint
lint:
	@$(with_go)
	scripts/deps lint
	$(tool) golangci-lint run $(PKGS)
	find . -name .git -prune -o \( -name '*.sh' -o -name '*.bash' \) -print0 |
		xargs -0 shellcheck -x -S warning scripts/deps scripts/vm scripts/vm-init .ci/run
	go mod tidy -diff
	echo "make lint: ok in $$SECONDS s"

## make generate  Go code from the .proto files
.PHONY: generate
generate:
	@$(with_go)
	scripts/deps generate
	for proto in runtime/api/*.proto vem/control/controlpb/*.proto; do
		dir=$$(dirname "$$proto")
		protoc --proto_path="$$dir" \
			--plugin="protoc-gen-go=$$($(tool) -n protoc-gen-go)" \
			--plugin="protoc-gen-go-grpc=$$($(tool) -n protoc-gen-go-grpc)" \
			--go_out="$$dir" --go_opt=paths=source_relative \
			--go-grpc_out="$$dir" --go-grpc_opt=paths=source_relative \
			"$$proto"
	done

## make install   programs, unit file, completions and man pages
##                PREFIX=/usr/local DESTDIR=
.PHONY: install
install: build
	@install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(UNITDIR)"
	for main in cmd/*/main.go; do
		install -m 755 "bin/$$(basename "$$(dirname "$$main")")" "$(DESTDIR)$(BINDIR)/"
	done
	sed 's#/usr/local/bin/#$(BINDIR)/#' scripts/systemd/snapctld.service >bin/snapctld.service
	install -m 644 bin/snapctld.service "$(DESTDIR)$(UNITDIR)/snapctld.service"
	complete() { # SHELL FILE
		install -d "$(DESTDIR)$(DATADIR)/$$(dirname "$$2")"
		bin/snapctl completion "$$1" >bin/completion
		install -m 644 bin/completion "$(DESTDIR)$(DATADIR)/$$2"
	}
	complete bash bash-completion/completions/snapctl
	complete zsh zsh/site-functions/_snapctl
	complete fish fish/vendor_completions.d/snapctl.fish
	# From the commands themselves, so they are never stale.
	rm -rf bin/man
	$(with_go)
	go run -buildvcs=false -ldflags '$(LDFLAGS)' ./cmd/internal/man bin/man
	install -d "$(DESTDIR)$(DATADIR)/man/man1"
	install -m 644 bin/man/*.1 "$(DESTDIR)$(DATADIR)/man/man1/"

## make clean     what make built here
.PHONY: clean
clean:
	@rm -rf bin dist
