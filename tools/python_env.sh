#!/usr/bin/env bash
# Makes the Python environment of the black-box tests: tools/python_env.sh DIR. Does nothing when it is up to
# date. Where no package index can be reached it says so and succeeds: the tests that need the packages then
# report themselves skipped.
set -euo pipefail
directory=$1
requirements="$(dirname "$0")/../tests/blackbox/requirements.txt"
stamp="$directory/requirements.installed"

if cmp -s "$requirements" "$stamp"; then
  echo "python: $directory is up to date"
  exit 0
fi
python=/usr/bin/python3
[[ -x $python ]] || python=python3
if ! "$python" -m venv --clear "$directory"; then
  echo "python: cannot make $directory; tests that need it will be skipped"
  exit 0
fi
if "$directory/bin/pip" --disable-pip-version-check install --quiet --timeout 20 --retries 2 \
  --requirement "$requirements"; then
  cp "$requirements" "$stamp"
  echo "python: installed $(grep -cv '^#' "$requirements") packages into $directory"
else
  echo "python: no package index within reach; tests that need these packages will be skipped"
fi
