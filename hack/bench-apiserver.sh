#!/usr/bin/env bash
# Measures kube-apiserver, side by side with upstream's when its path is given: one after the other on loopback, on one etcd
# with the same data, under the same load. Takes 3 to 4 minutes a server. docs/measurements.md says what the figures mean.
#   hack/bench-apiserver.sh [--upstream=PATH] [--embedded] [--only=lists,gets,writes,watches] [--pods=N] [--watches=N]
# BIN is where our programs are (default: _output/bin/release, built when they are missing).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-_output/bin/release}
if [ ! -x "$bin/kube-apiserver" ] || [ ! -x "$bin/bench-apiserver" ]; then hack/build.sh >&2; fi
# A connection per watch, at both ends.
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -Hn)"
etcd=$(command -v _output/tools/etcd || command -v etcd) || { echo "etcd is missing: hack/install-tools.sh" >&2; exit 1; }
exec "$bin/bench-apiserver" --server="$bin/kube-apiserver" --etcd="$etcd" --state="$PWD/_output/bench-apiserver" "$@"
