#!/usr/bin/env bash
# Installs the C library: header, shared library with its version links, static library, pkg-config files, CMake package.
#
#   scripts/install.sh FOLDER PREFIX [DESTDIR]     FOLDER: what scripts/capi.sh printed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

built=$1 prefix=$2 root=${3:-}$2
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | sed -n 1p)
major=${version%%.*}
native=$(<"$built/retto.native-libs")

# sudo is for the copy alone: cargo belongs to the user, and root may have none. Not an array: macOS's bash takes an empty one for unset.
as=
mkdir -p "$root" 2>/dev/null && [[ -w $root ]] || as=sudo
copy() { $as install -m "$1" "$2" "$root/$3"; }
link() { $as ln -sf "$1" "$root/lib/$2"; }

$as install -d "$root/include" "$root/lib/pkgconfig" "$root/lib/cmake/retto"
copy 644 include/retto.h include/retto.h
copy 644 bindings/cpp/retto.hpp include/retto.hpp
copy 644 "$built/libretto.a" lib/libretto.a
if [[ $(uname -s) == Darwin ]]; then
    shared=libretto.$major.dylib
    copy 755 "$built/libretto.dylib" "lib/libretto.$version.dylib"
    link "libretto.$version.dylib" "$shared"
    link "$shared" libretto.dylib
    # As the library names itself: CMake then has programs look beside it.
    soname=@rpath/$shared
else
    shared=libretto.so.$major
    copy 755 "$built/libretto.so" "lib/libretto.so.$version"
    link "libretto.so.$version" "$shared"
    link "$shared" libretto.so
    soname=$shared
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for file in retto.pc retto-static.pc retto-config.cmake retto-config-version.cmake; do
    sed -e "s|@PREFIX@|$prefix|g" -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" -e "s|@NATIVE@|$native|g" \
        -e "s|@SONAME@|$soname|g" -e "s|@SHARED@|$shared|g" "packaging/$file.in" >"$scratch/$file"
    case $file in
    *.pc) copy 644 "$scratch/$file" "lib/pkgconfig/$file" ;;
    *) copy 644 "$scratch/$file" "lib/cmake/retto/$file" ;;
    esac
done
