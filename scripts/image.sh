#!/usr/bin/env bash
# Builds the image with podman, from a Debian base made on this machine: no engine, no registry of images.
# Usage: scripts/image.sh [TAG]; then build/image.tar is an archive for `ctr images import` or `podman load`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
. scripts/go.sh
debian_install podman mmdebstrap runc

tag=${1:-ghcr.io/porter-ha/porter-ha:$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
rootfs=$porter_cache/base-$suite.tar
if [ ! -f "$rootfs" ]; then
  echo "making a base image of Debian $suite"
  sources=(/etc/apt/sources.list.d/debian.sources)
  [ -f "${sources[0]}" ] || sources=(/etc/apt/sources.list)
  mkdir -p "$porter_cache"
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$rootfs.new.tar" "${sources[@]}"
  mv "$rootfs.new.tar" "$rootfs"
fi
run() { podman --storage-driver=vfs --root "$PWD/build/podman" --runroot "$PWD/build/podman-run" "$@"; }
run image exists localhost/porter-base || run import "$rootfs" localhost/porter-base >/dev/null
mounts=() # where this machine's pip gets things from, and whom it trusts
for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
  [ ! -f $file ] || mounts+=(-v "$file:$file:ro")
done
run build --quiet --isolation=chroot --network=host --build-arg BASE=localhost/porter-base "${mounts[@]}" --tag "$tag" .
rm -f build/image.tar
run save --quiet --output build/image.tar "$tag"
base=$(stat -c %s "$rootfs")
echo "$tag: $(($(stat -c %s build/image.tar) / 1000000)) MB, of which the base is $((base / 1000000)) MB"
