#!/usr/bin/env bash
# Builds every program, statically linked, so that each is also an OCI image by itself, into _output/bin/PROFILE.
# Usage: hack/build.sh [release|debug]   (default: release). Prints the directory of the programs as its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
flag=(); [ "$profile" = release ] && flag=(--release)
host=$(rustc -vV | sed -n 's/^host: //p')
out=$PWD/_output/bin/$profile

# One selection of all packages: with `-p` each program would choose features of its own and compile most libraries again.
# Naming the target keeps the flag from procedural macros, which can't be static.
cargo build "${flag[@]}" --workspace --exclude '*-daemon-tests' --bins --target "$host" \
    --config "target.$host.rustflags = ['-C', 'target-feature=+crt-static']" >&2
mkdir -p "$out"
find "${CARGO_TARGET_DIR:-$PWD/target}/$host/$profile" -maxdepth 1 -type f -executable -exec cp --remove-destination -t "$out" {} +
echo "$out"
