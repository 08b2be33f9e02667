#!/usr/bin/env bash
# Measures kube-scheduler, side by side with upstream's when its path is given, under upstream's scheduler_perf workloads: each on
# an API server of its own with hollow nodes, on loopback. The whole takes long; --scale=0.1 makes it a tenth.
# docs/measurements.md says what the figures mean.
#   hack/bench-scheduler.sh [--upstream=PATH] [--apiserver=PATH] [--etcd=PATH] [--scale=N] [--only=WORKLOAD,...] [--backlog]
# BIN is where our programs are (default: _output/bin/release, built when they are missing).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-_output/bin/release}
if [ ! -x "$bin/kube-scheduler" ] || [ ! -x "$bin/bench-scheduler" ]; then hack/build.sh >&2; fi
ours=()
case " $* " in *" --apiserver="*) ;; *) ours+=(--apiserver="$bin/kube-apiserver") ;; esac
# Claims are made from templates by a controller.
if [ -x "$bin/kube-controller-manager" ]; then ours+=(--controllers="$bin/kube-controller-manager"); fi
exec "$bin/bench-scheduler" --scheduler="$bin/kube-scheduler" --state="$PWD/_output/bench-scheduler" "${ours[@]}" "$@"
