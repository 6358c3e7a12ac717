#!/usr/bin/env bash
# Builds Retto for Windows with MinGW, and runs its tests and the C library's programs there under Wine, on a Vulkan driver of this
# machine's. What Wine has for DX12 is left out: it compiles no shaders. Debian and Ubuntu only.
#
#   scripts/windows.sh
#
# The Rust in PATH has to have Windows' standard library (rustup target add x86_64-pc-windows-gnu), or its sources, as Debian's own Rust
# has with rust-src: then it is built, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    printf '==> %s\n' "$*" >&2
    exit 1
}

if [[ -z ${RETTO_XVFB:-} ]]; then
    scripts/setup.sh windows
    # Wine has Vulkan only where it has a screen.
    RETTO_XVFB=1 exec xvfb-run -a "$PWD/scripts/windows.sh"
fi

PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
triple=x86_64-pc-windows-gnu
target=$PWD/target/windows
export RETTO_NO_BROWSER=1 CARGO_TARGET_DIR=$target WINEPREFIX=$target/wine WINEDEBUG=-all WINEDLLOVERRIDES=d3d12=d
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc-posix
options=(--target "$triple" --features all --locked)
if [[ ! -d $(rustc --print target-libdir --target "$triple") ]]; then
    [[ -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]] ||
        die "this Rust has no standard library for Windows. Run: rustup target add $triple"
    export RUSTC_BOOTSTRAP=1
    options+=(-Z build-std=std,panic_unwind,test)
fi

wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2>/dev/null) || die "Wine is not installed"
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$wine
mkdir -p "$target/programs"
"$wine" wineboot --init >/dev/null 2>&1 || true
# Rust's standard library takes its random numbers from there, and Wine 8 has it not.
system=$WINEPREFIX/drive_c/windows/system32
if [[ ! -e $system/bcryptprimitives.dll ]]; then
    cat >"$target/programs/random.c" <<'C'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
C
    x86_64-w64-mingw32-gcc-posix -shared -o "$system/bcryptprimitives.dll" "$target/programs/random.c" -ladvapi32
fi

cargo test "${options[@]}" --lib --bins --tests --no-fail-fast

# The C library, by the programs it is tested with elsewhere.
cargo rustc "${options[@]}" --lib --crate-type cdylib --crate-type staticlib -- --print native-static-libs
built=$target/$triple/debug
cp "$built/retto.dll" "$target/programs"
program() {
    local compiler=$1 source=$2 name
    name=$(basename "$source").exe && shift 2
    "x86_64-w64-mingw32-$compiler-posix" -Wall -Wextra -Werror -Iinclude -Ibindings/cpp "$source" \
        -o "$target/programs/$name" "$built/libretto.dll.a" -lpthread -static
    printf '%s\n' "$name" >&2
    "$wine" "$target/programs/$name" models/retto-tiny "$@"
}
lines=data/lyrics/original.txt
folder() { rm -rf "$target/programs/$1" && mkdir "$target/programs/$1" && printf '%s\n' "$target/programs/$1"; }
program gcc tests/capi/misuse.c "$lines" "$(folder misuse)"
program gcc tests/capi/old_header.c
program gcc tests/capi/hooks.c
program gcc tests/capi/threads.c "$lines" 16 50
program gcc tests/capi/scenario.c "$lines" "$(folder c)" >"$target/programs/c.txt"
program g++ tests/bindings/scenario.cpp "$lines" "$(folder cpp)" >"$target/programs/cpp.txt"
cmp "$target/programs/c.txt" "$target/programs/cpp.txt"
printf '==> Windows: all of it passed, under %s\n' "$("$wine" --version 2>/dev/null | tr -d '\r')"
