#!/usr/bin/env bash
# Compares deploy/runtime-packages.txt with the libraries that a binary really loads:
#   tools/check_runtime_packages.sh BINARY [--print]
# An unlisted library, a listed package that is not needed, or CivetWeb (a web server with known holes that
# prometheus-cpp's pull library would drag in) fails. --print writes the list that the binary needs.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1
list=deploy/runtime-packages.txt
# In every Debian 12 image already.
base='libc6 libgcc-s1 libstdc++6 zlib1g liblzma5 libzstd1 libgcrypt20 libsystemd0 liblz4-1 libcap2 libgpg-error0 libtinfo6'

if ! command -v dpkg-query > /dev/null; then
  echo "SKIPPED: not a Debian system"
  exit 77
fi
needed=$(ldd "$binary" | awk '/=> \// { print $3 }' | while read -r path; do
  path=$(readlink -f "$path")
  dpkg-query -S "$path" 2> /dev/null || dpkg-query -S "${path#/usr}" 2> /dev/null || echo "unowned:$path"
done | sed 's/:.*//' | sort -u | grep -vxF "$(tr ' ' '\n' <<< "$base")")

if [[ ${2:-} == --print ]]; then
  echo "$needed"
  exit 0
fi
if grep -q civetweb <<< "$needed"; then
  echo "the binary links CivetWeb"
  exit 1
fi
if ! difference=$(diff <(grep -v '^#' "$list" | sort -u) <(echo "$needed")); then
  echo "$list does not match $binary ('<': listed for nothing, '>': missing):"
  echo "$difference"
  exit 1
fi
echo "runtime packages: $(wc -l <<< "$needed"), all listed"
