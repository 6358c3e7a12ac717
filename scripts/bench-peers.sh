#!/usr/bin/env bash
# Installs the programs that `make bench` measures Retto beside, into target/. A peer that cannot be had is left out, and
# named as absent in the tables.
#
#   scripts/bench-peers.sh           transformers on PyTorch and onnxruntime: six gigabytes, most of it CUDA
#   scripts/bench-peers.sh --burn    also burn, which takes some minutes to compile
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '==> %s\n' "$*" >&2; }

environment=target/bench-venv
requirements=benches/peers/requirements.txt
# Its copy is the mark of an installation that ended well.
if ! cmp -s "$requirements" "$environment/requirements.txt"; then
    say "installing transformers, PyTorch and onnxruntime into $environment"
    # Of two onnxruntimes one would be written over the other.
    if [[ -e $environment/requirements-cuda.txt ]]; then
        "$environment/bin/pip" uninstall --quiet --yes onnxruntime-gpu || true
        rm "$environment/requirements-cuda.txt"
    fi
    if "${PYTHON:-python3}" -m venv "$environment" &&
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"; then
        cp "$requirements" "$environment/requirements.txt"
    else
        say "they cannot be installed here; what is missing will be absent from the tables"
    fi
fi

# One or the other: both are the module onnxruntime.
of_cuda=benches/peers/requirements-cuda.txt
if command -v nvidia-smi >/dev/null && [[ -e $environment/requirements.txt ]] && ! cmp -s "$of_cuda" "$environment/requirements-cuda.txt"; then
    say "installing onnxruntime for CUDA in place of that for CPUs alone"
    if "$environment/bin/pip" uninstall --quiet --yes onnxruntime &&
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$of_cuda"; then
        cp "$of_cuda" "$environment/requirements-cuda.txt"
    else
        say "it cannot be installed here"
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    fi
fi

if [[ ${1:-} == --burn ]]; then
    say "building burn's worker"
    CARGO_TARGET_DIR=target/burn cargo build --release --locked --manifest-path benches/peers/burn/Cargo.toml ||
        say "it cannot be built here, and will be absent from the tables"
fi
exit 0
