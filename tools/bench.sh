#!/usr/bin/env bash
# The shipped Mixture-of-Depths model against its dense twin, in one run on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
exec build/release/sluice bench --model models/tiny-mod --baseline models/tiny-dense "$@"
