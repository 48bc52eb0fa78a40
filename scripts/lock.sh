#!/usr/bin/env bash
# Renews requirements.lock (everything) and requirements-image.lock (what runs in a cluster): every dependency with its
# hashes, and no registry's name in it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x build/lock/bin/uv ] || { python3 -m venv build/lock && build/lock/bin/pip -q install uv; }
compile() {
  build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    "$@" pyproject.toml scripts/build-requires.txt
}
compile --group dev --group load --output-file requirements.lock
compile --constraint requirements.lock --output-file requirements-image.lock
