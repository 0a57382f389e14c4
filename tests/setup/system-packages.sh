#!/usr/bin/env bash
# Programs that integration tests run beside raftkv: redis-cli and redis-benchmark must work against it
# unchanged, redis-server is the reference for replies; chaos/power is compiled. Installs only what is missing.
#
#   tests/setup/system-packages.sh            what the tests need
#   tests/setup/system-packages.sh --bench    also what `make bench` compares with, and builds with
set -euo pipefail

wanted="redis-server:redis-server redis-cli:redis-tools redis-benchmark:redis-tools gcc:gcc"
sources=""
if [ "${1:-}" = --bench ]; then
  wanted="$wanted etcd:etcd-server go:golang-go"
  sources="golang-etcd-server-dev"
fi

missing=""
for pair in $wanted; do
  command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
for package in $sources; do
  [ -d /usr/share/gocode/src/go.etcd.io/etcd/clientv3 ] || missing="$missing $package"
done
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "Please install these Debian packages, or what they are called on this system:$missing" >&2
  exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "Please install as root: apt-get install$missing" >&2; exit 1; }
  sudo=sudo
fi

# Debian starts a service that it installs; tests start their own servers on ports of their own. A policy file
# that forbids it during this installation is Debian's documented way.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap '$sudo rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
  $sudo chmod +x "$policy"
fi
echo "installing:$missing"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
