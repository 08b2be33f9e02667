#!/usr/bin/env bash
# Compares what upstream's kube-apiserver and ours make of the same data in etcd: each in turn writes an object of every kind, then
# both read everything. Once in plain and once per provider of encryption at rest. Ends with 1 when any object differs.
# hack/compare-apiserver.sh --upstream=PATH [--ours=PATH]
set -euo pipefail
cd "$(dirname "$0")/.."
upstream= ours=$PWD/_output/bin/debug/kube-apiserver
for argument in "$@"; do
    case $argument in
    --upstream=*) upstream=${argument#*=} ;;
    --ours=*) ours=${argument#*=} ;;
    *) echo "unknown argument: $argument" >&2; exit 2 ;;
    esac
done
[ -x "$upstream" ] || { echo "usage: $0 --upstream=PATH [--ours=PATH]" >&2; exit 2; }
[ -x "$ours" ] || { echo "$ours is not there: run hack/build.sh, or say --ours=PATH" >&2; exit 2; }
objects=$PWD/kube-apiserver/tests/clients/objects.yaml
compare=$PWD/hack/compare-objects.py
kubectl=$PWD/_output/tools/kubectl
work=$(mktemp -d)
pids=()
# At once: nothing is kept, and a server whose etcd is gone would wait for it.
stop() { for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; pids=(); }
trap 'stop; rm -rf "$work"' EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

cd "$work"
openssl ecparam -name prime256v1 -genkey -noout -out sa.key 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 2 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1,DNS:localhost 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" >tokens.csv

provider() { # name
    local key; key=$(printf 'compare-apiserver-32-bytes-long!' | base64)
    printf 'apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n'
    printf -- '- resources: [secrets, configmaps, leases.coordination.k8s.io]\n  providers:\n  - %s: {keys: [{name: k, secret: %s}]}\n  - identity: {}\n' "$1" "$key"
}
serve() { # program, port, flags...
    local program=$1 port=$2; shift 2
    "$program" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$port" --tls-cert-file=tls.crt \
        --tls-private-key-file=tls.key --token-auth-file=tokens.csv --service-account-key-file=sa.key \
        --service-account-signing-key-file=sa.key --service-account-issuer=https://kubernetes.default.svc \
        --authorization-mode=Node,RBAC --service-cluster-ip-range=10.96.0.0/16 --etcd-servers="http://127.0.0.1:$etcd" "$@" \
        >"${program##*/}-$port.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 600); do
        ! curl -sf --cacert tls.crt -H "Authorization: Bearer $token" "https://127.0.0.1:$port/readyz" >/dev/null || return 0
        sleep 0.2
    done
    echo "$program is not ready:" >&2; tail -5 "${program##*/}-$port.log" >&2; return 1
}

failed=0
for encryption in none aescbc aesgcm secretbox; do
    flags=()
    [ $encryption = none ] || { provider $encryption >"$encryption.yaml"; flags=(--encryption-provider-config="$work/$encryption.yaml"); }
    for writer in "$upstream" "$ours"; do
        reader=$ours; [ "$writer" != "$ours" ] || reader=$upstream
        etcd=$(port); peers=$(port); rm -rf etcd
        etcd --data-dir etcd --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
            --listen-peer-urls "http://127.0.0.1:$peers" --initial-advertise-peer-urls "http://127.0.0.1:$peers" \
            --initial-cluster "default=http://127.0.0.1:$peers" --log-level error >etcd.log 2>&1 &
        pids+=($!)
        one=$(port); serve "$writer" "$one" "${flags[@]}"
        "$kubectl" --kubeconfig=/dev/null --server="https://127.0.0.1:$one" --certificate-authority=tls.crt --token="$token" \
            apply --validate=strict -f "$objects" >apply.log 2>&1 || { cat apply.log; failed=1; }
        two=$(port); serve "$reader" "$two" "${flags[@]}"
        names=(upstream ours); ports=("$one" "$two"); [ "$writer" = "$upstream" ] || ports=("$two" "$one")
        echo "[compare] encryption: $encryption, written by $([ "$writer" = "$ours" ] && echo "${names[1]}" || echo "${names[0]}")"
        TOKEN=$token python3 "$compare" "${ports[@]}" || failed=1
        stop
    done
done
exit $failed
