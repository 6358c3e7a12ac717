#!/usr/bin/env bash
# Builds the C library, shared and static, and prints the folder it lies in.
#
#   scripts/capi.sh PROFILE [CARGO OPTION...]     for example: scripts/capi.sh capi --features capi
#
# Beside the libraries it leaves retto.native-libs: what a program needs besides the static one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=$1 && shift
target=${CARGO_TARGET_DIR:-target}
folder=$target/$([[ $profile == dev ]] && echo debug || echo "$profile")

# The library's name for the loader carries the major version, so that programs of another one do not take it.
major=$(sed -n 's/^version = "\([0-9]*\)\..*"$/\1/p' Cargo.toml | sed -n 1p)
options=(--print native-static-libs)
case $(uname -s) in
Darwin) options+=(-C "link-arg=-Wl,-install_name,@rpath/libretto.$major.dylib") ;;
# A DLL is known by its file's name.
MINGW* | MSYS* | CYGWIN*) ;;
*) options+=(-C "link-arg=-Wl,-soname,libretto.so.$major") ;;
esac

# As crate types here, not in Cargo.toml: Rust programs that depend on the crate build none of this.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
if ! cargo rustc --lib --profile "$profile" "$@" --crate-type cdylib --crate-type staticlib -- \
    "${options[@]}" 2>"$messages"; then
    cat "$messages" >&2
    exit 1
fi
grep -v 'native-static-libs\|native artifacts\|^$' "$messages" >&2 || true
sed -n 's/.*native-static-libs: //p' "$messages" | sed -n 1p >"$folder/retto.native-libs"
[[ -s $folder/retto.native-libs ]] || { echo "rustc did not say what the static library needs" >&2 && exit 1; }
printf '%s\n' "$folder"
