#!/usr/bin/env bash
# Fuzzes every decoder and parser of bytes from outside, each for some seconds; ends with 1 when one finds something, which is
# then in <crate>/fuzz/artifacts. Needs cargo-fuzz (cargo install cargo-fuzz); no nightly compiler.
# hack/fuzz.sh [SECONDS] [CRATE...]
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}; shift || true
[ $# -gt 0 ] || set -- common kube-apiserver kubelet
found=()
for crate in "$@"; do
    for target in "$crate"/fuzz/fuzz_targets/*.rs; do
        target=$(basename "$target" .rs)
        echo "[fuzz] $crate $target for $seconds s"
        (cd "$crate" && cargo fuzz run --sanitizer none --strip-dead-code "$target" -- -max_total_time="$seconds" -timeout=20 \
            -rss_limit_mb=2048 -print_final_stats=1) || found+=("$crate/$target")
    done
done
[ ${#found[@]} -eq 0 ] || { echo "[fuzz] found something: ${found[*]}"; exit 1; }
