#!/usr/bin/env bash
# Builds build/release/sluice, and nothing else, with what is installed: `tools/build.sh cuda` builds build/cuda/sluice,
# which also runs on NVIDIA GPUs. Test libraries are not needed: a tree that is configured here for the first time is
# configured without tests; `make test` turns them on.
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR="$PWD"  # clones at other paths share the cache

preset=${1:-release}
if [[ ! -f build/$preset/build.ninja ]]; then
  options=(-DBUILD_TESTING=OFF)
  [[ $preset != cuda ]] || options+=(-DCMAKE_CUDA_COMPILER="$(tools/cuda_toolkit.sh)")
  cmake --preset "$preset" "${options[@]}"
fi
cmake --build "build/$preset" --target sluice
