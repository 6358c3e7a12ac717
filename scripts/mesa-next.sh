#!/usr/bin/env bash
# Runs a program on the newest software Vulkan, which is unpacked beside the system and leaves it as it is. It has what the
# distribution's has not: cooperative matrices, and code that needs other kernels. Debian only.
#
#   scripts/mesa-next.sh FOLDER PROGRAM [ARGUMENT...]     FOLDER is filled at the first call
set -euo pipefail

die() {
    printf '==> %s\n' "$*" >&2
    exit 1
}

[[ $# -ge 2 ]] || die "usage: scripts/mesa-next.sh FOLDER PROGRAM [ARGUMENT...]"
folder=$(realpath -m "$1") && shift
libraries=$folder/usr/lib/$(uname -m)-linux-gnu

# Into a folder of its own, with apt's lists and state there, so that apt solves for unstable alone.
fill() {
    command -v apt-get >/dev/null || die "the newest Mesa comes as Debian packages, and there is no apt-get here"
    local state=$1/state mirror option options=()
    # This machine's own mirror; security's has another label, and a machine without package lists has none to name.
    # shellcheck disable=SC2016 # apt-get fills it in, not the shell.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Label: Debian' 'Created-By: Packages' | sed -n 1p)
    mirror=${mirror:-http://deb.debian.org/debian}
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    : >"$state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror unstable main" >"$state/sources.list"
    for option in Dir::State="$state" Dir::State::status="$state/status" Dir::State::Lists="$state/lists" \
        Dir::Cache="$state/cache" Dir::Etc::SourceList="$state/sources.list" Dir::Etc::SourceParts=- \
        Dir::Etc::Preferences=/dev/null Dir::Etc::PreferencesParts=- APT::Default-Release= \
        APT::Sandbox::User="$(id -un)" APT::Install-Recommends=false Debug::NoLocking=true; do
        options+=(-o "$option")
    done
    apt-get "${options[@]}" -qq update
    apt-get "${options[@]}" -qq -y --download-only install mesa-vulkan-drivers libvulkan1 libgcc-s1 libstdc++6 </dev/null
    local package
    for package in "$state"/cache/archives/*.deb; do
        case ${package##*/} in
        lib* | mesa-vulkan* | zlib1g*) dpkg-deb --extract "$package" "$1" ;;
        esac
    done
    rm -rf "$state"
    # By its place to be, not this one.
    printf '{"file_format_version": "1.0.0", "ICD": {"api_version": "1.3.0", "library_path": "%s"}}\n' \
        "$libraries/libvulkan_lvp.so" >"$1/lavapipe.json"
}

if [[ ! -d $folder ]]; then
    printf '==> unpacking the newest software Vulkan into %s\n' "$folder" >&2
    mkdir -p "$(dirname "$folder")"
    fresh=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    fill "$fresh" >&2
    mv "$fresh" "$folder"
fi

manifest=$folder/lavapipe.json
# Its C library is newer than the system's, and comes with a loader of its own.
loader=$(find "$libraries" -maxdepth 1 -name 'ld-linux-*' | sed -n 1p)
[[ -n $loader && -e $manifest ]] || die "$folder is not whole: remove it, and the next call fills it again"
export VK_DRIVER_FILES=$manifest VK_ICD_FILENAMES=$manifest
exec "$loader" --library-path "$libraries:/usr/lib/$(uname -m)-linux-gnu" "$@"
