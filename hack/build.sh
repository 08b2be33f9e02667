#!/usr/bin/env bash
# Builds every program, statically linked, so that each is also an OCI image by itself.
# Usage: hack/build.sh [release|debug]   (default: release). Prints the directory of the programs as its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
flag=(); [ "$profile" = release ] && flag=(--release)
programs=(kube-apiserver kube-controller-manager kube-scheduler cloud-controller-manager kubelet kube-proxy cluster-dns pause grpc-health)

# Libraries once and in parallel, then the programs: linking is all that is left of them.
cargo build "${flag[@]}" --workspace --lib >&2
cargo build "${flag[@]}" -p e2e --bins >&2
for program in "${programs[@]}"; do
    cargo rustc "${flag[@]}" -p "$program" --bin "$program" -- -C target-feature=+crt-static >&2
done
echo "${CARGO_TARGET_DIR:-$PWD/target}/$profile"
