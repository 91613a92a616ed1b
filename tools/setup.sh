#!/usr/bin/env bash
# Installs the Debian 12 packages that Sluice needs, and says which. Safe to run again and again: when all of
# a group is there it only looks (well under a second) and changes nothing. Needs root or sudo only to install.
#
#   tools/setup.sh [--list | --dry-run] [build] [cuda] [test] [lint]      (no group: build)
set -euo pipefail

packages_of() {
  case "$1" in
    build) # what compiling and running the server needs
      echo g++ cmake ninja-build ccache pkg-config \
        libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc \
        libboost-dev libssl-dev nlohmann-json3-dev \
        libabsl-dev libspdlog-dev prometheus-cpp-dev \
        libpcre2-dev libutf8proc-dev libdnnl-dev
      ;;
    cuda) # what tools/cuda_toolkit.sh needs where there is no nvcc
      echo python3-venv ca-certificates
      ;;
    test) # on top: test libraries, clang for fuzzing and ThreadSanitizer, Python, checkers of deploy/
      echo libgtest-dev libgmock-dev libbenchmark-dev libsentencepiece-dev clang-14 libclang-rt-14-dev \
        python3 python3-venv ca-certificates prometheus docker-compose
      ;;
    lint) # for `make lint` and `make format`
      echo clang-format-14 clang-tidy-14 shellcheck
      ;;
  esac
}

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "$0"
  exit 64
}

mode=install
groups=()
for argument in "$@"; do
  case "$argument" in
    --list) mode=list ;;
    --dry-run) mode=dry-run ;;
    build | cuda | test | lint) groups+=("$argument") ;;
    *) usage ;;
  esac
done
[[ ${#groups[@]} -gt 0 ]] || groups=(build)

wanted=()
for group in "${groups[@]}"; do
  read -r -a packages <<< "$(packages_of "$group")"
  wanted+=("${packages[@]}")
done

if [[ $mode == list ]]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "setup: this is not a Debian system; install these yourself: ${wanted[*]}" >&2
  exit 0
fi

# One dpkg-query for all packages; a package it does not know, or that is only half there, is missing.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2> /dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qx "$package installed" <<< "$installed" || missing+=("$package")
done

if [[ ${#missing[@]} -eq 0 ]]; then
  echo "setup: all ${#wanted[@]} packages for '${groups[*]}' are installed"
  exit 0
fi
echo "setup: to install with apt-get for '${groups[*]}': ${missing[*]}"
[[ $mode == install ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "setup: run this as root, or install sudo, to install: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

# We want promtool, not a Prometheus service on this machine: nothing may start while packages are installed.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" > /dev/null
  "${as_root[@]}" chmod 0755 "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0)
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}"

if [[ " ${missing[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
  "${as_root[@]}" systemctl disable prometheus.service 2> /dev/null || true
fi
echo "setup: installed ${missing[*]}"
