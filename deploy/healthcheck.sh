#!/bin/bash
# Healthy means ready: the model is loaded and the server is not draining. Asks the metrics listener, which needs no
# key, with bash alone (the image has no HTTP client).
set -eu
exec 3<> "/dev/tcp/127.0.0.1/${SLUICE_METRICS_PORT:-9100}"
printf 'GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[[ $status == 200 ]]
