#!/usr/bin/env bash
# Measures a cluster of 2 nodes: time to ready nodes, time to 20 Ready pods, and each daemon's memory and processor use
# when idle with those pods. Uses a build that is there (hack/build.sh); needs root. Options are those of `up`.
#   hack/measure.sh [--etcd] [--kube-apiserver=PATH ...]
set -euo pipefail
cd "$(dirname "$0")/.."
state=$PWD/_output/measured-cluster
cluster="_output/bin/${PROFILE:-release}/cluster --state $state"
kubectl="$cluster kubectl"
trap '$cluster down >/dev/null 2>&1 || true' EXIT
idle=${IDLE:-60}

$cluster up --no-dns "$@" | grep '^\['
now() { date +%s.%N; }
$kubectl create deployment idle --image=docker.io/library/busybox:1.36 --replicas=20 --dry-run=client -o json -- sleep infinity |
    sed 's/"resources": {}/"resources": {}, "imagePullPolicy": "IfNotPresent"/' >"$state/idle.json"
start=$(now)
$kubectl apply -f "$state/idle.json" >/dev/null
$kubectl wait deployment/idle --for=jsonpath='{.status.readyReplicas}'=20 --timeout=120s >/dev/null
echo "20 pods Ready after $(awk "BEGIN {printf \"%.2f\", $(now) - $start}") s"

# Field 14 and 15 of /proc/pid/stat are ticks in user and system mode.
ticks() { awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$1/stat"; }
daemons=$($cluster status | awk '$2 == "pid" && $1 !~ /^(containerd|supervisor)/ {print $1 ":" $3}')
echo "waiting $idle s"
for d in $daemons; do echo "$d $(ticks "${d#*:}")"; done >"$state/before"
sleep "$idle"
printf '%-28s %10s %8s\n' daemon 'RSS MB' 'CPU %'
while read -r d before; do
    pid=${d#*:}
    rss=$(awk '/^VmRSS/ {printf "%.1f", $2 / 1024}' "/proc/$pid/status")
    cpu=$(awk "BEGIN {printf \"%.2f\", ($(ticks "$pid") - $before) / $(getconf CLK_TCK) / $idle * 100}")
    printf '%-28s %10s %8s\n' "${d%:*}" "$rss" "$cpu"
done <"$state/before"
