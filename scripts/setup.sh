#!/usr/bin/env bash
# Installs what building and running Retto needs, where it is missing, and says what it installs.
#
#   scripts/setup.sh build   a C linker, which cargo calls
#   scripts/setup.sh lint    that, and rustfmt and clippy
#   scripts/setup.sh run     a C linker, and a software Vulkan driver where no Vulkan adapter is found
#   scripts/setup.sh bench   that, and Python's venv, for the programs Retto is measured beside
#   scripts/setup.sh test    that, a browser, in which the report page is tested (RETTO_NO_BROWSER=1 does without), and what
#                            the C library is used from: C++, CMake, pkg-config, Python, Mono, valgrind
#   scripts/setup.sh mpi     what the feature mpi is built and tested with; fails where that cannot be had, or with RETTO_NO_MPI=1
#   scripts/setup.sh windows  that of `run`, MinGW, Wine and a screen for it, to build and test for Windows
#   scripts/setup.sh has-mpi  installs nothing, and says by its exit code whether it is there
#   scripts/setup.sh has-gpu-compiler  likewise: Mesa's driver for AMD's GPUs, of a version that compiles without one
#
# RETTO_NO_BACKPORTS=1: on Debian 12, take Mesa from the release itself and leave backports alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# rustup writes this into shell profiles, which a shell opened before rustup ran has not read.
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"

say() { printf '==> %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

on_linux() { [[ $(uname -s) == Linux ]]; }

# The code name of the Debian release this is, nothing elsewhere. In a subshell: os-release sets many names.
debian_codename() (
    ID='' VERSION_CODENAME=''
    # shellcheck source=/dev/null
    [[ ! -r /etc/os-release ]] || . /etc/os-release
    [[ $ID != debian ]] || printf '%s\n' "$VERSION_CODENAME"
)

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Without standard input: no package may stop to ask. Waits where another program installs, as new machines do at boot.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

can_be_root() { ((EUID == 0)) || command -v sudo >/dev/null; }

# Names the packages to be installed and why, or says how to install them and gives up.
announce() {
    local reason=$1 && shift
    command -v apt-get >/dev/null || die "$reason. Install what your system calls: $*"
    can_be_root || die "$reason. As root, run: apt-get update && apt-get install -y --no-install-recommends $*"
    say "$reason: installing $*"
}

lists_updated=
update_lists() {
    [[ -z $lists_updated ]] || return 0
    # A broken third-party source is no reason to stop: the package may be had from the others.
    apt_get update -qq || say "apt-get update failed; trying with the package lists there are"
    lists_updated=1
}

apt_install() {
    update_lists
    apt_get install -y --no-install-recommends "$@"
}

require_rust() {
    local version oldest
    command -v cargo >/dev/null || die "cargo is not installed. Install Rust: https://rustup.rs"
    version=$(cargo --version) || die "cargo does not run; see the message above."
    version=${version#cargo } version=${version%%[ -]*}
    oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    if [[ $(printf '%s\n' "$oldest" "$version" | sort -V | sed -n 1p) != "$oldest" ]]; then
        die "Rust $version is too old, Retto needs $oldest. Run: rustup update stable (from https://rustup.rs)"
    fi
}

# ---- linker

# Asks for a whole program: gcc can be there without libc6-dev, which has the start files and libc.so.
can_link() { echo 'int main(void) { return 0; }' | cc -x c -o "$scratch/linked" - 2>/dev/null; }

require_linker() {
    can_link && return
    on_linux || die "cc cannot link a program. On macOS, run: xcode-select --install"
    local packages=(gcc libc6-dev)
    # Small systems leave these out, and then cargo cannot download crates.
    [[ -e /etc/ssl/certs/ca-certificates.crt || -n ${SSL_CERT_FILE:-} ]] || packages+=(ca-certificates)
    announce "No C linker" "${packages[@]}"
    apt_install "${packages[@]}"
    can_link || die "cc still cannot link a program."
}

require_lints() {
    local missing=()
    cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
    ((${#missing[@]})) || return 0
    command -v rustup >/dev/null || die "Install ${missing[*]}, which come with Rust from https://rustup.rs."
    say "installing ${missing[*]}"
    rustup component add "${missing[@]}"
}

# ---- Vulkan

# Compiles a program that asks Vulkan's loader for the adapters, as wgpu does. Manifests and /dev/dri tell less:
# manifests are installed without their hardware, and a container can see a device and lack its driver. On a fresh
# machine neither Vulkan's headers nor Retto's own build are there.
compile_adapters() {
    cc -x c -o "$scratch/adapters" - -ldl <<'C' || die "cannot compile the search for Vulkan adapters."
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

int main(void) {
    void *loader = dlopen("libvulkan.so.1", RTLD_NOW);
    if (!loader) return 1;
    int (*create_instance)(const void *, const void *, void **) = dlsym(loader, "vkCreateInstance");
    int (*enumerate)(void *, uint32_t *, void **) = dlsym(loader, "vkEnumeratePhysicalDevices");
    void (*get_properties)(void *, void *) = dlsym(loader, "vkGetPhysicalDeviceProperties");
    if (!create_instance || !enumerate || !get_properties) return 1;

    /* VkInstanceCreateInfo: its sType is 1, and nothing is asked for. */
    struct { uint32_t s_type; const void *p_next; uint32_t flags; const void *application;
             uint32_t layers; const void *layer_names; uint32_t extensions; const void *extension_names; } info = {1};
    void *instance, *devices[64];
    uint32_t count = 64;
    if (create_instance(&info, NULL, &instance) < 0 || enumerate(instance, &count, devices) < 0) return 1;
    for (uint32_t i = 0; i < count; i++) {
        /* VkPhysicalDeviceProperties: `rest` is more than the limits that follow the name take. */
        struct { uint32_t versions_and_ids[4]; uint32_t type; char name[256]; uint64_t rest[512]; } properties;
        get_properties(devices[i], &properties);
        printf("%u %s\n", properties.type, properties.name);
    }
    return count == 0;
}
C
}

# Prints a line `TYPE NAME` for each adapter, TYPE as in VkPhysicalDeviceType; fails where there is none.
adapters() {
    # A broken driver can hang, crash and write to stderr; all of these are "no adapter".
    timeout 30 "$scratch/adapters" 2>/dev/null
}

backports_known() {
    [[ -n $(apt-get indextargets --format x 'Codename: bookworm-backports' 'Component: main' 'Created-By: Packages') ]]
}

# Adds Debian 12's backports as a copy of the entry that names the release itself, so that mirror, key and options stay
# those of this machine. Fails, and leaves nothing behind, where it cannot.
add_backports() {
    local entry source number release added
    # shellcheck disable=SC2016 # apt-get fills these in, not the shell.
    entry=$(apt-get indextargets --format '$(SOURCESENTRY) $(RELEASE)' \
        'Origin: Debian' 'Codename: bookworm' 'Component: main' 'Created-By: Packages' | sed -n 1p)
    # `FILE:NUMBER RELEASE`; NUMBER counts lines in a .list, and stanzas in a .sources.
    [[ $entry =~ ^(/.+):([0-9]+)\ (.+)$ ]] || return 1
    source=${BASH_REMATCH[1]} number=${BASH_REMATCH[2]} release=${BASH_REMATCH[3]}
    added=/etc/apt/sources.list.d/bookworm-backports.${source##*.}
    # There already, and yet not known to apt: switched off by someone.
    [[ ! -e $added ]] || return 1

    say "adding Debian's backports to this machine's package sources: $added"
    if [[ $source == *.sources ]]; then
        # Each field with the lines that continue it; those that name the release are replaced. Comments neither end a
        # stanza nor make one.
        grep -v '^#' "$source" | awk -v number="$number" '
            BEGIN { RS = ""; FS = "\n" }
            NR == number {
                for (i = 1; i <= NF; i++) {
                    if ($i !~ /^[ \t]/) replaced = tolower($i) ~ /^(types|suites|components):/
                    if (!replaced) print $i
                }
                print "Types: deb\nSuites: bookworm-backports\nComponents: main"
            }'
    else
        sed -nE "$number s#[[:space:]]${release}[[:space:]].*# bookworm-backports main#p" "$source"
    fi | as_root tee "$added" >/dev/null

    # Only this source is fetched; the lists of the others are fresh.
    if ! apt_get update -qq --error-on=any -o Dir::Etc::SourceList="$added" -o Dir::Etc::SourceParts=- \
        -o APT::Get::List-Cleanup=0 || ! backports_known; then
        as_root rm -f "$added"
        return 1
    fi
}

install_from_backports() {
    update_lists
    if backports_known || add_backports; then
        apt_install -t bookworm-backports "$@" && return
    fi
    say "backports cannot be used here"
    return 1
}

# Debian 12's own lavapipe, 22.3, takes three to four times as long as that of its backports.
prefer_backports() { [[ $(debian_codename) == bookworm && ${RETTO_NO_BACKPORTS:-} != 1 ]]; }

driver=(mesa-vulkan-drivers libvulkan1)

# Takes what `adapters` printed. A driver someone installed is replaced only in CI, where nobody reads the hint.
upgrade_slow_driver() {
    local version
    # Nothing to gain where there is a GPU (4 is software), or where these variables name the driver.
    ! grep -qv '^4 ' <<<"$1" || return 0
    [[ -z ${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-} ]] && prefer_backports || return 0
    # shellcheck disable=SC2016 # dpkg-query fills this in.
    version=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null) || return 0
    [[ $version == 22.* ]] || return 0
    if [[ ${CI:-} == true ]] && can_be_root; then
        say "Mesa $version has a slow software Vulkan driver: installing ${driver[*]} from backports"
        install_from_backports "${driver[@]}" || say "keeping Mesa $version"
    else
        say "The software Vulkan driver here, Mesa $version, is three to four times slower than the one in Debian's" \
            "backports. To have that, add bookworm-backports to the package sources, then as root:" \
            "apt-get update && apt-get install -t bookworm-backports ${driver[*]}"
    fi
}

require_adapter() {
    local found
    compile_adapters
    if found=$(adapters); then
        upgrade_slow_driver "$found"
        return
    fi
    if [[ -e /dev/nvidiactl ]]; then
        say "There is an NVIDIA GPU, and Vulkan finds no driver for it: install the Vulkan part of NVIDIA's driver," \
            "or in a container set NVIDIA_DRIVER_CAPABILITIES=all. Going on with the processor."
    fi
    announce "No Vulkan adapter found, so a software one is needed" "${driver[@]}"
    if ! prefer_backports || ! install_from_backports "${driver[@]}"; then
        apt_install "${driver[@]}"
    fi
    found=$(adapters) || die "There is still no Vulkan adapter. Where a broken GPU driver is in the way, set" \
        "VK_ICD_FILENAMES to the lvp_icd file in /usr/share/vulkan/icd.d."
    say "Vulkan adapter: $(sed -n '1s/^[0-9]* //p' <<<"$found")"
}

# Mesa's driver for AMD's GPUs, with cooperative matrices, which it has from 23.3; up to 25.0 it can be told to assume a GPU: the variable's
# name is in it.
has_gpu_compiler() {
    local library version
    for library in /usr/lib/*/libvulkan_radeon.so /usr/lib64/libvulkan_radeon.so /usr/lib/libvulkan_radeon.so; do
        grep -qa RADV_FORCE_FAMILY "$library" 2>/dev/null || continue
        version=$(grep -aoE 'Mesa [0-9]+\.[0-9]+' "$library" | sed -n '1s/Mesa //p')
        [[ -z $version || $(printf '23.3\n%s\n' "$version" | sort -V | head -n 1) != 23.3 ]] || return 0
    done
    return 1
}

# ---- browser

# Names as in tests/report.rs.
require_browser() {
    local name
    [[ ${RETTO_NO_BROWSER:-} != 1 && -z ${CHROME:-} ]] || return 0
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        ! command -v "$name" >/dev/null || return 0
    done
    announce "No Chromium found, in which a page is tested (RETTO_NO_BROWSER=1 leaves that test out)" chromium
    update_lists
    # Ubuntu has it as a snap alone.
    [[ $(LC_ALL=C LANGUAGE='' apt-cache policy chromium) == *'Candidate: '[^\(]* ]] ||
        die "This system has no package of Chromium, in which a page is tested. Install Google Chrome (https://www.google.com/chrome/)," \
            "or leave that test out: RETTO_NO_BROWSER=1"
    apt_install chromium
}

# ---- hosts

require_ip() {
    ! command -v ip >/dev/null || return 0
    announce "Two hosts are made of network namespaces, by the program ip" iproute2
    apt_install iproute2
}

# ---- languages

# What tests/capi.rs runs, and the package it is in.
require_languages() {
    local missing=() tool
    for tool in c++:g++ cmake:cmake pkg-config:pkg-config python3:python3 mcs:mono-mcs mono:mono-runtime valgrind:valgrind \
        make:make; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    # Debian splits these off.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    if command -v gcc >/dev/null && [[ ! -e $(gcc -print-file-name=libasan.so) ]]; then missing+=(libgcc-"$(gcc -dumpversion)"-dev); fi
    ((${#missing[@]})) || return 0
    announce "The C library is tested from C++, Python and C#" "${missing[@]}"
    apt_install "${missing[@]}"
}

# What scripts/windows.sh runs, and the package it is in.
require_wine() {
    local missing=() tool
    for tool in x86_64-w64-mingw32-gcc-posix:gcc-mingw-w64-x86-64-posix x86_64-w64-mingw32-g++-posix:g++-mingw-w64-x86-64-posix \
        xvfb-run:xvfb xauth:xauth; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    # Debian keeps it out of PATH.
    command -v wine64 >/dev/null || command -v wine >/dev/null || [[ -e /usr/lib/wine/wine64 ]] || missing+=(wine64)
    ((${#missing[@]})) || return 0
    announce "Windows is tested with MinGW and Wine" "${missing[@]}"
    apt_install "${missing[@]}"
}

require_venv() {
    local packages=(python3 python3-venv) needs='import ensurepip, venv'
    if command -v nvidia-smi >/dev/null; then
        # torch.compile on CUDA compiles a module of Python's.
        packages+=(python3-dev)
        needs+=', os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'
    fi
    ! python3 -c "$needs" 2>/dev/null || return 0
    announce "The programs Retto is measured beside need Python" "${packages[@]}"
    apt_install "${packages[@]}"
}

# ---- MPI

# Headers and compiler wrapper, launcher, and the libclang that reads the headers for Rust.
has_mpi() {
    [[ ${RETTO_NO_MPI:-} != 1 ]] || return 1
    command -v mpicc >/dev/null && command -v mpirun >/dev/null || return 1
    # The tests know Open MPI's options.
    [[ $(mpirun --version 2>/dev/null) == *'Open MPI'* ]] || return 1
    [[ -z ${LIBCLANG_PATH:-} ]] || return 0
    local found
    for found in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so* /usr/lib/libclang*.so*; do
        # Another library, of a name that begins likewise.
        [[ $found != *-cpp* ]] || continue
        [[ ! -e $found ]] || return 0
    done
    return 1
}

# Not worth giving up for: where it cannot be installed, the caller says what is left out.
require_mpi() {
    ! has_mpi || return 0
    [[ ${RETTO_NO_MPI:-} != 1 ]] && command -v apt-get >/dev/null && can_be_root || return 1
    local packages=(openmpi-bin libopenmpi-dev libclang-dev)
    say "Training across machines is tested with MPI: installing ${packages[*]} (RETTO_NO_MPI=1 leaves that out)"
    apt_install "${packages[@]}" && has_mpi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case ${1:-} in
build)
    require_rust
    require_linker
    ;;
lint)
    require_rust
    require_linker
    require_lints
    ;;
run)
    require_rust
    require_linker
    # Metal is part of macOS.
    ! on_linux || require_adapter
    ;;
windows)
    require_rust
    require_linker
    require_adapter
    require_wine
    ;;
bench)
    require_rust
    require_linker
    ! on_linux || require_adapter
    ! on_linux || require_venv
    ;;
test)
    require_rust
    require_linker
    ! on_linux || require_adapter
    ! on_linux || require_browser
    ! on_linux || require_languages
    ;;
mpi)
    require_mpi
    ;;
hosts)
    require_ip
    ;;
has-mpi)
    has_mpi
    ;;
has-gpu-compiler)
    has_gpu_compiler
    ;;
*) die "usage: scripts/setup.sh build|lint|run|bench|test|mpi|hosts|windows|has-mpi|has-gpu-compiler" ;;
esac
