#!/usr/bin/env bash
# The container's conditions without a container: hardened_run.sh BINARY starts the server as an unprivileged user with
# no capabilities and no way to gain any, on a read-only root with a small /tmp, and it must become ready, answer, and
# stop with 0. deploy/healthcheck.sh is what looks whether it is ready. Needs root; skips without.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$1

if [[ $(id -u) -ne 0 ]] || ! unshare --mount true 2> /dev/null; then
  echo "SKIPPED: needs root and mount namespaces"
  exit 77
fi
port=$((20000 + RANDOM % 10000))
export SLUICE_METRICS_PORT=$((port + 2))
log=$(mktemp)
work=$(mktemp -d)
chmod 0755 "$work"
# What the server reads lies where any user may read it, as in an image.
cp "$binary" "$work/sluice"
cp -r models/tiny-mod "$work/model"
chmod -R a+rX "$work"

# shellcheck disable=SC2016  # expanded inside the namespace
unshare --mount --propagation private bash -euc '
  mkdir -p "$1/root" && mount --bind / "$1/root" && mount --bind "$1" "$1/root/mnt"
  mount -o remount,bind,ro "$1/root" && mount -t tmpfs -o size=16m,noexec tmpfs "$1/root/tmp"
  mount -o remount,bind,ro "$1/root/mnt" && mount --rbind /proc "$1/root/proc" && mount --rbind /dev "$1/root/dev"
  mount --rbind /sys "$1/root/sys"
  exec chroot "$1/root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all /mnt/sluice serve --model /mnt/model --port "$2" \
    --grpc-port "$(($2 + 1))" --metrics-port "$(($2 + 2))"' bash "$work" "$port" > "$log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true; rm -rf "$log" "$work"' EXIT

for _ in $(seq 200); do
  if deploy/healthcheck.sh 2> /dev/null; then
    break
  fi
  if ! kill -0 "$server" 2> /dev/null; then
    cat "$log"
    echo "the server did not start under these conditions"
    exit 1
  fi
  sleep 0.05
done
deploy/healthcheck.sh

grep -q '^CapEff:.*0000000000000000$' "/proc/$server/status"
grep -q '^NoNewPrivs:.*1$' "/proc/$server/status"
body='{"prompt":"Once upon a time","max_tokens":8}'
exec 3<> "/dev/tcp/127.0.0.1/$port"
printf 'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
  "${#body}" "$body" >&3
answer=$(cat <&3)
grep -q '"text_completion"' <<< "$answer" || { echo "$answer"; exit 1; }

kill -TERM "$server"
wait "$server"
if SLUICE_METRICS_PORT=$port deploy/healthcheck.sh 2> /dev/null; then
  echo "the health check passes without a server"
  exit 1
fi
echo "hardened run: fine"
