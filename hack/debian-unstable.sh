#!/usr/bin/env bash
# Unpacks packages of Debian unstable into a private folder, from this machine's own mirror; installs nothing.
# hack/debian-unstable.sh FOLDER PACKAGE...
set -euo pipefail
folder=$1; shift
apt=$(mktemp -d); trap 'rm -rf "$apt"' EXIT
mkdir -p "$folder" "$apt"/lists/partial "$apt"/cache/archives/partial "$apt"/debs
uri=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '/^URIs:/ {print $2; exit}')
[ -n "$uri" ] || uri=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' /etc/apt/sources.list)
[ -n "$uri" ] || { echo "no Debian mirror in this machine's apt sources" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri unstable main" >"$apt/sources.list"
opts=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$apt/lists"
    -o Dir::Cache="$apt/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root -o Acquire::Retries=3)
cd "$apt/debs"
apt-get "${opts[@]}" update
apt-get "${opts[@]}" download "$@"
for package in *.deb; do dpkg -x "$package" "$folder"; done
