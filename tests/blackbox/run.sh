#!/usr/bin/env bash
# Runs one black-box test with the environment that has the foreign clients, where that was made.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="$here/../../build/venv/bin/python"
[[ -x $python ]] || python=/usr/bin/python3
[[ -x $python ]] || python=python3
export PYTHONDONTWRITEBYTECODE=1
exec "$python" "$@"
