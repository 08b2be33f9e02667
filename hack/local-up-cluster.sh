#!/usr/bin/env bash
# A Kubernetes cluster on this machine, all of it ours: nodes are network namespaces with real containerd and runc.
#   hack/local-up-cluster.sh [up [--nodes=N] [--etcd] [--kubelet=PATH ...]]    hack/local-up-cluster.sh up --help tells all
#   hack/local-up-cluster.sh kubectl ARGUMENTS...
#   hack/local-up-cluster.sh status | logs DAEMON | kill DAEMON | restart DAEMON | exec NODE COMMAND... | down
# PROFILE=debug uses a debug build.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
profile=${PROFILE:-release}
cluster=$here/_output/bin/$profile/cluster

case "${1:-up}" in
up | -*)
    [ "$(id -u)" = 0 ] || { echo "error: run as root: a cluster needs network namespaces, mounts and cgroups" >&2; exit 1; }
    "$here/hack/install-tools.sh"
    echo "[build] building (the first time takes some minutes)"
    start=$SECONDS
    log=$here/_output/build.log; mkdir -p "$here/_output"
    if ! "$here/hack/build.sh" "$profile" >/dev/null 2>"$log"; then
        tail -30 "$log" >&2; echo "error: the build failed; all of its output is in $log" >&2; exit 1
    fi
    echo "[build] done in $((SECONDS - start)) s"
    [ $# -gt 0 ] || set -- up
    case "$1" in -*) set -- up "$@";; esac
    ;;
*)
    [ -x "$cluster" ] || { echo "error: no build here: run $0 up first" >&2; exit 1; }
    ;;
esac
exec "$cluster" "$@"
