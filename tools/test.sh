#!/usr/bin/env bash
# What `make test` runs: build, then every test of the release tree. Ends with ctest's summary.
#   SLUICE_SIM_SEEDS     seeds of the scheduler simulation (1000)
#   SLUICE_FUZZ_SECONDS  seconds per fuzz target (10)
#   SLUICE_JOBS          tests at a time (number of cores)
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR="$PWD"  # clones at other paths share the cache
export SLUICE_SIM_SEEDS="${SLUICE_SIM_SEEDS:-1000}"
export SLUICE_FUZZ_SECONDS="${SLUICE_FUZZ_SECONDS:-10}"

cmake --preset release -DBUILD_TESTING=ON
cmake --build build/release
cmake --preset fuzz
cmake --build build/fuzz --target fuzz_targets
tools/python_env.sh build/venv
exec ctest --test-dir build/release --output-on-failure --no-tests=error \
  --parallel "${SLUICE_JOBS:-$(nproc)}" "$@"
