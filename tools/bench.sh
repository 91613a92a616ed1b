#!/usr/bin/env bash
# What this machine can do, and what Sluice makes of it with the shipped models, in a few minutes.
# With arguments, one `sluice bench` with these: tools/bench.sh --model DIR --baseline DENSE_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
sluice=build/release/sluice
if (($# > 0)); then exec "$sluice" bench "$@"; fi

title() { printf '\n== %s ==\n\n' "$*"; }

title "the machine"
"$sluice" bench machine
for model in tiny-mod tiny-mode tiny-moe tiny-moeut tiny-mor; do
  title "$model against the dense model of as many parameters"
  "$sluice" bench --model "models/$model" --baseline models/tiny-dense --rounds 3
done
title "tiny-moe in 8 bits against bf16"
"$sluice" bench --model models/tiny-moe --weights int8 --baseline-weights bf16 --rounds 3
title "where a step of tiny-mod goes"
"$sluice" bench profile --model models/tiny-mod --batch 8
title "what the server costs, 32 streaming clients"
python3 tools/bench/server_in_loop.py "$sluice" models/tiny-mod
