#!/usr/bin/env bash
# What the lab needs beside Python: routers, kernel tools, and the control plane built from its Go modules.
# The build takes 4-6 minutes on 2 cores the first time; the result is cached by the hash of its sources.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
. scripts/go.sh
debian_install curl openssl iproute2 iptables nftables conntrack iputils-ping procps frr bird2 gobgpd ca-certificates

sources=tests/lab/controlplane
key=$(cat $sources/go.mod $sources/go.sum $sources/main.go | sha256sum | cut -c1-16)
cache=$porter_cache/controlplane-$key
if [ ! -x "$cache/kube-apiserver" ]; then
  find_go "$(sed -n 's/^go //p' $sources/go.mod)"
  echo "building the control plane (etcd, kube-apiserver and its controllers, kube-proxy, kubelet, kubectl): 4-6 minutes, once"
  mkdir -p "$cache.tmp"
  version=$(sed -n 's#^\tk8s.io/kubernetes ##p' $sources/go.mod)
  minor=${version#v1.}
  (cd $sources && GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w \
    -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=${minor%%.*}" -o "$cache.tmp/controlplane" .)
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    ln -sf controlplane "$cache.tmp/$name"
  done
  rm -rf "$cache"
  mv "$cache.tmp" "$cache"
fi
mkdir -p build
ln -sfn "$cache" build/controlplane
