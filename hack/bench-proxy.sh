#!/usr/bin/env bash
# Measures kube-proxy at 1,000 to 40,000 Services, side by side with upstream's when its path is given: one after the other in
# network namespaces, on one API server that lists and watches. Packets are sent through the rules. Needs root and curl.
#   hack/bench-proxy.sh [--upstream=PATH] [--mode=nftables|iptables] [--sizes=1000x2,10000x50] [--limit=SECONDS]
# BIN is where our kube-proxy is (default: _output/bin/release, built when it is missing). docs/measurements.md has results.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-_output/bin/release}
[ "$(id -u)" = 0 ] || { echo "error: run as root: it makes network namespaces" >&2; exit 1; }
if [ ! -x "$bin/kube-proxy" ]; then hack/build.sh >&2; fi
exec cargo run --quiet -p kube-proxy-daemon-tests --bin bench-proxy -- --ours="$bin/kube-proxy" "$@"
