#!/usr/bin/env bash
# Builds build/release/sluice, and nothing else, with what is installed. Test libraries are not needed: a tree
# that is configured here for the first time is configured without tests; `make test` turns them on.
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR="$PWD"  # clones at other paths share the cache

if [[ ! -f build/release/build.ninja ]]; then
  cmake --preset release -DBUILD_TESTING=OFF
fi
cmake --build build/release --target sluice
