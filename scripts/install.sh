#!/usr/bin/env bash
# Installs the C library: header, shared library with its version links, static library, pkg-config files, CMake package.
# On Windows from the bash of Git or MSYS2: there the DLL goes to bin, its import library to lib.
#
#   scripts/install.sh FOLDER PREFIX [DESTDIR]     FOLDER: what scripts/capi.sh printed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

built=$1 prefix=$2 root=${3:-}$2
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | sed -n 1p)
major=${version%%.*}
native=$(<"$built/retto.native-libs")
system=$(uname -s)
die() { printf '%s\n' "$*" >&2 && exit 1; }

case $system in
MINGW* | MSYS* | CYGWIN*)
    # As Rust's two toolchains for Windows name what they make: MSVC's, and MinGW's.
    if [[ -f $built/retto.dll.lib ]]; then
        implib=retto.dll.lib static=retto.lib
    else
        implib=libretto.dll.a static=libretto.a
    fi
    for file in retto.dll "$implib" "$static"; do
        [[ -f $built/$file ]] && continue
        die "$built has no $file. An installation is retto.dll in bin, its import library (retto.dll.lib or" \
            "libretto.dll.a) and the static library (retto.lib or libretto.a) in lib, retto.h and retto.hpp in include."
    done
    # CMake would take /defaultlib:msvcrt for a file; MSVC's linker takes - as well.
    native=${native//\/defaultlib/-defaultlib}
    # What is installed is read by programs that know no /c/folder.
    if command -v cygpath >/dev/null; then prefix=$(cygpath -m "$prefix"); fi
    ;;
*) implib= static=libretto.a ;;
esac

# sudo is for the copy alone: cargo belongs to the user, and root may have none. Not an array: macOS's bash takes an empty one for unset.
as=
if ! { mkdir -p "$root" 2>/dev/null && [[ -w $root ]]; }; then
    [[ -z $implib ]] || die "$root cannot be written to: give another PREFIX, or run this as administrator"
    as=sudo
fi
copy() { $as install -m "$1" "$2" "$root/$3"; }
link() { $as ln -sf "$1" "$root/lib/$2"; }

$as install -d "$root/include" "$root/lib/pkgconfig" "$root/lib/cmake/retto"
copy 644 include/retto.h include/retto.h
copy 644 bindings/cpp/retto.hpp include/retto.hpp
copy 644 "$built/$static" "lib/$static"
if [[ -n $implib ]]; then
    $as install -d "$root/bin"
    copy 755 "$built/retto.dll" bin/retto.dll
    copy 644 "$built/$implib" "lib/$implib"
    shared=bin/retto.dll linked="IMPORTED_IMPLIB \"\${_retto_prefix}/lib/$implib\""
    # By its path: to MSVC, -lretto is the static library.
    libs="\"\${libdir}/$implib\""
elif [[ $system == Darwin ]]; then
    name=libretto.$major.dylib
    copy 755 "$built/libretto.dylib" "lib/libretto.$version.dylib"
    link "libretto.$version.dylib" "$name"
    link "$name" libretto.dylib
    # As the library names itself: CMake then has programs look beside it, and pkg-config has to say where that is.
    shared=lib/$name linked="IMPORTED_SONAME \"@rpath/$name\""
    libs="\"-L\${libdir}\" \"-Wl,-rpath,\${libdir}\" -lretto"
else
    name=libretto.so.$major
    copy 755 "$built/libretto.so" "lib/libretto.so.$version"
    link "libretto.so.$version" "$name"
    link "$name" libretto.so
    shared=lib/$name linked="IMPORTED_SONAME \"$name\""
    libs="\"-L\${libdir}\" -lretto"
fi

# What sed would read otherwise in what it puts in.
as_it_is() { printf '%s' "$1" | sed 's/[\\&|]/\\&/g'; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for file in retto.pc retto-static.pc retto-config.cmake retto-config-version.cmake; do
    sed -e "s|@PREFIX@|$(as_it_is "$prefix")|g" -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" -e "s|@NATIVE@|$(as_it_is "$native")|g" \
        -e "s|@SHARED@|$shared|g" -e "s|@STATIC@|$static|g" -e "s|@LINKED@|$linked|g" -e "s|@LIBS@|$libs|g" \
        "packaging/$file.in" >"$scratch/$file"
    case $file in
    *.pc) copy 644 "$scratch/$file" "lib/pkgconfig/$file" ;;
    *) copy 644 "$scratch/$file" "lib/cmake/retto/$file" ;;
    esac
done
