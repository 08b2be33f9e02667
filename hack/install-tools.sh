#!/usr/bin/env bash
# Installs what building Corten and running a local cluster need, on Debian 12, as root. Does nothing when all is there.
# kubectl of the target release comes from Debian unstable, unpacked beside the build output and never installed; so do the other
# clients of the tests (hack/install-clients.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/_output/tools
mkdir -p "$out"

say() { printf '[tools] %s\n' "$*"; }
die() { printf '[tools] error: %s\n' "$*" >&2; exit 1; }

# package:a file that it brings
wanted=(
    protobuf-compiler:/usr/bin/protoc libprotobuf-dev:/usr/include/google/protobuf/descriptor.proto gcc:/usr/bin/gcc openssl:/usr/bin/openssl containerd:/usr/bin/containerd runc:/usr/sbin/runc
    containernetworking-plugins:/usr/lib/cni/ptp nftables:/usr/sbin/nft iptables:/usr/sbin/iptables conntrack:/usr/sbin/conntrack
    iproute2:/usr/bin/ip util-linux:/usr/bin/nsenter busybox-static:/bin/busybox etcd-server:/usr/bin/etcd
    ca-certificates:/etc/ssl/certs curl:/usr/bin/curl mount:/usr/bin/mount procps:/usr/bin/pgrep socat:/usr/bin/socat
)
# The clients' virtual environment.
python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3:/none python3-venv:/none)
missing=()
for w in "${wanted[@]}"; do [ -e "${w#*:}" ] || missing+=("${w%%:*}"); done

command -v cargo >/dev/null || die "cargo is not on PATH: install Rust 1.95 or newer (rustup.rs)"

if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "not root, and these packages are missing: ${missing[*]}"
    say "installing ${missing[*]}"
    # A Debian service that starts on installation would run a second containerd or etcd beside ours.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$out/apt.log" 2>&1 ||
        { tail -5 "$out/apt.log" >&2; die "apt-get install failed"; }
fi

# Not a pipe to `grep -q`: that may end before kubectl has said all, and with pipefail the broken pipe counts.
kubectl_is_current() { [[ "$("$1" version --client 2>/dev/null)" == *"Client Version: v1.36."* ]]; }
if ! kubectl_is_current "$out/kubectl"; then
    if command -v kubectl >/dev/null && kubectl_is_current "$(command -v kubectl)"; then
        ln -sfn "$(command -v kubectl)" "$out/kubectl"
    else
        say "fetching kubectl 1.36 from Debian unstable"
        rm -rf "$out/apt"
        ./hack/debian-unstable.sh "$out/apt" kubectl || die "could not fetch kubectl from Debian unstable"
        mv "$out/apt/usr/bin/kubectl" "$out/kubectl" && rm -rf "$out/apt"
        kubectl_is_current "$out/kubectl" || die "Debian unstable's kubectl is not 1.36 any more; put kubectl 1.36 on PATH"
    fi
fi
# Tests of clients that could not be had are skipped and say so; in CI they fail.
./hack/install-clients.sh || say "warning: not all clients could be installed; their tests will be skipped, or fail in CI"
say "ready"
