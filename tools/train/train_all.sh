#!/usr/bin/env bash
# Trains, exports and measures the models one after another: train_all.sh WORK [MODEL...]
# Continues what was begun. Environment: CORPORA (children-books.{train,valid}.txt.zst), SCALE=tiny|gpu (default: gpu
# where there is a CUDA device), PYTHON, STEPS (stop each after so many: a dry run), MINUTES (of training per model and call).
# Writes WORK/SCALE/MODEL/{checkpoint.pt,loss_curve.csv,log} and the served directory WORK/SCALE/models/tiny-MODEL.
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,6p' "$0"; exit 64; }
mkdir -p "$1"
work=$(cd "$1" && pwd)
shift
python=${PYTHON:-python3}
cd "$(dirname "$0")"
scale=${SCALE:-$("$python" -c 'import torch; print("gpu" if torch.cuda.is_available() else "tiny")')}
models=("$@")
[[ $# -gt 0 ]] || models=(dense mod moe moeut mor mod-predictor mode dense-5)
windows=$([[ ${STEPS:-0} -gt 0 ]] && echo 8 || echo 256)
tokenizer=../../models/tiny-dense

for split in valid train; do
  [[ -e $work/$split.bytes ]] || "$python" data.py --tokenizer "$tokenizer/tokenizer.json" --out "$work/$split" \
    "${CORPORA:?}/children-books.$split.txt.zst"
done

for model in "${models[@]}"; do
  config=configs/$scale-$model.json
  run=$work/$scale/$model
  out=$work/$scale/models/tiny-$model
  mkdir -p "$run"
  echo "$scale-$model"
  "$python" train.py "$config" --train "$work/train.npy" --valid "$work/valid.npy" --out "$run" \
    --steps "${STEPS:-0}" --minutes "${MINUTES:-1e9}" 2>&1 | tee -a "$run/log"
  "$python" export.py "$config" --run "$run" --tokenizer "$tokenizer" --train "$work/train.npy" --valid "$work/valid.npy" \
    --windows "$windows" --out "$out"
  "$python" evaluate.py "$out" --valid "$work/valid.npy" --batches 4 | tee "$run/evaluation"
done
