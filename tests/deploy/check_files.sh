#!/usr/bin/env bash
# Static checks of docker-compose.yml, the Prometheus files and the dashboard: promtool, docker-compose config, and the
# hardening that the compose file promises.
set -euo pipefail
cd "$(dirname "$0")/../.."
checked=0

if command -v promtool > /dev/null; then
  promtool check config deploy/prometheus.yml
  promtool check rules deploy/prometheus/rules/*.yml
  promtool test rules tests/deploy/rules_test.yml
  checked=1
else
  echo "SKIPPED: promtool is not installed (Debian package prometheus)"
fi

if command -v docker-compose > /dev/null; then
  config=$(docker-compose --profile cuda config)
  for promise in 'read_only: true' '- ALL' 'no-new-privileges:true' 'stop_grace_period: 40s' \
    'condition: service_healthy' 'internal: true' 'healthcheck.sh'; do
    grep -q -- "$promise" <<< "$config" || { echo "docker-compose.yml lost: $promise"; exit 1; }
  done
  # The server on a GPU: only when it is asked for, as hardened as the other one, built with CUDA, with a device.
  gpu=$(awk '/^  [a-z-]+:$/ { inside = $1 == "server-gpu:" } inside' <<< "$config")
  for promise in 'profiles:' '- cuda' 'PRESET: cuda' 'SLUICE_DEVICE: cuda' 'driver: nvidia' 'read_only: true' '- ALL' \
    'no-new-privileges:true' 'healthcheck.sh'; do
    grep -q -- "$promise" <<< "$gpu" || { echo "docker-compose.yml: server-gpu lost: $promise"; exit 1; }
  done
  # Every published port is on loopback.
  if grep -E '^ *- [0-9"]' <<< "$config" | grep -E ':[0-9]+' | grep -vq '127\.0\.0\.1:'; then
    echo "docker-compose.yml publishes a port on another address than loopback"
    exit 1
  fi
  checked=1
else
  echo "SKIPPED: docker-compose is not installed"
fi

grep -q '^USER 10001' deploy/Dockerfile
# The image is built from what .dockerignore lets through.
while read -r path; do
  grep -qx "!$path" .dockerignore || { echo ".dockerignore keeps $path from the image"; exit 1; }
done < <(grep -E '^COPY [^-]' deploy/Dockerfile | tr ' ' '\n' | grep -E '^(tools|deploy)/.+|^LICENSE')
# The dashboard and the rules name only metrics of the interface.
known=$(grep -v '^#' tests/deploy/metric_names.txt)
used=$(grep -ohE '\bsluice_[a-z_]+' deploy/grafana/dashboard.json deploy/prometheus/rules/*.yml | sort -u)
for name in $used; do
  base=${name%_bucket}
  base=${base%_sum}
  base=${base%_count}
  grep -qx "$name" <<< "$known" || grep -qx "$base" <<< "$known" \
    || { echo "unknown metric in deploy/: $name"; exit 1; }
done
[[ $checked == 1 ]] || exit 77
echo "deploy files: fine"
