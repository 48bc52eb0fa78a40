#!/usr/bin/env bash
# What the chart's tests need: helm, built from its Go module (3 minutes the first time, then cached), and promtool.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
. scripts/go.sh
debian_install prometheus

version=v4.3.1
cache=$porter_cache/helm-$version
if [ ! -x "$cache/helm" ]; then
  find_go 1.26.0
  echo "building helm $version: 3 minutes, once"
  GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN=$cache "$go" install "helm.sh/helm/v4/cmd/helm@$version"
fi
mkdir -p build
ln -sfn "$cache/helm" build/helm
