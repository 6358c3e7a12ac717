# Each job first installs what it needs and is missing: see scripts/setup.sh.

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= python3

# rustup writes this into shell profiles, which a shell opened before rustup ran has not read.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
BUILT := $(or $(CARGO_TARGET_DIR),target)/release
# In CI a Cargo.lock that does not fit Cargo.toml is an error.
LOCKED := $(if $(CI),--locked)

# The C library: its cargo profile, and what it is built with. `default-model` puts the bundled model into it.
CAPI_PROFILE ?= capi
CAPI_FEATURES ?= --features capi

# Where an MPI is found, what needs one is checked and tested, too. Asked for in recipes, as a line before may have installed it.
FEATURES = all$$(scripts/setup.sh has-mpi && echo ,mpi)

# What `make bench` is given: `make bench BENCH="--only fill --models mini"`; --help lists it. With --burn, burn too.
BENCH ?=

.PHONY: help demo build capi header test test-next test-as-gpu test-compilers test-dx12 test-windows test-hosts bench bench-scaling memcheck lint lint-features check reference install install-command install-library

help: ## this list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: ## adapt the bundled model to song lyrics; its answers before and after
	@scripts/setup.sh run
	cargo run --release --features all $(LOCKED) --example adapt

build: ## the retto command, in target/release
	@scripts/setup.sh build
	cargo build --release --features all $(LOCKED)

capi: ## the C library, in target/capi
	@scripts/setup.sh build
	@scripts/capi.sh $(CAPI_PROFILE) $(CAPI_FEATURES) $(LOCKED)

header: ## include/retto.h, from src/capi
	@scripts/setup.sh build
	RETTO_WRITE_HEADER=1 cargo test --features all $(LOCKED) --test header the_header_is

# nextest runs no doc tests. It is used where it is there: compiling it takes longer than all of Retto. Its summary
# ends the output.
test: ## every test
	@scripts/setup.sh test
	@scripts/setup.sh mpi || echo '==> NOT TESTED: processes that MPI starts (RETTO_NO_MPI=1, or no MPI could be installed)'
	cargo test --doc --features $(FEATURES) $(LOCKED)
	@if cargo nextest --version >/dev/null 2>&1; then \
	  echo '==> cargo nextest'; cargo nextest run --features $(FEATURES) $(LOCKED); \
	else \
	  echo '==> cargo test, as cargo-nextest is not installed'; \
	  cargo test --features $(FEATURES) $(LOCKED) --lib --bins --tests; \
	fi

# The one software adapter with cooperative matrices: without them the tests fail here. Relative paths, as cargo splits the
# variable at spaces; it runs tests in the package's folder.
test-next: ## the kernels on the newest software Vulkan, which is unpacked into target/ (Debian)
	@scripts/setup.sh build
	triple=$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_) && \
	  env RETTO_NEEDS_COOPERATIVE=1 "CARGO_TARGET_$${triple}_RUNNER=scripts/mesa-next.sh target/mesa-next" \
	  cargo test --features $(FEATURES) $(LOCKED) --lib ops::

# Models with the kernels and the uploads that GPUs get, but for what starts the command, which has another C library than this Vulkan.
test-as-gpu: ## models as a GPU would run them, on the newest software Vulkan (Debian)
	@scripts/setup.sh build
	triple=$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_) && \
	  export RETTO_AS_GPU=1 RETTO_EXPECTS_GPU=1 "CARGO_TARGET_$${triple}_RUNNER=scripts/mesa-next.sh target/mesa-next" && \
	  cargo test --features $(FEATURES) $(LOCKED) --lib gpu:: && \
	  cargo test --features $(FEATURES) $(LOCKED) --lib ops::tilings && \
	  cargo test --features $(FEATURES) $(LOCKED) --test dtype --test embed --test fill --test parallel --test reference \
	    --test resume --test save --test training -- --skip command

test-compilers: ## the kernels for GPUs through Mesa's compiler for AMD's, which needs no GPU (Mesa 23.3 to 25.0)
	@scripts/setup.sh run
	cargo test --features $(FEATURES) $(LOCKED) --lib -- --ignored --exact ops::compile::every_kernel_for_gpus_is_compiled_for_them

test-dx12: ## what the kernels become on DX12 through Microsoft's compiler, which is fetched into target/ (Linux; needs Python)
	scripts/dxc.sh target/dxc
	rm -rf target/dxc/hlsl && mkdir target/dxc/hlsl
	RETTO_HLSL_FOLDER=$(CURDIR)/target/dxc/hlsl cargo test --features $(FEATURES) $(LOCKED) --lib ops::translate
	python3 tests/compilers/dxc.py target/dxc/hlsl target/dxc/libdxcompiler.so

test-windows: ## the tests and the C library built for Windows, under Wine: needs Rust's standard library for it (Debian, Ubuntu)
	scripts/windows.sh

bench: ## Retto beside transformers, onnxruntime and (BENCH=--burn) burn: installs them into target/, takes half an hour
	@scripts/setup.sh bench
	@scripts/bench-peers.sh $(filter --burn,$(BENCH))
	cargo bench --features bench,cli $(LOCKED) --bench side_by_side -- $(BENCH)

test-hosts: ## training across two hosts, which are network namespaces of this one: needs root and an MPI
	@scripts/setup.sh test && scripts/setup.sh mpi && scripts/setup.sh hosts
	cargo test --features all,mpi $(LOCKED) --test mpi -- --ignored two_hosts

# Under mpirun as well, where there is one.
bench-scaling: ## what several devices cost each other, measured and carried on to clusters: output/scaling.json, docs/scaling.svg
	@scripts/setup.sh bench
	cargo bench --features bench,cli$$(scripts/setup.sh has-mpi && echo ,mpi) $(LOCKED) --bench scaling --no-run
	scripts/bench-scaling.sh "$$(cargo bench --features bench,cli$$(scripts/setup.sh has-mpi && echo ,mpi) $(LOCKED) --bench scaling \
	  --no-run --message-format json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*scaling[^"]*\)".*/\1/p' | tail -1)"
	$(PYTHON) scripts/scaling.py output/scaling.json docs/scaling.svg

memcheck: ## the C library under valgrind, six minutes
	@scripts/setup.sh test
	cargo test --features all $(LOCKED) --test capi -- --ignored memcheck

lint: ## formatting, clippy and the documentation's links, warnings as errors
	@scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --all-targets --features $(FEATURES) $(LOCKED) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --features $(FEATURES) $(LOCKED)

lint-features: ## that it compiles and its documentation links with the features that a Rust program takes: none, and reading corpora
	@scripts/setup.sh lint
	cargo clippy --all-targets $(LOCKED) -- -D warnings
	cargo clippy --all-targets --features prepare $(LOCKED) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --lib $(LOCKED)

check: lint test ## lint and test

reference: ## comparison with transformers, live: needs Python, see tests/reference/README.md
	@scripts/setup.sh run
	$(PYTHON) tests/reference/live.py

install: install-command install-library ## both of the following, into $(DESTDIR)$(PREFIX); PREFIX=/usr/local

# sudo is for the copy alone: cargo belongs to the user, and root may have none.
install-command: build ## the retto command
	@bin='$(DESTDIR)$(PREFIX)/bin'; \
	if mkdir -p "$$bin" 2>/dev/null && [ -w "$$bin" ]; then sudo=; else sudo=sudo; fi; \
	set -x; $$sudo install -d "$$bin" && $$sudo install -m 755 $(BUILT)/retto "$$bin/retto"

install-library: ## the C library: header, shared and static library, pkg-config and CMake files
	@scripts/setup.sh build
	@folder=$$(scripts/capi.sh $(CAPI_PROFILE) $(CAPI_FEATURES) $(LOCKED)) && \
	scripts/install.sh "$$folder" '$(PREFIX)' '$(DESTDIR)' && \
	echo "installed libretto in $(DESTDIR)$(PREFIX)"
