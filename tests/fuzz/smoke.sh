#!/usr/bin/env bash
# One bounded run of one fuzz target: smoke.sh BINARY NAME. Replays the seeds beside this file, then mutates for
# SLUICE_FUZZ_SECONDS. A crash, a leak, undefined behaviour, an input that takes over a second, one block of more than
# 256 MiB or 1 GiB in all fails it; the input is kept in build/fuzz/findings. New inputs go to a scratch folder, never
# into the tree.
set -euo pipefail
binary=$1
name=$2
seconds=${SLUICE_FUZZ_SECONDS:-10}
here="$(cd "$(dirname "$0")" && pwd)"

if [[ ! -x $binary ]]; then
  echo "SKIPPED: $binary is not built (cmake --preset fuzz && cmake --build build/fuzz --target fuzz_targets)"
  exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
findings="$(dirname "$binary")/findings"
mkdir -p "$findings" "$here/$name"
options=(-max_total_time="$seconds" -timeout=10 -report_slow_units=1 -malloc_limit_mb=256 -rss_limit_mb=1024
  -max_len=16384
  -print_final_stats=1 -artifact_prefix="$findings/$name-")
# What AddressSanitizer keeps of freed blocks (256 MiB by default) is not the target's memory, nor are the pages that
# half a million short runs leave half empty.
export ASAN_OPTIONS="quarantine_size_mb=64:allocator_release_to_os_interval_ms=200${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
[[ -f $here/$name.dict ]] && options+=(-dict="$here/$name.dict")
"$binary" "${options[@]}" "$scratch" "$here/$name"
