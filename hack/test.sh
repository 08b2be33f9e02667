#!/usr/bin/env bash
# Runs every test: format, lints, unit and daemon tests, then cluster tests through real kubectl on a cluster of its own.
# Needs root for network namespaces, mounts, cgroups and nftables. `hack/test.sh quick` leaves the cluster tests out.
set -uo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
state=$PWD/_output/test-cluster

failed=()

step() { printf '\n[test %4ds] %s\n' $((SECONDS - start)) "$1"; }
run() { # name command...
    local name=$1; shift
    step "$name"
    "$@" || { failed+=("$name"); printf '[test] FAILED: %s\n' "$name" >&2; return 1; }
}
finish() {
    if [ ${#failed[@]} -gt 0 ]; then
        printf '\n[test] FAILED after %d s: %s\n' $((SECONDS - start)) "$(IFS=,; echo "${failed[*]}")"
        exit 1
    fi
    printf '\n[test] all tests passed in %d s\n' $((SECONDS - start))
    exit 0
}

[ "$(id -u)" = 0 ] || { echo "error: run as root: the tests make network namespaces, mounts, cgroups and nftables rules" >&2; exit 1; }
run "tools" ./hack/install-tools.sh || finish
run "format" cargo fmt --all --check
run "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
run "unit and daemon tests" cargo test --workspace --quiet
[ "${1:-}" != quick ] || finish
[ ${#failed[@]} -eq 0 ] || finish

run "build" sh -c './hack/build.sh debug >/dev/null' || finish
cluster=_output/bin/debug/cluster

# What a cluster must not leave behind; $1 is its name.
clean() {
    local left=0
    [ ! -e "$state" ] || { echo "left behind: $state"; left=1; }
    ! grep -q "$state" /proc/mounts || { echo "left behind: mounts"; left=1; }
    [ -z "$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$1-*" 2>/dev/null)" ] || { echo "left behind: cgroups"; left=1; }
    ! nft list tables 2>/dev/null | grep -q kube-proxy || { echo "left behind: nft tables in the machine's own namespace"; left=1; }
    ! pgrep -f "$state" >/dev/null || { echo "left behind: processes"; pgrep -af "$state"; left=1; }
    return $left
}
cluster_tests() { # name, test binaries, flags of up...
    local name=$1 tests=$2; shift 2
    [ ! -e "$state" ] || "$cluster" --state "$state" down
    run "cluster up ($name)" "$cluster" --state "$state" up "$@" || { "$cluster" --state "$state" down; return 1; }
    # The prefix of its cgroups, made of the directory: another run beside this one has another.
    local prefix; prefix=$(sed -n 's/^  "name": "\(.*\)",$/\1/p' "$state/state.json")
    local ok=0
    for test in $tests; do
        local threads=3; [ "$test" != chaos ] || threads=1
        CORTEN_CLUSTER=$state run "$test tests ($name)" cargo test --quiet --workspace --test "$test" -- --test-threads=$threads || ok=1
    done
    if [ $ok -ne 0 ]; then
        mkdir -p _output/failed && cp "$state"/logs/*.log _output/failed/ 2>/dev/null
        [ ! -d "$state/nodes/cp/data/var/log/pods" ] || cp -r "$state/nodes/cp/data/var/log/pods" _output/failed/
        for log in "$state"/logs/*.log; do echo "--- ${log##*/}"; grep -E 'WARN|ERROR|panicked' "$log" | tail -n 12 | cut -c1-400; done
    fi
    # A supervisor that died must not keep `down` from its work.
    [ "$name" != etcd ] || "$cluster" --state "$state" status | awk '$1 == "supervisor" && $2 == "pid" {print $3}' | xargs -r kill -9
    run "cluster down ($name)" "$cluster" --state "$state" down
    run "nothing is left behind ($name)" clean "${prefix:?}"
}
cluster_tests "embedded store" "cluster kubelet chaos"
cluster_tests "etcd" "smoke" --etcd
cluster_tests "static pods" "static_pods" --control-plane=static-pods --nodes=1
finish
