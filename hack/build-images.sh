#!/usr/bin/env bash
# Writes one OCI image archive per component below _output/images, without Docker or any other container daemon.
# Usage: hack/build-images.sh [--no-build] [--programs=DIR] [--output=DIR] [NAME...]
#   NAME           of an image, e.g. kube-apiserver; all of them by default. etcd is this machine's, packed with its libraries
#   --no-build     use the programs that hack/build.sh made before
#   --programs=DIR use the programs in DIR
#   PROFILE=debug uses a debug build; TAG=v1.36 and REPOSITORY=corten.dev name the images
# Import one with: ctr -n k8s.io images import _output/images/kubelet-v1.36.tar
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
tag=${TAG:-v1.36}
repository=${REPOSITORY:-corten.dev}
out=$PWD/_output/images
programs=$PWD/_output/bin/$profile
build=true
all=(kube-apiserver kube-controller-manager kube-scheduler cloud-controller-manager kubelet kube-proxy cluster-dns pause)
[ ! -x /usr/bin/etcd ] || all+=(etcd)
names=()
for argument in "$@"; do
    case "$argument" in
    --no-build) build=false ;;
    --programs=*) programs=${argument#--programs=} build=false ;;
    --output=*) out=${argument#--output=} ;;
    -*) echo "error: unknown argument $argument (see the head of $0)" >&2; exit 1 ;;
    *)
        case " ${all[*]} " in *" $argument "*) ;; *) echo "error: no image $argument; there are ${all[*]}" >&2; exit 1 ;; esac
        names+=("$argument")
        ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")
case "$profile" in release | debug) ;; *) echo "error: PROFILE=$profile is neither release nor debug" >&2; exit 1 ;; esac
mkdir -p "$out" _output

start=$SECONDS
say() { printf '[images %3ds] %s\n' $((SECONDS - start)) "$*"; }
if $build; then
    say "building static programs ($profile)"
    log=$PWD/_output/build-images.log
    if ! ./hack/build.sh "$profile" >/dev/null 2>"$log"; then
        tail -30 "$log" >&2; echo "error: the build failed; all of its output is in $log" >&2; exit 1
    fi
fi
for program in oci-image "${names[@]}"; do
    [ "$program" = etcd ] || [ -x "$programs/$program" ] ||
        { echo "error: $programs/$program is missing: run hack/build.sh $profile" >&2; exit 1; }
done

image() { # archive name, reference, flags of oci-image...
    local name=$1 reference=$2; shift 2
    "$programs/oci-image" --reference="$reference" --output="$out/$name.tar" "$@"
    say "$reference -> $name.tar ($(du -h "$out/$name.tar" | cut -f1))"
}
component() { # program, flags of oci-image...
    local name=$1; shift
    image "$name-$tag" "$repository/$name:$tag" --file="$programs/$name=/usr/local/bin/$name" --entrypoint="/usr/local/bin/$name" "$@"
}
# kube-proxy runs nft and conntrack: this machine's, with the libraries that they need.
kube_proxy() {
    local helpers=() helper path
    for helper in nft conntrack; do
        path=$(PATH=$PATH:/usr/sbin:/sbin command -v $helper) ||
            { echo "error: $helper is missing: kube-proxy's image holds it (hack/install-tools.sh installs it)" >&2; exit 1; }
        helpers+=("--dynamic=$path=/usr/sbin/$helper")
    done
    component kube-proxy "${helpers[@]}"
}

for name in "${names[@]}"; do
    case "$name" in
    kube-proxy) kube_proxy ;;
    # cluster-dns's manifest starts the program by the image's entry point, at the root as in the local cluster.
    cluster-dns) image "cluster-dns-$tag" "$repository/cluster-dns:$tag" --file="$programs/cluster-dns=/cluster-dns" --entrypoint=/cluster-dns ;;
    pause) image pause-3.10.2 registry.k8s.io/pause:3.10.2 --file="$programs/pause=/pause" --entrypoint=/pause --user=65535:65535 ;;
    etcd) image etcd-local "$repository/etcd:local" --dynamic=/usr/bin/etcd=/usr/local/bin/etcd --entrypoint=/usr/local/bin/etcd ;;
    *) component "$name" ;;
    esac
done
say "done: ${#names[@]} archives in $out"
