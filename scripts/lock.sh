#!/usr/bin/env bash
# Renews requirements.lock: every dependency with its hashes, and no registry's name in it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x build/lock/bin/uv ] || { python3 -m venv build/lock && build/lock/bin/pip -q install uv; }
build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --group dev --group load --output-file requirements.lock pyproject.toml scripts/build-requires.txt
