#!/usr/bin/env bash
# Microsoft's shader compiler for Linux, which Debian has not: a project on PyPI carries it in its sources. Nothing of them is run.
#
#   scripts/dxc.sh FOLDER     FOLDER/libdxcompiler.so is there afterwards
set -euo pipefail

say() { printf '==> %s\n' "$*" >&2; }
[[ $# -eq 1 ]] || { say 'usage: scripts/dxc.sh FOLDER'; exit 1; }
folder=$1
[[ ! -e $folder/libdxcompiler.so ]] || exit 0
case $(uname -sm) in
'Linux x86_64') library=libdxcompiler_x86_64.so.3.7 ;;
'Linux aarch64') library=libdxcompiler_aarch64.so.3.7 ;;
*) say "Microsoft's shader compiler is to be had for Linux on x86-64 and ARM alone" && exit 1 ;;
esac

say "fetching Microsoft's shader compiler into $folder"
mkdir -p "$folder"
fresh=$(mktemp -d "$folder/XXXXXX")
trap 'rm -rf "$fresh"' EXIT
project=compushady-0.17.5
python3 - "$project" "$fresh/sources.tar.gz" <<'PYTHON'
import hashlib
import json
import os
import sys
import urllib.parse
import urllib.request

project, output = sys.argv[1:]
SHA256 = "5052caf9e955d8e7a48e22f536e82b44b72e83af46e824a9e99157c7809de691"
# pip would run what it finds in the sources. Its mirror is taken where one is named as it is for pip.
index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/compushady/"
asked = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
with urllib.request.urlopen(asked, timeout=60) as answer:
    files = json.load(answer)["files"]
file = next(file for file in files if file["filename"] == f"{project}.tar.gz")
with urllib.request.urlopen(urllib.parse.urljoin(index, file["url"]), timeout=300) as answer:
    content = answer.read()
if hashlib.sha256(content).hexdigest() != SHA256:
    sys.exit(f"{file['url']} is not what it was")
with open(output, "wb") as file:
    file.write(content)
PYTHON
tar --extract --gzip --file "$fresh/sources.tar.gz" --directory "$fresh" --strip-components 3 "$project/compushady/backends/$library"
mv "$fresh/$library" "$folder/libdxcompiler.so"
