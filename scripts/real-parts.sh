#!/usr/bin/env bash
# What real nodes need beside lab-parts.sh and chart-parts.sh: containerd, built from its Go module (2 minutes the first
# time, then cached), runc, CNI plugins, the pause image and our own image.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
. scripts/go.sh
debian_install podman runc containernetworking-plugins

version=v2.2.9
cache=$porter_cache/containerd-$version
if [ ! -x "$cache/ctr" ]; then
  find_go 1.26.0
  echo "building containerd $version: 2 minutes, once"
  GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN=$cache "$go" install -tags no_btrfs,no_zfs,no_devmapper,no_aufs \
    "github.com/containerd/containerd/v2/cmd/"{containerd,containerd-shim-runc-v2,ctr}"@$version"
fi
pause=$porter_cache/pause-$(sha256sum <tests/lab/pause/main.go | cut -c1-16).tar
if [ ! -f "$pause" ]; then
  find_go 1.26.0
  work=$(mktemp -d)
  (cd tests/lab/pause && GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build -buildvcs=false -trimpath -ldflags '-s -w' -o "$work/root/pause" main.go)
  tar -C "$work/root" -cf "$work/root.tar" pause
  run() { podman --storage-driver=vfs --root "$work/podman" --runroot "$work/podman-run" "$@"; }
  run import --change 'ENTRYPOINT ["/pause"]' "$work/root.tar" porter-ha.lab/pause:1 >/dev/null
  run save --quiet --output "$pause" porter-ha.lab/pause:1
  run rmi --all --force >/dev/null
  rm -rf "$work"
fi
mkdir -p build
ln -sfn "$cache" build/containerd
ln -sfn "$pause" build/pause.tar
scripts/image.sh
