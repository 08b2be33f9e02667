#!/usr/bin/env bash
# Random node and pod churn with kill -9 of scheduler and API server, on loopback, for so many seconds (default: 1800). Fails when
# a node ever holds more than it can by what the API server stores, or when at the end a pod waits that has a place.
#   hack/soak-scheduler.sh [--seconds=N] [--nodes=N] [--seed=N] [--scheduler=PATH] [--apiserver=PATH]
# BIN is where our programs are (default: _output/bin/release, built when they are missing).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-_output/bin/release}
if [ ! -x "$bin/kube-scheduler" ] || [ ! -x "$bin/soak-scheduler" ]; then hack/build.sh >&2; fi
ours=()
case " $* " in *" --apiserver="*) ;; *) ours+=(--apiserver="$bin/kube-apiserver") ;; esac
case " $* " in *" --scheduler="*) ;; *) ours+=(--scheduler="$bin/kube-scheduler") ;; esac
exec "$bin/soak-scheduler" --state="$PWD/_output/soak-scheduler" "${ours[@]}" "$@"
