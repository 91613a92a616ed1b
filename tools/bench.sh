#!/usr/bin/env bash
# What this machine can do, and what Sluice makes of it with the shipped models, in a few minutes; a plot of
# each pair in build/bench-MODEL.svg.
# With arguments, one `sluice bench` with these: of tiny-mod against tiny-dense where they name no --model.
set -euo pipefail
cd "$(dirname "$0")/.."
sluice=build/release/sluice
if (($# > 0)); then
  models=(--model models/tiny-mod --baseline models/tiny-dense)
  if [[ " $*" == *" --model"* ]]; then models=(); fi
  exec "$sluice" bench "${models[@]}" "$@"
fi

title() { printf '\n== %s ==\n\n' "$*"; }

title "the machine"
"$sluice" bench machine
for pair in tiny-mod:tiny-dense tiny-mode:tiny-dense tiny-moe:tiny-dense tiny-moeut:tiny-dense tiny-mor:tiny-dense-5; do
  title "${pair%:*} against ${pair#*:}"
  "$sluice" bench --model "models/${pair%:*}" --baseline "models/${pair#*:}" --rounds 3 --plot "build/bench-${pair%:*}.svg"
done
title "tiny-moe in 8 bits against bf16"
"$sluice" bench --model models/tiny-moe --weights int8 --baseline-weights bf16 --rounds 3
title "where a step of tiny-mod goes"
"$sluice" bench profile --model models/tiny-mod --batch 8
title "what the server costs, 32 streaming clients"
python3 tools/bench/server_in_loop.py "$sluice" models/tiny-mod
